"""A query → the photos with its text → a vector that ranks them first. Of one thread."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from .embeddings import Embeddings
from .folder import Folder
from .query import Query
from .reader import Reader, rows_of
from .steering import Lifted, Steered, lift, steer
from .texts import Match, Tier

MOST_MATCHES: Final = 1000
"""Photos that a vector is sought for, the best; d/16 of them have a place at the top."""


@dataclass(frozen=True, eq=False)
class Found:
    """Photos with the text of a query, the best first.

    Attributes:
        model: whose embeddings are searched.
        photos: all that have one.
        rows: int (k,), where the matches stand among them.
        matches: the matches themselves.
        query: what was looked for in the end.
        unplaced: matches that have no embedding under the model.
        seconds: that it took to find them.
    """

    model: str
    photos: Embeddings
    rows: NDArray[np.intp]
    matches: list[Match]
    query: Query
    unplaced: int
    seconds: float

    def __len__(self) -> int:
        return len(self.rows)


class Searcher:
    """Searches the index."""

    def __init__(
        self,
        folder: Folder,
        *,
        threads: int = 1,
        time_limit_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            threads: that score photos.
            time_limit_s: seconds for finding photos and a vector; then the best so far is taken.
            clock: monotonic seconds.
        """
        threadpool_limits(1, "blas")  # OpenBLAS's spin for each other: 25 times slower beside models that use all cores
        self._folder = folder
        self._reader = Reader(folder, threads)
        self._time_limit_s = time_limit_s
        self._clock = clock

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def find(self, model: str, dimension: int | None, query: Query, *, misread: bool = True) -> Found:
        """The photos with the text. Where none has all of the words, the last ones may say what the photos show.

        Args:
            model: such as ``clip/chinese-clip-vit-base-patch16``.
            dimension: of its embeddings; None for the one that there is.
            misread: photos with one wrong character, too.

        Raises:
            sqlite3.Error, OSError: the index cannot be read.
        """
        started = self._clock()
        photos = self._reader.photos(model, dimension or self._folder.dimension(model) or 1)
        matches, query = self._match(query, misread=misread)
        rows, known = rows_of(photos, matches)
        return Found(
            model,
            photos,
            rows[:MOST_MATCHES],
            known[:MOST_MATCHES],
            query,
            unplaced=len(matches) - len(known),
            seconds=self._clock() - started,
        )

    def matches(self, query: Query) -> list[Match]:
        """All photos with the text, the best first, whether or not they have an embedding.

        Raises:
            sqlite3.Error, OSError: the index cannot be read.
        """
        return self._match(query, misread=True)[0]

    def in_order_of(self, found: Found, text: NDArray[np.float32]) -> Found:
        """The matches in the order of a text's embedding (d,); those with something misread after all others."""
        scores = found.photos.rows(found.rows) @ text
        misread = np.array([match.tier is Tier.MISREAD for match in found.matches], bool)
        order = np.lexsort((-scores, misread))
        return replace(found, rows=found.rows[order], matches=[found.matches[index] for index in order])

    def steer(self, found: Found) -> Steered:
        """The vector that ranks the matches first; there is at least one."""
        return steer(
            found.photos,
            found.rows,
            lambda: self._reader.statistics(found.model, found.photos),
            hidden=found.photos.hidden,
            time_limit_s=self._left_s(found),
            clock=self._clock,
        )

    def lift(self, found: Found, text: NDArray[np.float32]) -> Lifted | None:
        """The vector that ranks the best matches first and keeps the order of a text's embedding (d,) behind them."""
        end = self._clock() + self._left_s(found)
        return lift(
            found.photos,
            text,
            found.rows,
            self._reader.statistics(found.model, found.photos),
            over=lambda: self._clock() > end,
            hidden=found.photos.hidden,
        )

    def _left_s(self, found: Found) -> float:
        """Seconds for the vector: what is left, and half of all at least."""
        return max(self._time_limit_s - found.seconds, self._time_limit_s / 2)

    def _match(self, query: Query, *, misread: bool) -> tuple[list[Match], Query]:
        end = self._clock() + self._time_limit_s
        matches = self._reader.match(query, misread=misread)
        if matches or query.meaning or not misread:
            return matches, query
        for count in range(len(query.terms) - 1, 0, -1):
            if self._clock() > end:
                break
            shown = " ".join(term.text for term in query.terms[count:])
            fewer = replace(query, terms=query.terms[:count], meaning=shown)
            matches = self._reader.match(fewer)
            if matches:
                return matches, fewer
        return [], query
