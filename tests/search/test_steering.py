from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
import pytest
from search_libraries import Indices, Kind, Library, Vectors, embedded_text, made_up

from immich_ml_cn.search.embeddings import Embeddings, record
from immich_ml_cn.search.steering import Statistics, Steered, lift, most, places, quadratic, query_vector, steer
from immich_ml_cn.search.steering.quadratic import Constraints, nearest

P = ParamSpec("P")
T = TypeVar("T")

COUNTS = (1, 5, 10, 20, 32)
AMPLE_S = 60.0


def indexed(vectors: Vectors) -> Embeddings:
    records = np.zeros(len(vectors), record(vectors.shape[1]))
    records["key"] = np.arange(len(vectors)) + 1
    records["vector"] = vectors
    return Embeddings(records, len(vectors))


class Indexed:
    """A made-up library in the index."""

    def __init__(self, count: int, dimension: int) -> None:
        self.library = made_up(count, dimension)
        self.photos = indexed(self.library.vectors)
        self.statistics = Statistics.of(self.library.vectors, count)

    def steer(self, matches: Indices) -> Steered:
        return steer(self.photos, matches, lambda: self.statistics, time_limit_s=AMPLE_S)


def ranked(vectors: Vectors, query: Vectors) -> Indices:
    """Every photo by cosine, the best first: as Immich ranks, exactly."""
    return np.argsort(-(vectors @ query))


@pytest.fixture(scope="module", params=[512, 768, 1024])
def indexed_library(request: pytest.FixtureRequest) -> Indexed:
    return Indexed(3000, request.param)


@pytest.fixture(scope="module")
def usual() -> Indexed:
    """Of 512 dimensions, as Immich's own default has."""
    return Indexed(3000, 512)


