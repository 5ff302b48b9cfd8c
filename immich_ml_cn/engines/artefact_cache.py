"""Cache on disk for what an engine derives from graphs: packed weights, compiled models, edited graphs."""

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .graphs.files import EditedGraph

MAX_UNUSED_S: Final = 30 * 86_400
"""Seconds without use after which the artefacts of a file outside the cache folder are deleted: it may be gone."""


@dataclass(frozen=True)
class ArtefactCache:
    """One folder per graph, named for the content of the graph's file: beside that file, or in the cache folder for
    files outside of it.

    Attributes:
        cache: the cache folder.
        name: of the folder that holds the artefacts.
        device: the kind of device; each has artefacts of its own.
        version: of the program that makes the artefacts.
    """

    cache: Path
    name: str
    device: str
    version: str

    def folder_for(self, graph: Path | EditedGraph) -> Path:
        """The folder of a graph's artefacts, which need not exist.

        Raises:
            OSError: the graph's file cannot be read.
        """
        source = _source(graph)
        edit = (graph.edit, graph.version) if isinstance(graph, EditedGraph) else ()
        return self._parent(source) / f"{self._stem(graph)}-{_digest(self.version, *edit, *_state_of(source))}"

    def touch(self, graph: Path | EditedGraph) -> None:
        """Mark the artefacts of a graph, which exist, as used now."""
        with suppress(OSError):  # not ours to write
            os.utime(self.folder_for(graph))

    def prune(self, graph: Path | EditedGraph) -> None:
        """Delete the artefacts of earlier versions of a graph, and those of files outside the cache folder that nobody
        used for a month. Call it before new artefacts are made.

        Raises:
            OSError: a folder cannot be read.
        """
        folder = self.folder_for(graph)
        if self._is_inside(_source(graph)):
            stale = list(folder.parent.glob(f"{self._stem(graph)}-*"))
        else:
            oldest = folder.parent.stat().st_mtime - MAX_UNUSED_S  # by the disk's clock, at the last change here
            stale = [other for other in folder.parent.glob(f"*-{self.device}-*") if other.stat().st_mtime < oldest]
        for other in stale:
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def _stem(self, graph: Path | EditedGraph) -> str:
        edit = f"+{graph.edit}" if isinstance(graph, EditedGraph) else ""
        return f"{_source(graph).stem}{edit}-{self.device}"

    def _parent(self, source: Path) -> Path:
        return (source.parent if self._is_inside(source) else self.cache) / self.name

    def _is_inside(self, source: Path) -> bool:
        """True if a file is in the cache folder, links resolved: beside a user's own file nothing is written."""
        return source.resolve().is_relative_to(self.cache.resolve())


def _source(graph: Path | EditedGraph) -> Path:
    return (graph.source if isinstance(graph, EditedGraph) else graph).absolute()


def _state_of(file: Path) -> list[str]:
    """Name, size and time of a graph's file and of its neighbours, which may hold its weights."""
    state = [str(file)]
    for other in sorted(file.parent.iterdir()):
        if other.is_file() and not other.name.startswith("."):
            stat = other.stat()
            state.append(f"{other.name}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return state


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
