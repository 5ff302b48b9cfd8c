"""Which photos the first page of a mixed search showed out of turn, so that no later page shows them again."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_SEARCHES: Final = 1000
KEEP_S: Final = 900.0
"""Seconds in which a person has scrolled to the end, or has given up."""

Hits = frozenset[str]


class ShownHits:
    """Remembers ids by a digest of who searched for what, for a while, in memory only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._searches: OrderedDict[bytes, tuple[float, Hits]] = OrderedDict()

    def put(self, key: bytes, hits: Hits) -> None:
        """Remember a search; the one that was made longest ago is forgotten where there are too many."""
        self._searches[key] = (self._clock() + KEEP_S, hits)
        self._searches.move_to_end(key)
        while len(self._searches) > MAX_SEARCHES:
            self._searches.popitem(last=False)

    def get(self, key: bytes) -> Hits | None:
        """The ids of a search, None where it is not known (any more)."""
        until, hits = self._searches.get(key, (0.0, frozenset()))
        return hits if self._clock() < until else None
