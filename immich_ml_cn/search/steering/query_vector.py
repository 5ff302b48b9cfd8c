"""A query vector that puts given photos first in an ordering by cosine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .cutting import Found, Search, Task
from .photos import Photos
from .problems import Nearest, Whitened
from .quadratic import Matrix
from .statistics import Statistics

CLOSE: Final = 0.85
"""Cosine with the wanted photos' own direction below which approximate indexes lose a vector anyway."""

FOLLOWED: Final = 0.9
"""The same above which they follow one. Where not all matches have a place, the whitened vector is preferred to one
that is less close: it ranks the rest higher."""

NEAR_SHARE: Final = 0.4
"""Of the time, for the near vector; the rest is the whitened one's."""

LESS_CLOSE: Final = 0.995
"""Share of that cosine that the order of few matches may leave: with 0.98, pgvector's HNSW lost another
6 % of them. Of more it loses many anyway, and those with something misread are to come last."""

ACCOMPANIED: Final = 13
"""Wanted photos that have company, at most."""

COMPANY: Final = 2
"""Photos that are to stand behind the wanted ones for each of them."""

PULL_NEAR: Final = 2.0
"""Weight of the matches without a place of their own in the direction to stay near to; those with one have 1."""

PULL_WHITENED: Final = 0.5
"""What they are to have on average in a whitened ranking; those with a place have 1."""


@dataclass(frozen=True, eq=False)
class Steered:
    """A query vector.

    Attributes:
        vector: float32 (d,), of unit length.
        wanted: how many photos were to come first.
        intruders: how many others still stand above the lowest of them.
        in_order: whether the wanted photos follow each other in the order that was asked for.
        method: ``near`` or ``whitened``.
    """

    vector: NDArray[np.float32]
    wanted: int
    intruders: int
    in_order: bool
    method: str

    @property
    def placed(self) -> int:
        """How many photos come first at least: those that were wanted, less the others that may stand among them."""
        return max(0, self.wanted - self.intruders)


def places(dimension: int) -> int:
    """How many photos always find room at the top."""
    return max(1, dimension // 16)


def steer(
    photos: Photos,
    matches: NDArray[np.intp],
    statistics: Callable[[], Statistics],
    *,
    hidden: NDArray[np.intp] | None = None,
    time_limit_s: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
) -> Steered:
    """The vector that ranks the best d/16 matches before every other photo, and the rest of them high.

    It is the one nearest to the matches' own mean that does; where there is none, the whitened one of least norm. Both
    are found by cutting planes. When the time is up, the best so far is taken.

    Args:
        photos: N embeddings of d numbers.
        matches: indices (k,), the best first, each once; at least one.
        statistics: of the photos; asked for only when needed.
        hidden: indices of photos that do not exist any more.
    """
    started = clock()
    room = places(photos.dimension)
    wanted, rest = matches[:room], matches[room:]
    free = np.zeros(len(photos), bool)
    free[matches] = True
    if hidden is not None:
        free[hidden] = True
    task = Task(photos, wanted, free, lambda: clock() - started > time_limit_s)
    vectors = photos.rows(wanted)
    anchor = _anchor(photos, wanted, rest)
    least = FOLLOWED if len(rest) else CLOSE
    near, found = _near(task, vectors, anchor, least, lambda: clock() - started > NEAR_SHARE * time_limit_s)
    if (found.is_clean and (not len(rest) or _cosine(found.direction, anchor) > least)) or task.over():
        return _finished(task, found if len(rest) else _in_order(task, near, found, anchor), "near")
    pull = _pull(statistics().whiten(photos.rows(rest))) if len(rest) else None
    search = Search(task, Whitened(vectors, statistics(), pull))
    other = search.run()
    if other.is_clean or other.intruders < found.intruders:
        return _finished(task, other if len(rest) else _in_order(task, search, other, other.direction), "whitened")
    return _finished(task, found, "near")


def _near(
    task: Task, vectors: NDArray[np.float32], anchor: Matrix, least: float, over: Callable[[], bool]
) -> tuple[Search, Found]:
    """The direction near to the anchor, with company where that can be had."""

    def is_close(direction: Matrix) -> bool:
        return _cosine(direction, anchor) > least

    accompanied = replace(task, over=over, company=_company(task, vectors))
    if len(accompanied.company):
        search = Search(accompanied, Nearest(vectors, anchor, task.photos.rows(accompanied.company)))
        found = search.run(is_close)
        if found.is_clean and is_close(found.direction):
            return search, found
    search = Search(replace(task, over=over), Nearest(vectors, anchor))
    return search, search.run(is_close)


def _company(task: Task, vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    """The photos most like each wanted one, as long as there are few: an index that is a graph is walked from photo to
    photo, and those lead to it. It keeps 40 in sight."""
    if not 1 < len(vectors) <= ACCOMPANIED:
        return np.zeros(0, np.intp)
    count = min(COMPANY, len(task.free) - int(np.count_nonzero(task.free)))
    if count == 0:
        return np.zeros(0, np.intp)
    scores = task.photos.scores(vectors.astype(np.float64))
    alike = [np.argpartition(np.where(task.free, np.inf, -row), count - 1)[:count] for row in scores]
    return np.unique(np.concatenate(alike))


def _anchor(photos: Photos, wanted: NDArray[np.intp], rest: NDArray[np.intp]) -> Matrix:
    anchor = _unit(photos.rows(wanted).mean(0, dtype=np.float64))
    if len(rest):
        anchor = _unit(anchor + PULL_NEAR * _unit(photos.rows(rest).mean(0, dtype=np.float64)))
    return anchor


def _pull(rest: Matrix) -> Matrix:
    """The least whitened direction that gives photos `PULL_WHITENED`, on average."""
    mean: Matrix = rest.mean(0)
    return PULL_WHITENED * mean / float(mean @ mean)


def _in_order(task: Task, search: Search, found: Found, near_to: Matrix) -> Found:
    """The direction that also has the wanted photos in their order, where that costs nothing else. There is no room for
    it where some matches have no place."""
    if len(task.wanted) < 2 or not found.is_clean or task.over() or _is_in_order(task, found.direction):
        return found
    ordered = search.in_order(task.over)
    least = LESS_CLOSE * _cosine(found.direction, near_to) if len(task.wanted) <= ACCOMPANIED else -1.0
    return ordered if ordered.is_clean and _cosine(ordered.direction, near_to) >= least else found


def _is_in_order(task: Task, direction: Matrix) -> bool:
    scores = task.photos.rows(task.wanted) @ direction.astype(np.float32)
    return bool(np.all(np.diff(scores) <= 1e-6))


def _finished(task: Task, found: Found, method: str) -> Steered:
    vector = _unit(found.direction).astype(np.float32)
    return Steered(vector, len(task.wanted), found.intruders, _is_in_order(task, found.direction), method)


def _unit(vector: Matrix) -> Matrix:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _cosine(one: Matrix, other: Matrix) -> float:
    return float(_unit(one) @ _unit(other))
