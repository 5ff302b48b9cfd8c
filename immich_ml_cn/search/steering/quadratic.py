"""The least vector that satisfies linear inequalities."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

SOFTNESS: Final = 1e-4
"""Share of the constraints' mean squared length that is added to the dual's diagonal: what cannot hold is missed by
little instead of driving the others off."""

PIVOTS: Final = 60
"""Exchanges after which the solution so far is taken."""

PATIENCE: Final = 3
"""Exchanges of whole blocks without an improvement, before single ones are exchanged."""


def least_vector(
    constraints: Matrix, bounds: Matrix, active: NDArray[np.bool_] | None = None
) -> tuple[Matrix, NDArray[np.bool_]]:
    """The vector w of least length with ``constraints @ w >= bounds``, and which constraints hold it.

    The dual, ``min a'Ga/2 - b'a`` over ``a >= 0`` with ``G = AA'``, is solved by block principal pivoting (Portugal,
    Júdice and Vicente 1994; Kim and Park 2011): each step is one linear system of the constraints in force.

    Args:
        constraints: float64 (n, d).
        bounds: float64 (n,).
        active: bool (n,), a guess of the constraints that will be in force, such as those of a like problem.

    Returns:
        float64 (d,) and bool (n,).
    """
    gram = constraints @ constraints.T
    gram[np.diag_indices_from(gram)] += SOFTNESS * np.mean(np.diagonal(gram)) + 1e-12
    active = np.ones(len(bounds), bool) if active is None else active.copy()
    fewest, patience = len(bounds) + 1, PATIENCE
    for _ in range(PIVOTS):
        dual, slack = _at(gram, bounds, active)
        wrong = np.where(active, dual < -1e-10, slack < -1e-10)
        count = int(np.count_nonzero(wrong))
        if count == 0:
            break
        if count < fewest:
            fewest, patience = count, PATIENCE
        elif patience > 0:
            patience -= 1
        else:
            wrong[: np.flatnonzero(wrong)[-1]] = False
        active ^= wrong
    dual, _ = _at(gram, bounds, active)
    return constraints.T @ np.maximum(dual, 0.0), active


def _at(gram: Matrix, bounds: Matrix, active: NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """The dual's variables with exactly the active ones free, and by how much each constraint is exceeded."""
    dual = np.zeros(len(bounds))
    rows = np.flatnonzero(active)
    if len(rows):
        dual[rows] = np.linalg.solve(gram[np.ix_(rows, rows)], bounds[rows])
    return dual, gram[:, rows] @ dual[rows] - bounds