@pytest.mark.parametrize("draws", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("count", COUNTS)
def test_every_match_stands_before_every_other_photo(
    indexed_library: Indexed, kind: Kind, count: int, draws: int
) -> None:
    random = np.random.default_rng(count)
    for _ in range(draws):
        matches = indexed_library.library.with_text(kind, count, random)
        steered = indexed_library.steer(matches)
        first = ranked(indexed_library.library.vectors, steered.vector)[:count]
        assert set(first) == set(matches)
        assert (steered.intruders, steered.wanted) == (0, count)
        assert np.linalg.norm(steered.vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", Kind)
def test_as_many_as_a_sixteenth_of_the_dimensions(indexed_library: Indexed, kind: Kind) -> None:
    count = places(indexed_library.photos.dimension)
    matches = indexed_library.library.with_text(kind, count, np.random.default_rng(7))
    steered = indexed_library.steer(matches)
    assert set(ranked(indexed_library.library.vectors, steered.vector)[:count]) == set(matches)


@pytest.mark.parametrize("kind", [Kind.TOPIC, Kind.BURST])
def test_the_vector_stays_near_to_matches_that_are_alike(indexed_library: Indexed, kind: Kind) -> None:
    """Approximate indexes walk from photo to photo: they lose a vector that is far from all."""
    matches = indexed_library.library.with_text(kind, 10, np.random.default_rng(8))
    steered = indexed_library.steer(matches)
    mean = indexed_library.library.vectors[matches].mean(0)
    assert steered.method == "near"
    assert steered.vector @ mean / np.linalg.norm(mean) > 0.75


@pytest.mark.parametrize("kind", [Kind.TOPIC, Kind.BURST])
def test_the_photos_most_like_a_few_matches_come_next(indexed_library: Indexed, kind: Kind) -> None:
    """They lead an index that is a graph to the matches."""
    vectors = indexed_library.library.vectors
    matches = indexed_library.library.with_text(kind, 5, np.random.default_rng(13))
    order = ranked(vectors, indexed_library.steer(matches).vector)
    others = np.setdiff1d(order, matches)
    alike = {int(photo) for match in matches for photo in others[np.argsort(-(vectors[others] @ vectors[match]))[:2]]}
    assert set(order[:5]) == set(matches)
    assert set(order[5 : 5 + len(alike)]) == alike


@pytest.mark.parametrize("kind", Kind)
def test_a_few_matches_follow_each_other_in_their_own_order(indexed_library: Indexed, kind: Kind) -> None:
    matches = indexed_library.library.with_text(kind, 5, np.random.default_rng(9))
    steered = indexed_library.steer(matches)
    assert ranked(indexed_library.library.vectors, steered.vector)[:5].tolist() == matches.tolist()
    assert steered.in_order


@pytest.mark.parametrize("kind", [Kind.RANDOM, Kind.TOPIC])
def test_matches_without_a_place_are_pulled_up_and_displace_none(
    usual: Indexed, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = usual.library.with_text(kind, 150, np.random.default_rng(10))

    def median_place() -> float:
        order = ranked(usual.library.vectors, usual.steer(matches).vector)
        place = np.empty(len(order), int)
        place[order] = np.arange(len(order))
        strangers = np.setdiff1d(order, matches)
        assert place[matches[:32]].max() < place[strangers].min()
        return float(np.median(place[matches[32:]]))

    pulled = median_place()
    monkeypatch.setattr(query_vector, "PULL_NEAR", 0.0)
    monkeypatch.setattr(query_vector, "PULL_WHITENED", 1e-6)
    assert pulled < median_place() - 100


def test_photos_that_are_gone_neither_intrude_nor_help() -> None:
    library = made_up(2000, 128)
    photos = indexed(library.vectors)
    match = np.array([5], np.intp)
    twin = Library(library.vectors.copy(), library.topics, library.events)
    twin.vectors[6] = twin.vectors[5]
    with_twin = indexed(twin.vectors)
    statistics = Statistics.of(library.vectors, 2000)
    assert steer(with_twin, match, lambda: statistics, time_limit_s=AMPLE_S).intruders > 0
    hidden = np.array([6], np.intp)
    assert steer(with_twin, match, lambda: statistics, hidden=hidden, time_limit_s=AMPLE_S).intruders == 0
    assert steer(photos, match, lambda: statistics, time_limit_s=AMPLE_S).intruders == 0


def test_the_same_photo_several_times_takes_no_harm() -> None:
    library = made_up(2000, 128)
    vectors = library.vectors.copy()
    vectors[:8] = vectors[0]
    photos = indexed(vectors)
    steered = steer(photos, np.arange(8, dtype=np.intp), lambda: Statistics.of(vectors, 2000), time_limit_s=AMPLE_S)
    assert set(ranked(vectors, steered.vector)[:8]) == set(range(8))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_library_of_nothing_but_matches(count: int) -> None:
    vectors = made_up(count, 64).vectors
    steered = steer(indexed(vectors), np.arange(count, dtype=np.intp), lambda: Statistics.of(vectors, count))
    assert np.isfinite(steered.vector).all()
    assert steered.intruders == 0


def test_when_the_time_is_up_the_best_so_far_is_answered(usual: Indexed) -> None:
    matches = usual.library.with_text(Kind.RANDOM, 32, np.random.default_rng(11))
    now = iter(range(10**6))
    steered = steer(usual.photos, matches, lambda: usual.statistics, time_limit_s=0, clock=lambda: float(next(now)))
    mean = usual.library.vectors[matches].mean(0)
    assert steered.intruders > 0
    np.testing.assert_allclose(steered.vector, mean / np.linalg.norm(mean), atol=1e-3)


class SlowMachine:
    """Photos, and a clock on which every look at all of them and each of Newton's steps takes `STEP_S`."""

    STEP_S = 0.05

    def __init__(self, photos: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
        self._photos = photos
        self.now = 0.0
        self.dimension = photos.dimension
        self.rows = photos.rows
        self.scores = self._slowly(photos.scores)
        monkeypatch.setattr(quadratic, "_ridge", self._slowly(quadratic._ridge))

    def __len__(self) -> int:
        return len(self._photos)

    def clock(self) -> float:
        return self.now

    def _slowly(self, work: Callable[P, T]) -> Callable[P, T]:
        def slow(*args: P.args, **kwargs: P.kwargs) -> T:
            self.now += self.STEP_S
            return work(*args, **kwargs)

        return slow


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("count", [10, 32, 400, 1000])
def test_the_time_limit_holds_for_any_number_of_matches(
    usual: Indexed, kind: Kind, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had begun is ended, and what came of it looked at; nothing more is begun."""
    matches = usual.library.with_text(kind, min(count, 300 if kind is Kind.TOPIC else count), np.random.default_rng(4))
    for limit_s in (0.1, 0.3, 0.6, 1.0):
        slow = SlowMachine(usual.photos, monkeypatch)
        steered = steer(slow, matches, lambda: usual.statistics, time_limit_s=limit_s, clock=slow.clock)
        assert slow.now <= limit_s + 3 * slow.STEP_S
        assert np.linalg.norm(steered.vector) == pytest.approx(1, abs=1e-5)
        monkeypatch.undo()


def in_half_precision(vector: Vectors) -> Vectors:
    return vector.astype(np.float16).astype(np.float32)


def in_six_digits(vector: Vectors) -> Vectors:
    return np.array([float(f"{value:.6g}") for value in vector], np.float32)


@pytest.mark.parametrize("rounded", [in_half_precision, in_six_digits])
def test_rounding_takes_no_match_away(usual: Indexed, rounded: Callable[[Vectors], Vectors]) -> None:
    matches = usual.library.with_text(Kind.RANDOM, 32, np.random.default_rng(12))
    vector = rounded(usual.steer(matches).vector)
    assert set(ranked(usual.library.vectors, vector)[:32]) == set(matches)


@pytest.mark.parametrize("kind", [Kind.RANDOM, Kind.TOPIC])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_lifted_photos_come_first_and_clips_best_behind_them(usual: Indexed, kind: Kind, count: int) -> None:
    library, random = usual.library, np.random.default_rng(count)
    kept = []
    for _ in range(3):
        matches = library.with_text(kind, count, random)
        text = embedded_text(library, int(library.topics[random.integers(3000)]), random)
        lifted = lift(usual.photos, text, matches, usual.statistics, over=lambda: False)
        assert lifted is not None
        order = ranked(library.vectors, lifted.vector)
        assert set(order[: lifted.count]) == set(matches[: lifted.count])
        own = [photo for photo in ranked(library.vectors, text) if photo not in set(matches[: lifted.count])][:100]
        kept.append(np.isin(order[lifted.count : lifted.count + 100], own).mean())
        assert lifted.count == count
    assert min(kept) >= 0.99


def test_no_more_are_lifted_than_fit(usual: Indexed) -> None:
    library, random = usual.library, np.random.default_rng(3)
    matches = library.with_text(Kind.RANDOM, 50, random)
    text = embedded_text(library, int(library.topics[0]), random)
    lifted = lift(usual.photos, text, matches, usual.statistics, over=lambda: False)
    assert lifted is not None
    assert lifted.count <= most(512) == 5
    assert lift(usual.photos, text, matches, usual.statistics, over=lambda: True) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_point_meets_the_conditions_of_optimality(seed: int) -> None:
    """Karush, Kuhn and Tucker's: feasible, a positive combination of constraints, and of those in force only."""
    random = np.random.default_rng(seed)
    count, dimension = int(random.integers(1, 60)), int(random.integers(40, 80))
    origin, start = random.normal(size=(2, dimension))
    constraints = Constraints(random.normal(size=(count, dimension)), random.normal(size=count))
    point = nearest(origin, constraints)
    slack = constraints.rows @ point - constraints.bounds
    assert slack.min() > -0.02
    in_force = constraints.rows[slack < 1e-9]
    combination, *_ = np.linalg.lstsq(in_force.T, point - origin, rcond=None)
    np.testing.assert_allclose(in_force.T @ combination, point - origin, atol=1e-8)
    assert combination.min(initial=0) > -1e-8
    np.testing.assert_allclose(nearest(origin, constraints, start), point, atol=1e-6)


def test_more_constraints_than_dimensions_are_met_if_they_can_be() -> None:
    random = np.random.default_rng(0)
    rows, inside = random.normal(size=(500, 20)), random.normal(size=20)
    point = nearest(np.zeros(20), Constraints(rows, rows @ inside - 0.1))
    assert (rows @ (point - inside)).min() > -0.11
    assert np.linalg.norm(point) <= np.linalg.norm(inside)


def test_constraints_that_cannot_hold_leave_a_finite_point() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    point = nearest(np.zeros(2), Constraints(rows, np.array([1.0, 1.0, 1.0])))
    assert np.isfinite(point).all()
    assert point[1] == pytest.approx(1, abs=0.01)
