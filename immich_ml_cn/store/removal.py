"""What of the cache belongs to a model and may be deleted: files that we or Immich's service put there, no other."""

import os
from collections.abc import Iterator, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from immich_ml_cn import sources
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.tasks import Component, ModelTask

from .fetch.checksums import recorded
from .inventory import folder_of, is_inside

_COMPONENT_FILES: Final = (
    *("model.onnx", "model.onnx.data", "model.onnx_data", "model.onnx.extra_file", "model.onnx.broken-*"),
    *("model_fp16.onnx", "model_fp16.onnx.data", "model_int8.onnx", "model_int8.onnx.data", ".split.onnx"),
    *("model.armnn", "fp16/model.armnn", "rknpu/*/model.rknn"),
    *("preprocess_cfg.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "spiece.model", "sentencepiece.bpe.model"),
)
"""In the folder of a component, in Immich's layout."""

_MODEL_FILES: Final = (
    *("config.json", "README.md", ".gitattributes", "onnx/model.onnx", ".checksums.json", ".checksums.json.new"),
)
"""Beside the components."""

_OWN_FOLDERS: Final = ("prepacked", "edited", "openvino", "migraphx", "coreml", ".partial", ".converting", ".cache")
"""Folders whose whole content is made by a server or a download: a model's other forms, and what is arriving."""

_COMPONENT_FOLDERS: Final = frozenset(Component)


@dataclass(frozen=True)
class Removal:
    """What removing a model would delete, and what it would not.

    Attributes:
        files: that go.
        unknown: files that lie in the model's folders, but belong to nothing we know: they stay.
        shared: folders of components that other models in the cache need: they stay.
        outside: folders that are not in the cache, or that a link leads out of it to: nothing there is touched.
    """

    files: tuple[Path, ...] = ()
    unknown: tuple[Path, ...] = ()
    shared: tuple[Path, ...] = ()
    outside: tuple[Path, ...] = ()


def shown(file: Path, cache: Path) -> Path:
    """What stands for a file in a list for people: the folder of a server's own that it lies in, if it lies in one."""
    own = [folder for folder in file.parents if cache in folder.parents and folder.name in _OWN_FOLDERS]
    return own[-1] if own else file


def plan_removal(settings: Settings, task: ModelTask, model: str) -> Removal:
    """What `remove` of a model would do; nothing is touched.

    Raises:
        OSError: a folder cannot be read.
    """
    folders = {component: folder_of(settings, task, model, component) for component in task.components}
    outside = {folder for folder in folders.values() if not is_inside(settings.cache_folder, folder)}
    shared = {
        component for component, folder in folders.items() if _is_needed(settings, task, model, component, folder)
    }
    sorted_files = [
        _sorted(folder, task, {component for component in folders if folders[component] == folder} - shared)
        for folder in dict.fromkeys(folders.values())
        if folder not in outside
    ]
    return Removal(
        files=tuple(file for ours, _ in sorted_files for file in ours),
        unknown=tuple(file for _, others in sorted_files for file in others),
        shared=tuple(folders[component] / component for component in sorted(shared)),
        outside=tuple(sorted(outside)),
    )


def delete(removal: Removal, cache: Path) -> None:
    """Delete the files of a removal, then the folders that are empty without them.

    Raises:
        OSError: a file cannot be deleted; those before it are gone.
    """
    emptied = set()
    for file in removal.files:
        if is_inside(cache, file.parent):
            file.unlink(missing_ok=True)
            emptied.add(file.parent)
    for folder in sorted(_with_parents(emptied, cache), key=lambda folder: len(folder.parts), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def _with_parents(folders: set[Path], cache: Path) -> set[Path]:
    """The folders and those above them, up to the cache's own, which stays with its folders of tasks."""
    above = {parent for folder in folders for parent in (folder, *folder.parents)}
    return {folder for folder in above if cache in folder.parents and folder.parent != cache and folder.is_dir()}


def _is_needed(settings: Settings, task: ModelTask, model: str, component: Component, folder: Path) -> bool:
    """True if another model of the cache uses the same component: PP-OCR's languages share one detector."""
    if task != ModelTask.OCR or component != Component.DETECTION:
        return False
    others = (other for other in sources.model_names(task) if other != model)
    return any(
        folder_of(settings, task, other, component) == folder
        and (folder_of(settings, task, other, Component.RECOGNITION) / Component.RECOGNITION / "model.onnx").is_file()
        for other in others
    )


def _sorted(folder: Path, task: ModelTask, components: Set[str]) -> tuple[list[Path], list[Path]]:
    """The files of some components of a model's folder: ours, and the others.

    With its last component goes what lies beside the components.
    """
    known = _downloaded(folder)
    whole = bool(components) and not any(
        (folder / component).is_dir() for component in task.components if component not in components
    )
    ours: list[Path] = []
    others: list[Path] = []
    for file in _files(folder):
        path = PurePosixPath(file.relative_to(folder))
        if path.parts[0] in components or (whole and path.parts[0] not in _COMPONENT_FOLDERS):
            (ours if str(path) in known or _is_ours(path) else others).append(file)
    return ours, others


def _is_ours(path: PurePosixPath) -> bool:
    """True for a file that a server or a download puts into a model's folder."""
    first, *rest = path.parts
    if first not in _COMPONENT_FOLDERS:
        return first in _OWN_FOLDERS or str(path) in _MODEL_FILES
    if rest and rest[0] in _OWN_FOLDERS:
        return True
    return any(fnmatchcase("/".join(rest), pattern) for pattern in _COMPONENT_FILES)


def _downloaded(folder: Path) -> set[str]:
    """The files that a download put into a folder, ours or Hugging Face's, which Immich's service uses."""
    notes = folder / ".cache" / "huggingface" / "download"
    hub = {str(note.relative_to(notes).with_suffix("")) for note in notes.rglob("*.metadata")}
    return hub | set(recorded(folder))


def _files(folder: Path) -> Iterator[Path]:
    """Everything in a folder that is no folder itself; links are not followed."""
    for place, folders, names in os.walk(folder):
        linked = [name for name in folders if Path(place, name).is_symlink()]
        yield from (Path(place, name) for name in sorted([*names, *linked]))
