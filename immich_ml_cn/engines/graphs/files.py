"""Graphs as they are handed to an engine: a file, or what is made of one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class EditedGraph:
    """The graph of a file with a change, made where somebody needs it: who has kept a form of it does not.

    Attributes:
        source: the file.
        edit: what is changed, as part of a file's name.
        version: of the code that changes it.
        make: makes the graph, in the ONNX format.
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
"""A file, which may have its weights beside it; what is made of one; or a graph that lies in memory anyway."""


def file_or_data(graph: Graph) -> Path | bytes:
    """What a library opens. Raises what an edited graph's `make` does."""
    return graph.data if isinstance(graph, EditedGraph) else graph


def graph_bytes(graph: Graph) -> int:
    """Bytes of a graph, with the weights beside its file that bear its name; of an edited one those of its source.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(graph, bytes):
        return len(graph)
    file = graph.source if isinstance(graph, EditedGraph) else graph
    beside = (other.stat().st_size for other in file.parent.glob(f"{file.name}?*") if other.is_file())
    return file.stat().st_size + sum(beside)


def graph_name(graph: Graph) -> str:
    """Names a graph for people."""
    return "a graph in memory" if isinstance(graph, bytes) else str(graph)
