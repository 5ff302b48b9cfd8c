"""The models that a run of the server used, kept in the cache folder for the next one's start."""

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from .tasks import ClipTextual, ClipVisual, FaceTask, OcrTask, Tasks

logger = logging.getLogger(__name__)

FILE: Final = "recent-models.json"

MAX_USES: Final = 8
"""Kinds of task and models that are kept: Immich has four at a time."""

_MAX_BYTES: Final = 16_384

Use: TypeAlias = tuple[str, ...]
"""The label of a task, and the names of its models."""

_TASKS: Final[Mapping[str, Callable[..., Tasks]]] = MappingProxyType(
    {
        ClipVisual.label: lambda model: Tasks(visual=ClipVisual(model)),
        ClipTextual.label: lambda model: Tasks(textual=ClipTextual(model)),
        FaceTask.label: lambda detection, recognition=None: Tasks(faces=FaceTask(detection, recognition)),
        OcrTask.label: lambda detection, recognition=None: Tasks(ocr=OcrTask(detection, recognition)),
    }
)


class RecentModels:
    """Counts what is asked for, and reads what the last run counted.

    Its file is gone while that is being loaded: a process that dies of it, as it does where memory is short, is not
    started into the same again.
    """

    def __init__(self, cache: Path) -> None:
        """
        Args:
            cache: the cache folder; where it cannot be written, nothing is kept.
        """
        self._file = cache / FILE
        self._counts: Counter[Use] = Counter()
        self._previous: list[Use] = []

    def count(self, tasks: Tasks) -> bool:
        """Count an answered request; True if it used something for the first time in this run."""
        uses = list(_uses(tasks))
        new = any(use not in self._counts for use in uses)
        self._counts.update(uses)
        return new

    def take(self) -> list[Tasks]:
        """What the last run used, one task each, the most used first; the file is deleted. Blocks.

        Nothing where the file cannot be read or deleted.
        """
        try:
            with self._file.open("rb") as file:
                data = file.read(_MAX_BYTES)
            self._file.unlink()
            found = {use: _task(use) for use in map(tuple, json.loads(data)[:MAX_USES])}
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.debug("%s is not used: %r", self._file, error)
            return []
        self._previous = list(found)
        return list(found.values())

    def save(self) -> None:
        """Write what this run used, the most used first; then what the last one used for other tasks. Blocks."""
        uses = [use for use, _ in self._counts.most_common()]
        tasks = {label for label, *_ in uses}
        uses += [use for use in self._previous if use[0] not in tasks]
        if not uses:
            return
        part = self._file.with_name(f".{FILE}.{os.getpid()}-{threading.get_ident()}")
        try:
            part.write_text(json.dumps(uses[:MAX_USES], ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(self._file)
        except OSError as error:
            logger.debug("%s is not written: %s", self._file, error)
            with suppress(OSError):
                part.unlink()


def _uses(tasks: Tasks) -> Iterator[Use]:
    for clip in (tasks.visual, tasks.textual):
        if clip is not None:
            yield clip.label, clip.model
    for pair in (tasks.faces, tasks.ocr):
        if pair is not None:
            yield pair.label, pair.detection, *([pair.recognition] if pair.recognition else [])


def _task(use: tuple[Any, ...]) -> Tasks:
    """
    Raises:
        TypeError, KeyError, ValueError: it is nothing that `RecentModels.save` writes.
    """
    label, *models = use
    return _TASKS[label](*map(str, models))
