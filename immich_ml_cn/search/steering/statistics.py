"""What the photos of a library have in common: their mean and how they vary around it."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

RIDGE: Final = 1e-2
"""Share of the mean variance that is added to every direction: few photos do not vary in all of them."""

SAMPLE: Final = 12_000
"""Photos that are enough to know the covariance of up to 1,536 dimensions by."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of photos.

    Attributes:
        mean: float64 (d,).
        whitening: float64 (d, d), the lower triangular inverse of the covariance's Cholesky factor: photos become
            points of unit variance in every direction by ``(x - mean) @ whitening.T``.
        count: photos that there were.
    """

    mean: Matrix
    whitening: Matrix
    count: int

    @classmethod
    def of(cls, sample: NDArray[np.float32], count: int) -> "Statistics":
        """
        Args:
            sample: float32 (n, d), some of the photos.
            count: how many there are in all.
        """
        mean = sample.mean(0, dtype=np.float64)
        centred = sample - mean.astype(np.float32)
        covariance = (centred.T @ centred).astype(np.float64) / max(1, len(sample))
        variance = max(float(np.trace(covariance)) / len(covariance), 1e-9)
        covariance[np.diag_indices_from(covariance)] += RIDGE * variance
        return cls(mean, np.linalg.inv(np.linalg.cholesky(covariance)), count)

    def whiten(self, rows: NDArray[np.float32]) -> Matrix:
        """Photos (n, d) as points of unit variance in every direction (n, d)."""
        return ((rows - self.mean.astype(np.float32)) @ self.whitening.astype(np.float32).T).astype(np.float64)

    def direction(self, weights: Matrix) -> Matrix:
        """The query vector (d,) that ranks photos as `weights` (d,) rank whitened ones."""
        direction: Matrix = weights @ self.whitening
        return direction
