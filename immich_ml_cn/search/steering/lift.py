"""A query vector that puts a few photos first and keeps CLIP's own order behind them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .photos import Photos
from .quadratic import Constraints, Matrix, nearest
from .statistics import Statistics

KEPT: Final = 100
"""Photos behind the lifted ones that are to stay: CLIP's best."""

LEAST_KEPT: Final = 1.0
"""Share of them in the index, whose numbers are rounded; below it, fewer photos are lifted."""

PASSES: Final = 6
AT_ONCE: Final = 150
"""Photos that are ruled out between two passes over the index."""


@dataclass(frozen=True, eq=False)
class Lifted:
    """A query vector, float32 (d,) of unit length, with how many photos first, and the share of CLIP's best kept."""

    vector: NDArray[np.float32]
    count: int
    kept: float


def most(dimension: int) -> int:
    """How many photos can be lifted without disturbing the rest."""
    return max(1, dimension // 100)


def lift(
    photos: Photos,
    text: NDArray[np.float32],
    matches: NDArray[np.intp],
    statistics: Statistics,
    *,
    over: Callable[[], bool],
    hidden: NDArray[np.intp] | None = None,
) -> Lifted | None:
    """The vector nearest to CLIP's own, in the photos' metric, that ranks the best matches before every other photo.

    Fewer of them where all do not fit; None where not even one does.

    Args:
        text: float32 (d,), CLIP's embedding of the query.
        matches: indices, the best first.
        over: whether the time is up.
    """
    scores = photos.scores(text[None].astype(np.float64))[0]
    if hidden is not None:
        scores[hidden] = -np.inf
    count = min(len(matches), most(photos.dimension))
    while count > 0 and not over():
        lifted = _Lift(photos, text, scores, matches[:count], statistics, hidden).solve(over)
        if lifted is not None:
            return lifted
        count //= 2
    return None


class _Lift:
    """One attempt, for given photos."""

    def __init__(
        self,
        photos: Photos,
        text: NDArray[np.float32],
        scores: NDArray[np.float32],
        matches: NDArray[np.intp],
        statistics: Statistics,
        hidden: NDArray[np.intp] | None,
    ) -> None:
        self._photos, self._text, self._scores, self._matches = photos, text.astype(np.float64), scores, matches
        self._statistics, self._hidden = statistics, hidden
        others = scores.copy()
        others[matches] = -np.inf
        kept = min(KEPT, int(np.count_nonzero(others > -np.inf)))
        self._own = np.argsort(-others)[:kept]
        self._best = float(others[self._own[0]]) if kept else 0.0
        self._edge = float(others[self._own[-1]]) if kept else -1.0
        self._step = max((self._best - self._edge) / 20, 1e-3)

    def solve(self, over: Callable[[], bool]) -> Lifted | None:
        """The vector, where it does what it should."""
        ruled_out = np.zeros(0, np.intp)
        for _ in range(PASSES):
            change = self._change(ruled_out, over)
            scores = self._photos.scores((self._text + change)[None])[0]
            if self._hidden is not None:
                scores[self._hidden] = -np.inf
            lifted = self._judged(change, scores)
            if lifted is not None:
                return lifted
            new = self._too_high(scores, ruled_out, float(change @ self._statistics.mean))
            if not len(new) or over():
                return None
            ruled_out = np.r_[ruled_out, new]
        return None

    def _change(self, ruled_out: NDArray[np.intp], over: Callable[[], bool]) -> Matrix:
        """The least change of the text's vector, measured by how far it moves the photos.

        Every photo moves by the same as their mean does, which changes no order; the rest of its move is bounded.
        """
        lifted, own, others = (self._whitened(rows) for rows in (self._matches, self._own, ruled_out))
        floor = self._edge + self._step / 10
        rows = np.vstack([lifted, -own, own, -others])
        bounds = np.concatenate(
            [
                self._best + self._step - self._scores[self._matches],
                self._scores[self._own] - self._best,
                floor - self._scores[self._own],
                self._scores[ruled_out] - self._edge + self._step / 10,
            ]
        ).astype(np.float64)
        nothing = np.zeros(self._photos.dimension)
        return self._statistics.direction(nearest(nothing, Constraints(rows, bounds), over=over))

    def _whitened(self, indices: NDArray[np.intp]) -> Matrix:
        return self._statistics.whiten(self._photos.rows(indices))

    def _judged(self, change: Matrix, scores: NDArray[np.float32]) -> Lifted | None:
        top = np.argsort(-scores)[: len(self._matches) + len(self._own)]
        if not np.isin(top[: len(self._matches)], self._matches).all():
            return None
        kept = float(np.isin(top[len(self._matches) :], self._own).mean()) if len(self._own) else 1.0
        if kept < LEAST_KEPT:
            return None
        vector = self._text + change
        return Lifted((vector / np.linalg.norm(vector)).astype(np.float32), len(self._matches), kept)

    def _too_high(self, scores: NDArray[np.float32], ruled_out: NDArray[np.intp], shift: float) -> NDArray[np.intp]:
        moved = scores - np.float32(shift)
        moved[np.concatenate([self._matches, self._own, ruled_out])] = -np.inf
        worst: NDArray[np.intp] = np.argsort(-moved)[:AT_ONCE]
        return worst[moved[worst] > self._edge - self._step / 20]
