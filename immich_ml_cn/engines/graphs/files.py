"""Graphs as they are passed to an engine: a file, an edit of one, or bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class EditedGraph:
    """An edit of a graph's file, applied only when an engine has no cached artefact of it.

    Attributes:
        source: the file.
        edit: name of the edit, used in file names.
        version: of the code that applies it.
        make: applies it; returns the edited graph in the ONNX format.
    """

    source: Path
    edit: str
    version: str
    make: Callable[[], bytes]

    @cached_property
    def data(self) -> bytes:
        """The graph, with its weights. Raises what `make` does."""
        return self.make()

    def __str__(self) -> str:
        return f"{self.source} ({self.edit})"


Graph: TypeAlias = Path | EditedGraph | bytes
"""A file, which may have its weights beside it; an edit of one; or a serialised graph."""


def file_or_data(graph: Graph) -> Path | bytes:
    """The file or the serialised graph, for a library to open. Raises what an edited graph's `make` does."""
    return graph.data if isinstance(graph, EditedGraph) else graph


def graph_bytes(graph: Graph) -> int:
    """Size of a graph in bytes, external weights beside its file included; for an edited graph, of its source file.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(graph, bytes):
        return len(graph)
    file = graph.source if isinstance(graph, EditedGraph) else graph
    beside = (other.stat().st_size for other in file.parent.glob(f"{file.name}?*") if other.is_file())
    return file.stat().st_size + sum(beside)


def graph_name(graph: Graph) -> str:
    """A graph's name for messages."""
    return "a graph in memory" if isinstance(graph, bytes) else str(graph)
