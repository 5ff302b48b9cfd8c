"""The point nearest to a given one that satisfies linear inequalities."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

SOFTNESS: Final = 1e-5
"""Share of the constraints' mean squared length by which one is missed for each unit that it has to push: what cannot
hold is missed by little instead of driving the others off."""

STEPS: Final = 30
"""After which the point so far is taken."""

HALVINGS: Final = 30
"""Of the interval in which a step's length is sought."""

WHOLE: Final = 1 - 1e-6
"""Of a step, from which it counts as not shortened."""


@dataclass(frozen=True, eq=False)
class Constraints:
    """``rows @ point >= bounds``: float64 (n, d) and (n,)."""

    rows: Matrix
    bounds: Matrix

    def __add__(self, other: "Constraints") -> "Constraints":
        return Constraints(np.vstack([self.rows, other.rows]), np.r_[self.bounds, other.bounds])


def nearest(
    origin: Matrix,
    constraints: Constraints,
    start: Matrix | None = None,
    over: Callable[[], bool] = lambda: False,
) -> Matrix:
    """The point nearest to `origin` that satisfies the constraints.

    What a constraint is missed by counts with its square, heavily: the function to be minimised is quadratic but for
    the constraints that come and go. Newton's method with an exact line search ends after some ten steps, however many
    constraints there are (Keerthi and DeCoste 2005, of support vector machines).

    Args:
        origin: float64 (d,).
        start: float64 (d,), where to begin: the solution for fewer constraints, say.
        over: whether the time is up; then the point so far is taken.
    """
    rows, softness = constraints.rows, SOFTNESS * float(np.mean(np.square(constraints.rows).sum(1)))
    change = np.zeros(len(origin)) if start is None else start - origin
    bounds = constraints.bounds - rows @ origin
    missing = bounds - rows @ change
    for _ in range(STEPS):
        if over():
            break
        missed = missing > 0
        step = _ridge(rows[missed], bounds[missed], softness) - change
        gain = rows @ step
        length = _length(change, step, missing, gain, softness)
        change, missing = change + length * step, missing - length * gain
        if length > WHOLE and np.array_equal(missing > 0, missed):
            break
    return origin + change


def _ridge(rows: Matrix, values: Matrix, softness: float) -> Matrix:
    """The least of ``|x|² + |rows @ x - values|² / softness``."""
    if len(rows) < rows.shape[1]:
        dual: Matrix = _solve(rows @ rows.T, softness, values) @ rows
        return dual
    return _solve(rows.T @ rows, softness, values @ rows)


def _solve(gram: Matrix, softness: float, values: Matrix) -> Matrix:
    gram[np.diag_indices_from(gram)] += softness
    return np.linalg.solve(gram, values).astype(np.float64, copy=False)


def _length(change: Matrix, step: Matrix, missing: Matrix, gain: Matrix, softness: float) -> float:
    """Of the step, 1 at most: where the function is least on the way."""
    slope, curvature = float(change @ step), float(step @ step)

    def rises(length: float) -> bool:
        left = np.maximum(missing - length * gain, 0.0)
        return slope + length * curvature > float(gain @ left) / softness

    if not rises(WHOLE):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return low
