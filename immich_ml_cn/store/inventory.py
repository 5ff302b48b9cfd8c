"""What can be served, and what of it is here: the rows behind `immich-ml-cn models`."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from immich_ml_cn import sources
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.clip_names import CHINESE_CLIP_DIMENSIONS, DIRECT_NAMES, LISTED_DIMENSIONS, known_name
from immich_ml_cn.sources.tasks import Component, ModelTask

RECOMMENDED: Final = frozenset({"chinese-clip-vit-large-patch14", "buffalo_l", "PP-OCRv6_small"})
"""One model of each task for a library in Chinese, by the name of its folder."""


class Presence(StrEnum):
    """Which of a model's files are in the cache."""

    CACHED = "in the cache"
    BUNDLED = "bundled"
    PARTLY = "partly"
    MISSING = "missing"


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        names: under which Immich asks for it.
        dimension: length of its embeddings, None where it gives none or nobody says.
        size: bytes of its files in the cache, else a rough figure; None where nobody says.
        folders: where its two components are or would be.
    """

    task: ModelTask
    model: str
    names: tuple[str, ...]
    dimension: int | None
    size: int | None
    licence: str
    presence: Presence
    folders: tuple[Path, ...]

    @property
    def recommended(self) -> bool:
        """True for the model to choose for a library in Chinese."""
        return self.model in RECOMMENDED


def inventory(settings: Settings) -> Iterator[Row]:
    """Every model that can be served: those with a source, then those that lie in the cache without one.

    A model whose name another one answers to is left out, unless it is in the cache.
    """
    for task in ModelTask:
        rows = (row(settings, task, model) for model in _models(settings, task))
        yield from (row for row in rows if row.names or row.presence is not Presence.MISSING)


def row(settings: Settings, task: ModelTask, model: str) -> Row:
    """The row of one model, by the name of its folder."""
    folders = tuple(folder_of(settings, task, model, component) for component in task.components)
    on_disk = sum(_size(folder / component) for folder, component in zip(folders, task.components, strict=True))
    return Row(
        task=task,
        model=model,
        names=_immich_names(settings, task, model),
        dimension=CHINESE_CLIP_DIMENSIONS.get(model, LISTED_DIMENSIONS.get(model)) if task == ModelTask.CLIP else None,
        size=on_disk or sources.rough_size_of(task, model),
        licence=sources.licence_of(task, model) if model in sources.model_names(task) else "unknown",
        presence=_presence(settings, task, model),
        folders=tuple(dict.fromkeys(folders)),
    )


def find(settings: Settings, name: str) -> tuple[ModelTask, str] | None:
    """The task and folder name of a model by any name it goes by, None where there is none."""
    model = settings.clip_aliases.get(known_name(name, settings.clip_aliases), name)
    model = DIRECT_NAMES.get(known_name(model, DIRECT_NAMES), model)
    for task in ModelTask:
        models = _models(settings, task)
        if (found := known_name(model, models)) in models:
            return task, found
    return None


def folder_of(settings: Settings, task: ModelTask, model: str, component: Component) -> Path:
    """The folder of a model that holds one of its components."""
    return settings.cache_folder / sources.folder_for(task, model, component, revision=settings.model_revision)


def is_inside(cache: Path, path: Path) -> bool:
    """True if a path is below the cache folder, links and ``..`` resolved."""
    return path.resolve().is_relative_to(cache.resolve())


def lacking(settings: Settings, task: ModelTask, model: str, component: Component) -> bool:
    """True if a component must be fetched before it can be served."""
    if (folder_of(settings, task, model, component) / component / "model.onnx").is_file():
        return False
    return sources.bundled(task, model, component) is None


def _presence(settings: Settings, task: ModelTask, model: str) -> Presence:
    missing = [lacking(settings, task, model, component) for component in task.components]
    if all(missing):
        return Presence.MISSING
    if any(missing):
        return Presence.PARTLY
    carried = [sources.bundled(task, model, component) is not None for component in task.components]
    return Presence.BUNDLED if all(carried) else Presence.CACHED


def _immich_names(settings: Settings, task: ModelTask, model: str) -> tuple[str, ...]:
    if task is not ModelTask.CLIP:
        return (model,)
    aliases = tuple(name for name, target in settings.clip_aliases.items() if target == model)
    return (*aliases, model) if model in LISTED_DIMENSIONS and model not in settings.clip_aliases else aliases


def _models(settings: Settings, task: ModelTask) -> list[str]:
    """Known names, the addresses that aliases point to, and the folders in the cache that belong to neither."""
    known = list(sources.model_names(task))
    if task == ModelTask.CLIP:
        known += dict.fromkeys(model for model in settings.clip_aliases.values() if model not in known)
    taken = {sources.folder_for(task, model).name for model in known}
    folder = settings.cache_folder / task
    names = sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    return known + [name for name in names if name not in taken and not name.startswith(".")]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
