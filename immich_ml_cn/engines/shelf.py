"""Where an engine keeps its own forms of graphs on disk."""

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .graphs.files import EditedGraph

UNUSED_S: Final = 30 * 86_400
"""Seconds after which nobody is taken to need the form of a file that lies elsewhere any more: it may be gone."""


@dataclass(frozen=True)
class Shelf:
    """A folder for each graph, named for the graph as it is now: beside its file, or in the cache folder for files
    that lie elsewhere.

    Attributes:
        cache: the cache folder.
        name: of the folder that holds the others.
        kind: of device; each has its own forms.
        maker: the version of what makes them.
    """

    cache: Path
    name: str
    kind: str
    maker: str

    def place(self, graph: Path | EditedGraph) -> Path:
        """The folder of a graph, which need not exist.

        Raises:
            OSError: the file cannot be read.
        """
        source = _source(graph)
        edit = (graph.edit, graph.version) if isinstance(graph, EditedGraph) else ()
        return self._home(source) / f"{self._stem(graph)}-{_digest(self.maker, *edit, *_state_of(source))}"

    def mark_used(self, graph: Path | EditedGraph) -> None:
        """Somebody uses the form of a graph, which is there."""
        with suppress(OSError):  # not ours to write
            os.utime(self.place(graph))

    def remove_older(self, graph: Path | EditedGraph) -> None:
        """Delete the forms of what was there before this graph, and of files that lie elsewhere those that nobody used
        for a month; to be called when a form is made.

        Raises:
            OSError: a folder cannot be read.
        """
        place = self.place(graph)
        if self._owns(_source(graph)):
            unused = list(place.parent.glob(f"{self._stem(graph)}-*"))
        else:
            old = place.parent.stat().st_mtime - UNUSED_S  # by the disk's clock: when the last form was made
            unused = [other for other in place.parent.glob(f"*-{self.kind}-*") if other.stat().st_mtime < old]
        for other in unused:
            if other != place:
                shutil.rmtree(other, ignore_errors=True)

    def _stem(self, graph: Path | EditedGraph) -> str:
        edit = f"+{graph.edit}" if isinstance(graph, EditedGraph) else ""
        return f"{_source(graph).stem}{edit}-{self.kind}"

    def _home(self, source: Path) -> Path:
        return (source.parent if self._owns(source) else self.cache) / self.name

    def _owns(self, source: Path) -> bool:
        """Wherever links and ``..`` lead: beside somebody's own file nothing is written."""
        return source.resolve().is_relative_to(self.cache.resolve())


def _source(graph: Path | EditedGraph) -> Path:
    return (graph.source if isinstance(graph, EditedGraph) else graph).absolute()


def _state_of(file: Path) -> list[str]:
    """A graph's file as it is now, with what lies beside it, where its weights may be."""
    told = [str(file)]
    for other in sorted(file.parent.iterdir()):
        if other.is_file() and not other.name.startswith("."):
            state = other.stat()
            told.append(f"{other.name}\0{state.st_size}\0{state.st_mtime_ns}")
    return told


def _digest(*told: str) -> str:
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]
