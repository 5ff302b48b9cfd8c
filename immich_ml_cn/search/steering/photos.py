"""What a query vector is sought among."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Photos(Protocol):
    """Embeddings of N photos, each float (d,) of unit length."""

    def __len__(self) -> int: ...

    @property
    def dimension(self) -> int:
        """d."""
        ...

    def rows(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """The embeddings at some indices, float32 (n, d)."""
        ...

    def scores(self, directions: NDArray[np.float64]) -> NDArray[np.float32]:
        """Inner products of m directions (m, d) with every photo, float32 (m, N)."""
        ...
