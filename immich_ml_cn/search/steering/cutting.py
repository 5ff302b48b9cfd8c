"""Cutting planes: the photos that still rank too high are found in the index itself, and ruled out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .photos import Photos
from .problems import Problem
from .quadratic import Matrix

CANDIDATES: Final = 3000
"""Photos of a pass over the index that are kept at hand, the highest ranked."""

AT_ONCE: Final = 128
"""Photos that are ruled out between two solutions."""

ROUNDS: Final = 8
"""Solutions between two passes over the index."""

PASSES: Final = 4
CLEAR: Final = 2e-4
"""Of the direction's length: what a wanted photo has to stand above another by, for float16's and the answer's
rounding not to matter."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be ranked first among what.

    Attributes:
        wanted: indices (k,), the best first.
        free: bool (N,), photos that may stand anywhere: the wanted ones, and others whose place does not matter.
        over: whether the time is up.
    """

    photos: Photos
    wanted: NDArray[np.intp]
    free: NDArray[np.bool_]
    over: Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Found:
    """A direction (d,), and how many photos still stand above the lowest of the wanted ones."""

    direction: Matrix
    intruders: int

    @property
    def is_clean(self) -> bool:
        """Whether every wanted photo stands before every other."""
        return self.intruders == 0


def cut(
    task: Task,
    problem: Problem,
    first_scores: NDArray[np.float32],
    *,
    in_order: bool = False,
    goes_on: Callable[[Matrix], bool] = lambda direction: True,
) -> Found:
    """The problem's direction with the fewest intruders that the time allows.

    Args:
        first_scores: float32 (N,), of `problem.start`.
        goes_on: whether a direction is still worth pursuing.
    """
    wanted = task.photos.rows(task.wanted).astype(np.float64)
    state = _Cuts(problem, wanted, in_order)
    direction, scores = problem.start, first_scores
    best = Found(direction, _intruders(task, scores, direction))
    for number in range(PASSES):
        if (best.is_clean and not (in_order and number == 0)) or task.over() or not goes_on(direction):
            break
        state.add(*_highest(task, scores, CANDIDATES if number == 0 else CANDIDATES // 4))
        direction = state.refine(direction, task.over)
        scores = task.photos.scores(direction[None])[0]
        found = Found(direction, _intruders(task, scores, direction))
        if found.intruders < best.intruders or (number == 0 and in_order):
            best = found
    return best


def _intruders(task: Task, scores: NDArray[np.float32], direction: Matrix) -> int:
    lowest = float(scores[task.wanted].min()) - CLEAR * float(np.linalg.norm(direction))
    return int(np.count_nonzero((scores >= lowest) & ~task.free))


def _highest(task: Task, scores: NDArray[np.float32], count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The highest ranked photos that are not free, and their embeddings."""
    ranked = np.where(task.free, -np.inf, scores)
    count = min(count, len(ranked) - int(np.count_nonzero(task.free)))
    if count <= 0:
        return np.zeros(0, np.intp), np.zeros((0, task.photos.dimension), np.float32)
    indices = np.argpartition(-ranked, count - 1)[:count]
    return indices, task.photos.rows(indices)


class _Cuts:
    """The photos at hand, and those of them that are ruled out."""

    def __init__(self, problem: Problem, wanted: Matrix, in_order: bool) -> None:
        self._problem = problem
        self._wanted = wanted
        self._in_order = in_order
        self._indices = np.zeros(0, np.intp)
        self._rows = np.zeros((0, wanted.shape[1]), np.float32)
        self._ruled_out = np.zeros(0, np.intp)
        self._active = np.zeros(0, bool)

    def add(self, indices: NDArray[np.intp], rows: NDArray[np.float32]) -> None:
        """Put more photos at hand."""
        new = ~np.isin(indices, self._indices)
        self._indices = np.r_[self._indices, indices[new]]
        self._rows = np.vstack([self._rows, rows[new]])

    def refine(self, direction: Matrix, over: Callable[[], bool]) -> Matrix:
        """Solve until none of the photos at hand stands too high."""
        for number in range(ROUNDS):
            new = self._too_high(direction)
            if (not len(new) and not (self._in_order and number == 0)) or over():
                break
            self._rule_out(new)
            others = self._rows[self._ruled_out].astype(np.float64)
            direction, self._active = self._problem.solve(others, self._active, in_order=self._in_order)
        return direction

    def _rule_out(self, new: NDArray[np.intp]) -> None:
        """The solution leans on few of those that were ruled out before; the rest is forgotten, or it would grow."""
        if len(self._ruled_out) > 2 * AT_ONCE:
            self._ruled_out, self._active = self._ruled_out[self._active], self._active[self._active]
        self._ruled_out = np.r_[self._ruled_out, new]
        self._active = np.r_[self._active, np.ones(len(new), bool)]

    def _too_high(self, direction: Matrix) -> NDArray[np.intp]:
        """Places of photos at hand that are not ruled out yet and not clearly below the wanted ones, worst first."""
        lowest = float((self._wanted @ direction).min())
        lowest -= 10 * CLEAR * float(np.linalg.norm(direction))
        scores = self._rows @ direction.astype(np.float32)
        scores[self._ruled_out] = -np.inf
        worst: NDArray[np.intp] = np.argsort(-scores)[:AT_ONCE]
        return worst[scores[worst] >= lowest]
