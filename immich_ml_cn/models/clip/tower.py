"""One tower of a CLIP as an ONNX graph: whatever its export looks like, one embedding per item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.session import ParallelSession, Session, TensorInfo
from immich_ml_cn.errors import InferenceFailed, Unavailable
from immich_ml_cn.messages import tr

_EMBEDDINGS = (
    "embedding",
    "image_embeds",
    "text_embeds",
    "image_embedding",
    "text_embedding",
    "unnorm_image_features",
    "unnorm_text_features",
    "image_features",
    "text_features",
    "features",
)
_FEATURES = ("features", "unnorm_image_features", "unnorm_text_features")


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What a tower says about one item.

    Attributes:
        vector: float32 (D,), of length 1.
        features: float32 (D,), the tower's output before normalisation, None where the graph does
            not give it.
    """

    vector: NDArray[np.float32]
    features: NDArray[np.float32] | None


class Tower:
    """A graph seen as: batch of items → batch of embeddings.

    Graphs differ in the name and number of their outputs, in whether they normalise, and in whether
    their batch axis is dynamic. A fixed one, usually 1, is served by running the graph repeatedly.
    """

    def __init__(self, session: Session) -> None:
        """
        Raises:
            Unavailable: no output of the graph is an embedding.
        """
        self._session = session
        self._inputs = {info.name: info for info in session.inputs}
        self._vector = _embedding_index(session.outputs)
        self._features = _index(session.outputs, _FEATURES)
        self._batch = next((info.shape[0] for info in session.inputs if info.shape[0]), None)
        parallel = isinstance(session, ParallelSession) and session.parallelism > 1 and (self._batch or 1) == 1
        self._parallel = cast(ParallelSession, session) if parallel else None

    @property
    def dimension(self) -> int | None:
        """Length D of the embeddings, None where the graph leaves it open."""
        return self._session.outputs[self._vector].shape[-1]

    def encode(self, feeds: Mapping[str, NDArray[Any]]) -> list[Embedding]:
        """Run the graph on N items, from the calling thread.

        Args:
            feeds: input name → array (N, …), cast here to the input's element type.

        Returns:
            one embedding per item, in order.

        Raises:
            InferenceFailed: the graph gave another shape than one vector per item, or a vector
                that is zero or not finite.
        """
        typed = self._typed(feeds)
        count = len(next(iter(typed.values())))
        parallel = self._parallel_count(count)
        found = self._run_parallel(typed, parallel)
        size = self._batch or count
        for start in range(parallel, count, size):
            found += self._run(_part(typed, start, start + size))
        return found

    def _typed(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: array.astype(self._inputs[name].dtype, copy=False) for name, array in feeds.items()}

    def _parallel_count(self, count: int) -> int:
        """How many of `count` items run in parallel, one per core: as many as give each core the same number."""
        return count - count % self._parallel.parallelism if self._parallel else 0

    def _run_parallel(self, feeds: Mapping[str, NDArray[Any]], count: int) -> list[Embedding]:
        """The embeddings of the first `count` items."""
        if self._parallel is None or not count:
            return []
        runs = self._parallel.run_parallel([_part(feeds, index, index + 1) for index in range(count)])
        return [embedding for outputs in runs for embedding in self._embeddings(outputs, 1)]

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> list[Embedding]:
        count = len(next(iter(feeds.values())))
        size = self._batch or count
        if count < size:
            feeds = {name: _repeat_last(array, size) for name, array in feeds.items()}
        return self._embeddings(self._session.run(feeds), size)[:count]

    def _embeddings(self, outputs: Sequence[NDArray[Any]], count: int) -> list[Embedding]:
        """One embedding for each of `count` items that were run."""
        vectors = normalise(_rows(outputs[self._vector], count))
        if self._features is None:
            return [Embedding(vector, None) for vector in vectors]
        features = _rows(outputs[self._features], count)
        return [Embedding(*pair) for pair in zip(vectors, features, strict=True)]


def normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row of float32 (N, D) to length 1.

    Raises:
        InferenceFailed: a row is zero or not finite.
    """
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InferenceFailed("the CLIP model gave an embedding that is zero or not finite")
    vectors = vectors / lengths
    return vectors


def refusal(session: Session, tower: str, inputs: str) -> Unavailable:
    """The refusal of a graph that is no `tower`, for its inputs are not those expected: `inputs`."""
    return Unavailable(
        tr(
            "this ONNX graph is no CLIP {tower} tower: expected {inputs}; its inputs are {found}",
            tower=tower,
            inputs=inputs,
            found=_describe(session.inputs),
        )
    )


def _embedding_index(outputs: Sequence[TensorInfo]) -> int:
    if len(outputs) == 1 and len(outputs[0].shape) == 2:
        return 0
    index = _index(outputs, _EMBEDDINGS)
    if index is not None:
        return index
    raise Unavailable(
        tr(
            "this ONNX graph is no CLIP tower: expected one output [batch, dimension], or one of several named "
            "'embedding' or 'features'; its outputs are {found}",
            found=_describe(outputs),
        )
    )


def _index(outputs: Sequence[TensorInfo], names: Sequence[str]) -> int | None:
    """Where the first of `names` is that holds one vector per item."""
    found = {info.name: index for index, info in enumerate(outputs) if len(info.shape) == 2}
    return next((found[name] for name in names if name in found), None)


def _describe(tensors: Sequence[TensorInfo]) -> str:
    shapes = (", ".join("?" if axis is None else str(axis) for axis in info.shape) for info in tensors)
    found = [f"{info.name} {info.dtype} [{shape}]" for info, shape in zip(tensors, shapes, strict=True)]
    return ", ".join(found) or "none"


def _repeat_last(array: NDArray[Any], count: int) -> NDArray[Any]:
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])


def _part(feeds: Mapping[str, NDArray[Any]], start: int, stop: int) -> dict[str, NDArray[Any]]:
    return {name: array[start:stop] for name, array in feeds.items()}


def _rows(output: NDArray[Any], count: int) -> NDArray[np.float32]:
    if output.ndim != 2 or len(output) != count:
        raise InferenceFailed(f"the CLIP model answered {output.shape} for {count} items")
    return output.astype(np.float32, copy=False)
