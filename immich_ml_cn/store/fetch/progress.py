"""Progress of downloads: lines in the log, a bar on a terminal, numbers for `/status` and error messages."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from immich_ml_cn.messages import tr

_MIN_LOGGED_BYTES = 1_000_000


class Progress(Protocol):
    """Receives the progress of each file, on the thread that fetches it."""

    def start(self, file: str, done: int, total: int | None) -> None:
        """A file begins with `done` bytes here from before, of `total` if that is known; again once it is known."""
        ...

    def advance(self, count: int) -> None:
        """`count` more bytes are here; negative when a transfer has to begin again."""
        ...

    def finish(self) -> None:
        """No more of this file, whole or not."""
        ...


class NullProgress:
    """Ignores progress."""

    def start(self, file: str, done: int, total: int | None) -> None: ...

    def advance(self, count: int) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FileProgress:
    """Bytes of one file that have arrived."""

    file: str
    done: int
    total: int | None

    @property
    def said(self) -> str:
        """How far it is, for people."""
        if not self.total:
            return f"{self.file}: {_size(self.done)}"
        percent = self.done * 100 // self.total
        return tr("{file}: {percent} % of {size}", file=self.file, percent=percent, size=_size(self.total))

    def __str__(self) -> str:
        return str(self.said)


class ProgressState:
    """The latest progress, for other threads to read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: FileProgress | None = None

    def __repr__(self) -> str:
        return f"<ProgressState {self.now or 'idle'}>"

    @property
    def now(self) -> FileProgress | None:
        """The file being downloaded, None between files."""
        return self._now

    def start(self, file: str, done: int, total: int | None) -> None:
        with self._lock:
            self._now = FileProgress(file, done, total)

    def advance(self, count: int) -> None:
        with self._lock:
            if self._now is not None:
                self._now = FileProgress(self._now.file, self._now.done + count, self._now.total)

    def finish(self) -> None:
        with self._lock:
            self._now = None


class ProgressLog:
    """One line every few seconds: file, percent, MB/s, time left; and one for each big file that is complete."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            interval_s: seconds between two lines.
            clock: seconds from any beginning.
        """
        self._logger = logger
        self._interval = interval_s
        self._clock = clock
        self._state = ProgressState()
        self._started = self._last_shown = 0.0
        self._first = self._last = 0

    def start(self, file: str, done: int, total: int | None) -> None:
        self._state.start(file, done, total)
        self._started = self._last_shown = self._clock()
        self._first = self._last = done

    def advance(self, count: int) -> None:
        self._state.advance(count)
        now, progress = self._clock(), self._state.now
        seconds = now - self._last_shown
        if progress is None or seconds < self._interval:
            return
        rate = max(0.0, (progress.done - self._last) / seconds)
        self._logger.info("%s, %s/s%s", progress.said, _size(rate), _left(progress, rate))
        self._last_shown, self._last = now, progress.done

    def finish(self) -> None:
        progress = self._state.now
        self._state.finish()
        if progress is None or progress.done != progress.total or progress.done < _MIN_LOGGED_BYTES:
            return
        seconds = max(self._clock() - self._started, 0.001)
        rate = (progress.done - self._first) / seconds
        self._logger.info("%s: complete, %s at %s/s", progress.file, _size(progress.done), _size(rate))


class ProgressBar:
    """A bar on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None

    def start(self, file: str, done: int, total: int | None) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        if self._bar is not None:
            self._bar.total, self._bar.n = total, done
            self._bar.refresh()
            return
        self._bar = tqdm(desc=file, total=total, initial=done, file=self._stream, unit="B", unit_scale=True)

    def advance(self, count: int) -> None:
        self._bar.update(count)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class MultiProgress:
    """Passes progress on to several observers."""

    def __init__(self, *observers: Progress) -> None:
        self._observers = observers

    def start(self, file: str, done: int, total: int | None) -> None:
        for observer in self._observers:
            observer.start(file, done, total)

    def advance(self, count: int) -> None:
        for observer in self._observers:
            observer.advance(count)

    def finish(self) -> None:
        for observer in self._observers:
            observer.finish()


def display_progress(stream: TextIO, logger: logging.Logger, *, interval_s: float = 5.0) -> Progress:
    """A bar where `stream` is a terminal, lines in the log otherwise.

    Args:
        interval_s: seconds between two lines.
    """
    return ProgressBar(stream) if stream.isatty() else ProgressLog(logger, interval_s=interval_s)


def _size(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"


def _left(progress: FileProgress, rate: float) -> str:
    if progress.total is None or rate <= 0:
        return ""
    seconds = round((progress.total - progress.done) / rate)
    minutes, seconds = divmod(max(seconds, 0), 60)
    if minutes:
        return tr(", {minutes} min {seconds} s left", minutes=minutes, seconds=seconds)
    return tr(", {seconds} s left", seconds=seconds)
