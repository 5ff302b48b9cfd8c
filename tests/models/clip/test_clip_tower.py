"""The adaptation to graphs, on a fake session that answers what it is told."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from immich_ml_cn.engines.session import TensorInfo
from immich_ml_cn.errors import InferenceFailed, Unavailable
from immich_ml_cn.models.clip.tower import Tower, normalise


class FakeSession:
    """Answers `answer` to every run; one input ``x`` and the given outputs."""

    metadata: Mapping[str, str] = {}

    def __init__(self, answer: NDArray[Any], *outputs: TensorInfo) -> None:
        self.answer = answer
        self.inputs = (TensorInfo("x", "float32", (None, 2)),)
        self.outputs = outputs or (TensorInfo("embedding", "float32", (None, None)),)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return [self.answer for _ in self.outputs]


class EchoSession:
    """Answers what it is fed, `parallelism` at a time; notes the batches."""

    metadata: Mapping[str, str] = {}

    def __init__(self, batch: int | None, parallelism: int = 3) -> None:
        self.parallelism = parallelism
        self.inputs = (TensorInfo("x", "float32", (batch, 2)),)
        self.outputs = (TensorInfo("embedding", "float32", (batch, 2)),)
        self.parallel: list[int] = []
        self.together: list[int] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.together.append(len(feeds["x"]))
        return [feeds["x"]]

    def run_parallel(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[list[NDArray[Any]]]:
        self.parallel += [len(feed["x"]) for feed in feeds]
        return [[feed["x"]] for feed in feeds]


@pytest.mark.parametrize(
    ("batch", "count", "parallel", "together"),
    [
        (None, 1, 0, [1]),
        (None, 2, 0, [2]),
        (None, 3, 3, []),
        (None, 8, 6, [2]),
        (1, 5, 3, [1, 1]),
        (4, 6, 0, [4, 4]),
    ],
)
def test_items_run_in_parallel_as_long_as_each_core_gets_one(
    batch: int | None, count: int, parallel: int, together: list[int]
) -> None:
    session = EchoSession(batch)
    angles = np.arange(count, dtype=np.float32)
    items = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = Tower(session).encode({"x": items})
    np.testing.assert_allclose([embedding.vector for embedding in found], items, atol=1e-6)
    assert (session.parallel, session.together) == ([1] * parallel, together)


def test_a_single_core_takes_batches() -> None:
    session = EchoSession(None, parallelism=1)
    assert len(Tower(session).encode({"x": np.ones((4, 2), np.float32)})) == 4
    assert (session.parallel, session.together) == ([], [4])


FEED = {"x": np.zeros((2, 2), np.float32)}


def test_unit_vectors_in_float32() -> None:
    (first, second) = Tower(FakeSession(np.array([[3, 4], [0, -2]], np.float16))).encode(FEED)
    assert first.vector.dtype == np.float32
    assert first.vector.tolist() == pytest.approx([0.6, 0.8])
    assert second.vector.tolist() == [0, -1]


@pytest.mark.parametrize("bad", [0, np.nan, np.inf, -np.inf, 1e30])
def test_bad_rows_fail(bad: float) -> None:
    with pytest.raises(InferenceFailed, match="zero or not finite"):
        Tower(FakeSession(np.array([[1, 1], [bad, bad]], np.float32))).encode(FEED)


@pytest.mark.parametrize("shape", [(2,), (1, 3), (3, 3), (2, 3, 4)])
def test_wrong_shapes_fail(shape: tuple[int, ...]) -> None:
    with pytest.raises(InferenceFailed, match="for 2 items"):
        Tower(FakeSession(np.ones(shape, np.float32))).encode(FEED)


def test_open_dimension() -> None:
    assert Tower(FakeSession(np.ones((2, 3), np.float32))).dimension is None


def test_no_output() -> None:
    session = FakeSession(np.ones((2, 3), np.float32), TensorInfo("embedding", "float32", (None, None, 3)))
    with pytest.raises(Unavailable, match=r"embedding float32 \[\?, \?, 3\]"):
        Tower(session)


def test_features_of_another_rank_are_left_out() -> None:
    outputs = TensorInfo("features", "float32", (None, 7, 3)), TensorInfo("embedding", "float32", (None, 3))
    embeddings = Tower(FakeSession(np.ones((2, 3), np.float32), *outputs)).encode(FEED)
    assert [embedding.features for embedding in embeddings] == [None, None]


def test_normalising_twice_changes_nothing() -> None:
    once = normalise(np.random.default_rng(0).normal(size=(50, 512)).astype(np.float32))
    assert np.abs(normalise(once) - once).max() < 1e-7
