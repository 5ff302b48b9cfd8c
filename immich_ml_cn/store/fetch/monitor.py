"""Watching a transfer: cancellation, stall detection, progress."""

import threading
import time
from collections.abc import Callable

from immich_ml_cn.messages import tr

from .failure import Cancelled
from .options import FetchOptions
from .progress import Progress


class Stalled(Exception):
    """Too few bytes for too long."""


class TransferMonitor:
    """Reports a transfer's progress, and stops it when it is cancelled or stalls."""

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
        self._min_bytes = options.min_bytes_per_s * options.stall_timeout_s
        self._since = clock()
        self._bytes = 0

    def raise_if_cancelled(self) -> None:
        """
        Raises:
            Cancelled: the fetch is no longer wanted.
        """
        if self._cancelled.is_set():
            raise Cancelled(tr("fetching was stopped because the server is shutting down"))

    def wait(self, seconds: float) -> None:
        """Sleep before a retry.

        Raises:
            Cancelled: as `raise_if_cancelled`, at once.
        """
        self._cancelled.wait(seconds)
        self.raise_if_cancelled()

    def start_window(self) -> None:
        """Measure the rate from now on: a connection starts to deliver."""
        self._since, self._bytes = self._clock(), 0

    def advance(self, count: int) -> None:
        """`count` more bytes arrived.

        Raises:
            Cancelled: the fetch is no longer wanted.
            Stalled: fewer bytes than the slowest accepted rate over a whole window.
        """
        self.raise_if_cancelled()
        self.progress.advance(count)
        self._bytes += count
        seconds = self._clock() - self._since
        if seconds < self._window_s:
            return
        if self._bytes < self._min_bytes:
            raise Stalled(f"only {self._bytes} bytes in {seconds:.0f} s")
        self.start_window()
