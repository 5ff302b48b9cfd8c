"""The server's own service in this process, asked without a socket."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path

from immich_ml_cn.api.immich import parse_entries, read_tasks
from immich_ml_cn.service import Service
from immich_ml_cn.settings import Settings

from .requests import Task


def settings_for(cache: Path, environ: Mapping[str, str]) -> Settings:
    """The defaults, except that nothing is fetched and no model is unloaded.

    Args:
        cache: the models' folder.
        environ: settings beyond these.
    """
    base = {"MACHINE_LEARNING_CACHE_FOLDER": str(cache), "MACHINE_LEARNING_MODEL_TTL": "0", "HF_HUB_OFFLINE": "1"}
    return Settings.from_env({**base, **environ})


async def answer(service: Service, task: Task, given: bytes | str) -> None:
    """Answer one request of a task, on an encoded picture or a query."""
    image, text = (given, None) if isinstance(given, bytes) else (None, given)
    await service.pipeline.predict(read_tasks(parse_entries(json.dumps(task.entries))), image, text)


def give_up(reason: str) -> None:
    """What a service calls where only a new process helps.

    Raises:
        SystemExit: always.
    """
    raise SystemExit(f"{threading.current_thread().name}: {reason}")
