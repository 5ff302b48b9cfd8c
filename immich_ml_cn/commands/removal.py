"""`immich-ml-cn models remove`: shows what would go, asks, and deletes it."""

import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from immich_ml_cn.messages import tr
from immich_ml_cn.settings import Settings
from immich_ml_cn.store.removal import Removal, delete, shown

from .console import Console


def remove(settings: Settings, removals: Mapping[str, Removal], *, as_json: bool, agreed: bool) -> int:
    """Delete what is planned, if somebody agrees; the exit code.

    Args:
        removals: model → what its removal would do.
        as_json: answer for scripts; nobody is asked.
        agreed: already, on the command line.

    Raises:
        OSError: a file cannot be deleted.
    """
    console = Console(settings)
    if _refused(console, removals):
        return 2
    sizes = {file: file.lstat().st_size for removal in removals.values() for file in removal.files}
    if not as_json:
        _show(console, settings.cache_folder, removals, sizes)
        agreed = agreed or _agrees(console, len(sizes))
    for removal in removals.values() if agreed else ():
        delete(removal, settings.cache_folder)
    if as_json:
        console.json([{"path": str(path), "bytes": size, "removed": agreed} for path, size in sizes.items()])
    elif agreed and sizes:
        console.print(tr("removed {count} files", count=len(sizes)))
    return int(bool(sizes) and not agreed)


def _refused(console: Console, removals: Mapping[str, Removal]) -> bool:
    """Whether a model lies outside the cache: such folders are not ours to delete."""
    outside = [(model, folder) for model, removal in removals.items() for folder in removal.outside]
    for model, folder in outside:
        console.complain(
            tr(
                "{model} is in {folder}, which is outside the cache and yours: nothing was deleted",
                model=model,
                folder=folder,
            )
        )
    return bool(outside)


def _show(console: Console, cache: Path, removals: Mapping[str, Removal], sizes: Mapping[Path, int]) -> None:
    """What would go, and what would stay and why."""
    for path, files in groupby(sizes, key=lambda file: shown(file, cache)):
        console.print(f"{path}  {sum(sizes[file] for file in files) / 1e6:,.1f} MB")
    for removal in removals.values():
        for path in removal.shared:
            console.print(tr("{path} stays: another model in the cache needs it", path=path))
        for path in removal.unknown:
            console.print(tr("{path} stays: it is no part of a model", path=path))


def _agrees(console: Console, count: int) -> bool:
    if not count:
        console.print(tr("there is nothing to delete"))
        return False
    if not sys.stdin.isatty():
        console.complain(tr("nothing was deleted: say --yes to delete what is listed"))
        return False
    question = console.say(tr("Delete these {count} files? [y/N] ", count=count))
    return input(question).strip().lower() in {"y", "yes"}
