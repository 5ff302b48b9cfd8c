"""Who runs what, and when: one request's pipeline, the models in memory, their queues and threads."""
