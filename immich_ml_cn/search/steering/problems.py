"""Two ways to ask for a direction that ranks given photos above others."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .quadratic import Constraints, Matrix, nearest
from .statistics import Statistics

MARGIN: Final = 0.002
"""Cosine by which wanted photos are to stand above others, before the direction is normalised."""

GAP: Final = 0.05
"""The same where the wanted photos have 1, and photos have a variance of one in the directions that are sought."""

STEP: Final = 0.2
"""Share of the margin by which a wanted photo is to stand above the next."""

SAME: Final = 1e-3
"""Squared distance below which two photos count as one: neither can stand above the other."""


class Problem(ABC):
    """Directions that rank wanted photos above others; `point` is what is solved for, a direction and perhaps more."""

    def __init__(self, wanted: Matrix, origin: Matrix) -> None:
        """
        Args:
            wanted: float64 (k, d), the best first.
            origin: float64 (D,), the point to stay near to.
        """
        self._wanted = wanted
        self._origin = origin
        self.start = origin

    @abstractmethod
    def direction(self, point: Matrix) -> Matrix:
        """The direction (d,) in a point."""

    def prepared(self, others: NDArray[np.float32]) -> Matrix:
        """Embeddings (n, d) as `solve` takes them, which is done once for each."""
        return others.astype(np.float64)

    def solve(self, others: Matrix, point: Matrix, over: Callable[[], bool], *, in_order: bool = False) -> Matrix:
        """The point that keeps the wanted photos above `others`, prepared (n, d).

        Args:
            point: where to begin.
            over: whether the time is up; then the point so far is taken.
            in_order: the wanted photos are to follow each other in their order, too.
        """
        constraints = self._above() + self._below(others)
        if in_order:
            constraints += self._follow(_steps(self._wanted))
        return nearest(self._origin, constraints, point, over)

    @abstractmethod
    def _above(self) -> Constraints:
        """The wanted photos stand high."""

    @abstractmethod
    def _below(self, others: Matrix) -> Constraints:
        """Others (n, d) do not."""

    @abstractmethod
    def _follow(self, steps: Matrix) -> Constraints:
        """Differences of wanted photos (n, d) are differences in their place, too."""


class Nearest(Problem):
    """The direction nearest to the wanted photos' own: approximate indexes follow it well.

    Least ``|q - a|² + (t - u)²`` such that the wanted photos have at least t plus a margin and the others at most t.
    Their company has at most t as well, and at least a level of its own plus a margin, which the others have at most.
    """

    def __init__(self, wanted: NDArray[np.float32], anchor: Matrix, company: NDArray[np.float32] | None = None) -> None:
        """
        Args:
            wanted: float32 (k, d).
            anchor: float64 (d,) of unit length, the direction to stay near to.
            company: float32 (n, d), photos that are to stand between the wanted ones and the others.
        """
        groups = [wanted] if company is None or not len(company) else [wanted, company]
        self._groups = [group.astype(np.float64) for group in groups]
        levels = [float(np.mean(group @ anchor)) - MARGIN for group in self._groups]
        super().__init__(self._groups[0], np.r_[anchor, levels])

    def direction(self, point: Matrix) -> Matrix:
        """See `Problem`."""
        return point[: -len(self._groups)]

    def _above(self) -> Constraints:
        constraints = self._from(0, self._groups[0])
        for level, group in enumerate(self._groups[1:]):
            constraints += self._to(level, group) + self._from(level + 1, group)
        return constraints

    def _below(self, others: Matrix) -> Constraints:
        return self._to(len(self._groups) - 1, others)

    def _follow(self, steps: Matrix) -> Constraints:
        return Constraints(np.column_stack([steps, self._levels(len(steps))]), np.full(len(steps), STEP * MARGIN))

    def _from(self, level: int, rows: Matrix) -> Constraints:
        return Constraints(np.column_stack([rows, self._levels(len(rows), level, -1.0)]), np.full(len(rows), MARGIN))

    def _to(self, level: int, rows: Matrix) -> Constraints:
        return Constraints(np.column_stack([-rows, self._levels(len(rows), level, 1.0)]), np.zeros(len(rows)))

    def _levels(self, count: int, level: int = 0, sign: float = 0.0) -> Matrix:
        columns = np.zeros((count, len(self._groups)))
        columns[:, level] = sign
        return columns


class Whitened(Problem):
    """The direction of least power over all photos at which the wanted ones have 1, the others at most 1 less a gap.

    Without others it is the linear discriminant, known from signal processing as the MVDR beamformer.
    """

    def __init__(self, wanted: NDArray[np.float32], statistics: Statistics, pull: Matrix | None = None) -> None:
        """
        Args:
            wanted: float32 (k, d).
            pull: float64 (d,), a whitened direction to stay near to.
        """
        super().__init__(statistics.whiten(wanted), np.zeros(wanted.shape[1]) if pull is None else pull)
        self._statistics = statistics
        self.start = nearest(self._origin, self._above())

    def direction(self, point: Matrix) -> Matrix:
        """See `Problem`."""
        return self._statistics.direction(point)

    def prepared(self, others: NDArray[np.float32]) -> Matrix:
        """See `Problem`."""
        return self._statistics.whiten(others)

    def _above(self) -> Constraints:
        return Constraints(self._wanted, np.ones(len(self._wanted)))

    def _below(self, others: Matrix) -> Constraints:
        return Constraints(-others, np.full(len(others), GAP - 1.0))

    def _follow(self, steps: Matrix) -> Constraints:
        return Constraints(steps, np.full(len(steps), STEP * GAP))


def _steps(wanted: Matrix) -> Matrix:
    """Each wanted photo less the next, where there is a difference to speak of."""
    steps = wanted[:-1] - wanted[1:]
    kept: Matrix = steps[np.einsum("nd,nd->n", steps, steps) > SAME]
    return kept
