"""What happened in each of the last 60 minutes, for people who look at the server's page."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MINUTES: Final = 60


@dataclass(slots=True)
class Minute:
    """One minute: photos that were answered, and the most items that waited for a batch when one was."""

    photos: int = 0
    queue: int = 0


class LastHour:
    """Counts photos by the minute. Costs nothing while nothing is asked: no task, no timer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._minutes = deque([Minute() for _ in range(MINUTES)], MINUTES)
        self._current = int(clock() // 60)

    def count_photo(self, queue: int) -> None:
        """Count an answered photo.

        Args:
            queue: items that wait for a batch at this moment, of all models.
        """
        self._advance()
        minute = self._minutes[-1]
        minute.photos += 1
        minute.queue = max(minute.queue, queue)

    def minutes(self) -> list[dict[str, int]]:
        """The last 60 minutes, the current one last."""
        self._advance()
        return [{"photos": minute.photos, "queue": minute.queue} for minute in self._minutes]

    def _advance(self) -> None:
        now = int(self._clock() // 60)
        for _ in range(min(MINUTES, now - self._current)):
            self._minutes.append(Minute())
        self._current = now
