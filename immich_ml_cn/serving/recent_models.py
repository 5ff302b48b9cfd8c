"""The models that a run of the server used, kept in the cache folder for the next one's start.

The first start has no such run, but often models: of Immich's own service, or fetched on the command line. Where
there is one of a kind, it is taken for used.
"""

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from immich_ml_cn.sources.tasks import Component, ModelTask

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

_COMPONENTS: Final[Mapping[str, tuple[ModelTask, Component]]] = MappingProxyType(
    {
        ClipTextual.label: (ModelTask.CLIP, Component.TEXTUAL),
        ClipVisual.label: (ModelTask.CLIP, Component.VISUAL),
        FaceTask.label: (ModelTask.FACES, Component.RECOGNITION),
        OcrTask.label: (ModelTask.OCR, Component.RECOGNITION),
    }
)
"""The last component that a task needs, by the task's label."""


class RecentModels:
    """Counts what is asked for, and reads what the last run counted.

    The file is emptied before its models are loaded: a process that dies of loading them, as it does where memory is
    short, does not try that again after its restart.
    """

    def __init__(self, cache: Path, *, forwarded: Collection[ModelTask] = ()) -> None:
        """
        Args:
            cache: the cache folder; where it cannot be written, nothing is kept.
            forwarded: tasks that another server does: their models are left out.
        """
        self._file = cache / FILE
        self._forwarded = forwarded
        self._counts: Counter[Use] = Counter()
        self._previous: list[Use] = []
        self._is_first = False

    def count(self, tasks: Tasks) -> bool:
        """Count an answered request; True if it used something for the first time in this run."""
        uses = list(_uses(tasks))
        new = any(use not in self._counts for use in uses)
        self._counts.update(uses)
        return new

    def take(self) -> list[Tasks]:
        """What the last run used, one task each, the most used first; its file is emptied. Blocks.

        Of a folder that no run has used, the models that are the only ones of their kind; nothing where the file cannot
        be read or written.
        """
        try:
            self._is_first = not self._file.exists()
            uses = list(_only_models(self._file.parent)) if self._is_first else self._read()[:MAX_USES]
            uses = [use for use in uses if _model_task(use) not in self._forwarded]
            found = {use: _task(use) for use in uses}
            if found:
                self._write([])
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.debug("%s is not used: %r", self._file, error)
            return []
        self._previous = [] if self._is_first else uses
        return list(found.values())

    def save(self) -> None:
        """Write what this run used, the most used first; then what the last one used for other tasks. Blocks.

        After a first run that used nothing the next one is the first.
        """
        uses = [use for use, _ in self._counts.most_common()]
        tasks = {label for label, *_ in uses}
        uses += [use for use in self._previous if use[0] not in tasks]
        try:
            if uses:
                self._write(uses[:MAX_USES])
            elif self._is_first:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("%s is not written: %s", self._file, error)

    def _read(self) -> list[Use]:
        """
        Raises:
            OSError, ValueError, TypeError: the file cannot be read, or is none of ours.
        """
        with self._file.open("rb") as file:
            return list(map(tuple, json.loads(file.read(_MAX_BYTES))))

    def _write(self, uses: Sequence[Use]) -> None:
        """
        Raises:
            OSError: the disk refuses.
        """
        part = self._file.with_name(f".{FILE}.{os.getpid()}-{threading.get_ident()}")
        try:
            part.write_text(json.dumps(uses, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(self._file)
        finally:
            part.unlink(missing_ok=True)


def _only_models(cache: Path) -> Iterator[Use]:
    """The use of each model in the cache folder that is the only one of its kind."""
    for label, (task, component) in _COMPONENTS.items():
        models = {file.parts[-3] for file in (cache / task).glob(f"[!.]*/{component}/model.onnx")}
        if len(models) == 1:
            yield label, *(models if task is ModelTask.CLIP else [*models] * 2)


def _model_task(use: Use) -> ModelTask:
    """
    Raises:
        KeyError, ValueError: it is nothing that `RecentModels.save` writes.
    """
    label, *_ = use
    return _COMPONENTS[label][0]


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
