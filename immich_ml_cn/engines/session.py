"""What the model code may ask of a loaded ONNX graph, whichever engine runs it.

The models (`clip`, `faces`, `ocr`) are written against these protocols and never import an engine, so their tests run
with fakes.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from numpy.typing import NDArray

from .graphs.files import Graph

ItemT = TypeVar("ItemT", contravariant=True)
OutputT = TypeVar("OutputT", covariant=True)

LaneKind = Literal["interactive", "bulk"]
"""What a session runs for: a person who waits for a search, or an import."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, element type and shape of a graph's input or output.

    Attributes:
        dtype: NumPy name of the element type: ``"float32"``, ``"int32"``, ``"int64"`` …
        shape: one entry per axis, None where the axis is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Session(Protocol):
    """One loaded graph. Only the lane that owns it calls `run`."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]: ...

    @property
    def outputs(self) -> tuple[TensorInfo, ...]: ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """The graph's custom metadata, e.g. PP-OCR's alphabet under ``character``."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph on one batch; the outputs in the graph's order."""
        ...


@runtime_checkable
class ParallelSession(Session, Protocol):
    """A session on a device that finishes several small runs sooner in parallel, one core each, than in turn on all
    cores or as one batch: a CPU."""

    @property
    def parallelism(self) -> int:
        """How many runs go in parallel."""
        ...

    def run_parallel(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[list[NDArray[Any]]]:
        """Run the graph once for each of `feeds`, up to `parallelism` at a time; the outputs of each, in order."""
        ...


OpenSession: TypeAlias = Callable[[Graph], Session]
"""Opens a graph; one with external weights as a file."""


class Model(Protocol[ItemT, OutputT]):
    """A loaded model as the batcher sees it. Immutable: what differs per request is an argument."""

    def bucket(self, item: ItemT) -> Hashable:
        """Items of equal bucket may share a batch."""
        ...

    def infer(self, items: Sequence[ItemT]) -> Sequence[OutputT]:
        """Run one batch of equal buckets on the calling thread: one output per item, in order."""
        ...
