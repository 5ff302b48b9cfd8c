"""What the first request after a pause costs, whose models were unloaded meanwhile."""

import time
from typing import Final

from .requests import Task
from .server import Server

UNLOADING: Final = {"MACHINE_LEARNING_MODEL_TTL": "1", "MACHINE_LEARNING_MODEL_TTL_POLL_S": "0.2"}
"""Settings under which a pause is a second."""

_PATIENCE_S: Final = 30.0


def seconds_after_pause(server: Server, task: Task) -> float:
    """How much longer an answer takes than the next, once a server with `UNLOADING` has unloaded all its models.

    Raises:
        RuntimeError: it does not unload them.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while any(model["state"] != "absent" for model in server.status()["models"].values()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server.name} does not unload its models")
        time.sleep(0.1)
    return _seconds(server, task) - _seconds(server, task)


def _seconds(server: Server, task: Task) -> float:
    begun = time.perf_counter()
    server.answer(task)
    return time.perf_counter() - begun
