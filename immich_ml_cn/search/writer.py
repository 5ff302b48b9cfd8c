"""The thread that writes what was seen, a batch every second."""

import logging
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .folder import Folder
from .normalisation import normalise_lines

logger = logging.getLogger(__name__)

PAUSE_S: Final = 300.0
"""Seconds without writing after it failed, before it is tried again."""

MOST_WAITING: Final = 20_000
"""Photos that wait to be written; what comes when there are more is not taken in."""


@dataclass(frozen=True, slots=True, eq=False)
class SeenPicture:
    """A photo's embedding (d,) under a model."""

    digest: bytes
    model: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SeenText:
    """The lines of text in a photo, in reading order; none where it has no text."""

    digest: bytes
    lines: tuple[str, ...]


Seen: TypeAlias = SeenPicture | SeenText


class Writer:
    """Writes what it is given on a thread of its own, which starts with the first of it."""

    def __init__(self, folder: Folder, *, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            interval_s: seconds for which photos are gathered.
            clock: monotonic seconds.
        """
        self._folder = folder
        self._interval_s = interval_s
        self._clock = clock
        self._queue: queue.SimpleQueue[Seen | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._try_again = 0.0
        self.failure: str | None = None
        """Why nothing is written at the moment."""
        self.lost = 0
        """Photos that could not be taken in."""

    def put(self, seen: Seen) -> None:
        """Take something in; returns at once. Of one thread only."""
        if self._queue.qsize() >= MOST_WAITING:
            self.lost += 1
            return
        self._queue.put(seen)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="search-writer", daemon=True)
            self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Write what waits and end; whether that was done in time."""
        self._closing.set()
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        over = False
        while not over:
            batch = [self._queue.get()]
            self._closing.wait(self._interval_s)
            while not self._queue.empty():
                batch.append(self._queue.get())
            over = None in batch
            self._write([seen for seen in batch if seen is not None])

    def _write(self, batch: Sequence[Seen]) -> None:
        """Write a batch; where it fails, it is lost, and nothing is written for a while."""
        if self.failure is not None and self._clock() < self._try_again:
            self.lost += len(batch)
            return
        try:
            self._write_each(batch)
        except (OSError, sqlite3.Error) as error:
            self._failed(batch, str(error))
        except Exception as error:  # a fault of ours must not end the thread: nothing would be taken in any more
            logger.exception("the index for text search failed")
            self._failed(batch, repr(error))
        else:
            if self.failure is not None:
                logger.info("the index for text search is written again")
            self.failure = None

    def _failed(self, batch: Sequence[Seen], reason: str) -> None:
        if self.failure is None:
            logger.warning(
                "%s cannot be written (%s): text search takes in no photos for now; everything else goes on",
                self._folder.path,
                reason,
            )
        self.failure = reason
        self.lost += len(batch)
        self._try_again = self._clock() + PAUSE_S

    def _write_each(self, batch: Sequence[Seen]) -> None:
        pictures: defaultdict[tuple[str, int], list[tuple[bytes, NDArray[np.float32]]]] = defaultdict(list)
        texts: dict[bytes, str] = {}
        for seen in batch:
            if isinstance(seen, SeenPicture):
                pictures[seen.model, len(seen.vector)].append((seen.digest, seen.vector))
            else:
                texts[seen.digest] = normalise_lines(seen.lines)
        for (model, _), entries in pictures.items():
            self._folder.write_pictures(model, entries)
        if texts:
            self._folder.write_texts(list(texts.items()))
