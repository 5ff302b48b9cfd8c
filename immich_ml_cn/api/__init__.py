"""The protocols that are spoken: Immich's and MT Photos' wire formats, and another server behind ours."""
