"""Two ways to ask for a direction that ranks given photos above others."""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from .quadratic import Matrix, least_vector
from .statistics import Statistics

MARGIN: Final = 0.005
"""Cosine by which wanted photos are to stand above others, before the direction is normalised."""

GAP: Final = 0.2
"""The same where photos are whitened and the wanted ones have 1."""

STEP: Final = 0.2
"""Share of the margin by which a wanted photo is to stand above the next."""

SAME: Final = 1e-3
"""Squared distance below which two photos count as one: neither can stand above the other."""


class Problem(Protocol):
    """Directions (d,) that rank wanted photos above others."""

    start: Matrix
    """The direction as long as no others are known."""

    def solve(
        self, others: Matrix, active: NDArray[np.bool_] | None, *, in_order: bool
    ) -> tuple[Matrix, NDArray[np.bool_]]:
        """The direction that keeps the wanted photos above `others` (n, d), and which others it leans on, (n,).

        Args:
            active: which of the others are expected to matter.
            in_order: the wanted photos are to follow each other in their order, too.
        """
        ...


class Nearest:
    """The direction nearest to the wanted photos' own: approximate indexes follow it well.

    Least ``|q - a|² + (t - u)²`` such that the wanted photos have at least t plus a margin and the others at most t.
    """

    def __init__(self, wanted: Matrix, anchor: Matrix) -> None:
        """
        Args:
            wanted: float64 (k, d).
            anchor: float64 (d,) of unit length, the direction to stay near to.
        """
        self._wanted = wanted
        self._near = np.append(anchor, float(np.mean(wanted @ anchor)) - MARGIN)
        self.start = anchor

    def solve(
        self, others: Matrix, active: NDArray[np.bool_] | None, *, in_order: bool
    ) -> tuple[Matrix, NDArray[np.bool_]]:
        """See `Problem`."""
        steps = _steps(self._wanted) if in_order else self._wanted[:0]
        rows = np.vstack([_beside(self._wanted, -1.0), _beside(steps, 0.0), _beside(-others, 1.0)])
        bounds = np.r_[np.full(len(self._wanted), MARGIN), np.full(len(steps), STEP * MARGIN), np.zeros(len(others))]
        change, active = _solve(rows, bounds - rows @ self._near, active, len(others))
        return (self._near + change)[:-1], active


class Whitened:
    """The direction of least power over all photos at which the wanted ones have 1, the others at most 1 less a gap.

    Without others it is the linear discriminant, known from signal processing as the MVDR beamformer.
    """

    def __init__(self, wanted: Matrix, statistics: Statistics, pull: Matrix | None = None) -> None:
        """
        Args:
            wanted: float64 (k, d).
            pull: float64 (d,), a whitened direction to stay near to.
        """
        self._statistics = statistics
        self._wanted = statistics.whiten(wanted)
        self._near = np.zeros(wanted.shape[1]) if pull is None else pull
        self.start, _ = self.solve(wanted[:0], None, in_order=False)

    def solve(
        self, others: Matrix, active: NDArray[np.bool_] | None, *, in_order: bool
    ) -> tuple[Matrix, NDArray[np.bool_]]:
        """See `Problem`."""
        steps = _steps(self._wanted) if in_order else self._wanted[:0]
        rows = np.vstack([self._wanted, steps, -self._statistics.whiten(others)])
        bounds = np.r_[np.ones(len(self._wanted)), np.full(len(steps), STEP * GAP), np.full(len(others), GAP - 1.0)]
        change, active = _solve(rows, bounds - rows @ self._near, active, len(others))
        return self._statistics.direction(self._near + change), active


def _solve(
    rows: Matrix, bounds: Matrix, active: NDArray[np.bool_] | None, others: int
) -> tuple[Matrix, NDArray[np.bool_]]:
    """The least change, and which of the last `others` rows it leans on; those before them are expected to matter."""
    guess = None if active is None else np.r_[np.ones(len(rows) - others, bool), active]
    change, in_force = least_vector(rows, bounds, guess)
    return change, in_force[len(rows) - others :]


def _steps(wanted: Matrix) -> Matrix:
    """Each wanted photo less the next, where there is a difference to speak of."""
    steps = wanted[:-1] - wanted[1:]
    kept: Matrix = steps[np.einsum("nd,nd->n", steps, steps) > SAME]
    return kept


def _beside(rows: Matrix, value: float) -> Matrix:
    return np.column_stack([rows, np.full(len(rows), value)])
