"""Cutting planes: the photos that still rank too high are found in the index itself, and ruled out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .photos import Photos
from .problems import Problem
from .quadratic import Matrix

FIRST: Final = 400
"""Photos that are ruled out after the first pass over the index, the highest ranked: enough to see what is hopeless."""

AT_ONCE: Final = 1000
"""The same after each of the others, at most."""

PASSES: Final = 6
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
        company: indices of photos that are to come next.
    """

    photos: Photos
    wanted: NDArray[np.intp]
    free: NDArray[np.bool_]
    over: Callable[[], bool]
    company: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))


@dataclass(frozen=True, eq=False)
class Found:
    """A direction.

    Attributes:
        direction: float64 (d,).
        intruders: photos that still stand above the lowest of the wanted ones.
        strays: those that do above the lowest of their company.
    """

    direction: Matrix
    intruders: int
    strays: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether every wanted photo stands before every other."""
        return self.intruders == 0


class Search:
    """For the direction that solves a problem, among all photos."""

    def __init__(self, task: Task, problem: Problem) -> None:
        self._task = task
        self._problem = problem
        self._others = np.zeros((0, task.photos.dimension))
        self._known = task.free.copy()
        self._known[task.company] = True
        self._point = problem.start

    def run(self, goes_on: Callable[[Matrix], bool] = lambda direction: True) -> Found:
        """The direction with the fewest intruders that the time allows.

        Args:
            goes_on: whether a direction is still worth pursuing.
        """
        best, scores = self._judged()
        found = best
        for number in range(PASSES):
            if not found.intruders + found.strays or self._task.over() or not goes_on(found.direction):
                break
            self._rule_out(scores, FIRST if number == 0 else AT_ONCE)
            self._point = self._problem.solve(self._others, self._point, self._task.over)
            found, scores = self._judged()
            if (found.intruders, found.strays) < (best.intruders, best.strays):
                best = found
        return best

    def in_order(self, over: Callable[[], bool]) -> Found:
        """The direction that also has the wanted photos in their order, among those that are ruled out so far."""
        self._point = self._problem.solve(self._others, self._point, over, in_order=True)
        return self._judged()[0]

    def _judged(self) -> tuple[Found, NDArray[np.float32]]:
        """The direction, and how every photo scores, float32 (N,)."""
        direction = self._problem.direction(self._point)
        scores = self._task.photos.scores(direction[None])[0]
        clear = CLEAR * float(np.linalg.norm(direction))
        expected = self._task.free.copy()
        intruders = _above(scores, self._task.wanted, expected, clear)
        expected[self._task.company] = True
        return Found(direction, intruders, _above(scores, self._task.company, expected, clear)), scores

    def _rule_out(self, scores: NDArray[np.float32], count: int) -> None:
        """The highest ranked photos that are not ruled out yet."""
        count = min(count, len(scores) - int(np.count_nonzero(self._known)))
        if count > 0:
            highest = np.argpartition(np.where(self._known, np.inf, -scores), count - 1)[:count]
            self._known[highest] = True
            self._others = np.vstack([self._others, self._problem.prepared(self._task.photos.rows(highest))])


def _above(scores: NDArray[np.float32], photos: NDArray[np.intp], expected: NDArray[np.bool_], clear: float) -> int:
    """How many photos that are not expected to stand above the lowest of some."""
    return int(np.count_nonzero((scores >= scores[photos].min() - clear) & ~expected)) if len(photos) else 0
