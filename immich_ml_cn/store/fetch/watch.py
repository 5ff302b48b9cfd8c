"""The eye on a running transfer: is it still wanted, is it still moving."""

import threading
import time
from collections.abc import Callable

from immich_ml_cn.messages import tr

from .failure import Cancelled
from .options import FetchOptions
from .progress import Progress


class Stalled(Exception):
    """Too few bytes for too long."""


class Watch:
    """Passes progress on, and stops a transfer that nobody waits for or that does not move."""

    def __init__(
        self,
        options: FetchOptions,
        progress: Progress,
        cancelled: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress = progress
        self._cancelled = cancelled
        self._clock = clock
        self._window_s = options.stall_timeout_s
        self._least = options.slowest_bytes_per_s * options.stall_timeout_s
        self._since = clock()
        self._bytes = 0

    def check(self) -> None:
        """Raises Cancelled when the fetch is no longer wanted."""
        if self._cancelled.is_set():
            raise Cancelled(tr("fetching was stopped because the server is shutting down"))

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the fetch is wanted."""
        self._cancelled.wait(seconds)
        self.check()

    def begin(self) -> None:
        """A connection starts to deliver: judge its speed from now on."""
        self._since, self._bytes = self._clock(), 0

    def advance(self, count: int) -> None:
        """`count` more bytes arrived.

        Raises:
            Cancelled: the fetch is no longer wanted.
            Stalled: fewer bytes than the slowest accepted rate over a whole window.
        """
        self.check()
        self.progress.advance(count)
        self._bytes += count
        seconds = self._clock() - self._since
        if seconds < self._window_s:
            return
        if self._bytes < self._least:
            raise Stalled(f"only {self._bytes} bytes in {seconds:.0f} s")
        self.begin()
