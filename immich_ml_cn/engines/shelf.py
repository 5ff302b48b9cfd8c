"""Where an engine keeps its own forms of graphs on disk."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

UNUSED_S: Final = 30 * 86_400
"""Seconds after which nobody is taken to need an edited graph's form any more: what it came from may be gone."""

_EDITED: Final = "edited"


@dataclass(frozen=True)
class Shelf:
    """A folder for each graph, named for the graph as it is now: beside its file, or in the cache folder for files
    that lie elsewhere and for edited graphs.

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

    def place(self, graph: Path | bytes) -> Path:
        """The folder of a graph, which need not exist.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(graph, bytes):
            stem = f"{_EDITED}-{hashlib.sha256(graph).hexdigest()[:12]}"
            return self.cache / self.name / f"{stem}-{self.kind}-{_digest(self.maker)}"
        return self._home(graph) / f"{graph.stem}-{self.kind}-{_state_of(graph.absolute(), self.maker)}"

    def remove_older(self, graph: Path | bytes) -> None:
        """Delete the forms of what was there before this graph, and of edited graphs that nobody used for a month; to
        be called when a form is made.

        Raises:
            OSError: a folder cannot be read.
        """
        place = self.place(graph)
        if isinstance(graph, bytes):
            old = place.parent.stat().st_mtime - UNUSED_S  # by the disk's clock: when the last form was made
            unused = [other for other in place.parent.glob(f"{_EDITED}-*") if other.stat().st_mtime < old]
        else:
            unused = list(place.parent.glob(f"{graph.stem}-{self.kind}-*")) if self._owns(graph) else []
        for other in unused:
            if other != place:
                shutil.rmtree(other, ignore_errors=True)

    def _home(self, graph: Path) -> Path:
        return (graph.absolute().parent if self._owns(graph) else self.cache) / self.name

    def _owns(self, graph: Path) -> bool:
        return graph.absolute().is_relative_to(self.cache.absolute())


def _state_of(graph: Path, maker: str) -> str:
    """Names a graph's file as it is now, with what lies beside it, where its weights may be."""
    told = [maker, str(graph)]
    for file in sorted(graph.parent.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            state = file.stat()
            told.append(f"{file.name}\0{state.st_size}\0{state.st_mtime_ns}")
    return _digest(*told)


def _digest(*told: str) -> str:
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]
