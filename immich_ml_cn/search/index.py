"""The index in use: its writer and its searcher."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from immich_ml_cn.models.results import Embedding
from immich_ml_cn.serving.concurrency import guarded_call

from .folder import Contents, Folder
from .query import Query
from .searcher import Found, Searcher
from .steering import Lifted, Steered
from .texts import Match
from .writer import SeenPicture, SeenText, Writer

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CLOSE_S: Final = 15.0
"""Seconds in which what waits is written at the end."""


class Index:
    """What was seen, and a thread that searches it: nothing else waits for a search."""

    def __init__(self, cache: Path, max_photos: int, *, threads: int = 1, time_limit_s: float = 1.0) -> None:
        """
        Args:
            cache: the folder in which the index has its own.
            max_photos: that are kept.
            threads: that score photos.
            time_limit_s: seconds in which a query vector is sought; then the best so far is taken.
        """
        self._folder = Folder(cache, max_photos)
        self.writer = Writer(self._folder)
        self._searcher = Searcher(self._folder, threads=threads, time_limit_s=time_limit_s)
        self._executor = ThreadPoolExecutor(1, "search")

    def keep(self, digest: bytes, model: str, embedding: Embedding | None, lines: tuple[str, ...] | None) -> None:
        """Keep what was seen of a photo; returns at once.

        Args:
            digest: of the picture's bytes.
            model: that made the embedding, such as ``clip/chinese-clip-vit-base-patch16``.
            lines: of text, in reading order; None where nobody looked.
        """
        if embedding is not None:
            self.writer.put(SeenPicture(digest, model, embedding))
        if lines is not None:
            self.writer.put(SeenText(digest, lines))

    async def find(self, model: str, dimension: int | None, query: Query, *, misread: bool) -> Found | None:
        """The photos with the text, None where there are none or the index cannot be read; see `Searcher.find`."""
        try:
            found = await self._run(self._searcher.find, model, dimension, query, misread=misread)
        except (OSError, sqlite3.Error) as error:
            logger.warning("%s cannot be read: %s", self._folder.path, error)
            return None
        if found.unplaced:
            logger.info("%d photos have the text but no embedding under %s", found.unplaced, model)
        return found if len(found) else None

    async def matches(self, query: Query) -> list[Match]:
        """See `Searcher.matches`; none where the index cannot be read."""
        try:
            return await self._run(self._searcher.matches, query)
        except (OSError, sqlite3.Error) as error:
            logger.warning("%s cannot be read: %s", self._folder.path, error)
            return []

    async def in_order_of(self, found: Found, text: Embedding) -> Found:
        """See `Searcher.in_order_of`."""
        return await self._run(self._searcher.in_order_of, found, text)

    async def steer(self, found: Found) -> Steered:
        """See `Searcher.steer`."""
        return await self._run(self._searcher.steer, found)

    async def lift(self, found: Found, text: Embedding) -> Lifted | None:
        """See `Searcher.lift`."""
        return await self._run(self._searcher.lift, found, text)

    async def contents(self) -> Contents:
        """What is kept; nothing where it cannot be read."""
        try:
            return await asyncio.to_thread(self._folder.contents)
        except (OSError, sqlite3.Error) as error:
            logger.warning("%s cannot be read: %s", self._folder.path, error)
            return Contents({}, 0, 0)

    async def close(self) -> None:
        """Write what waits, and close the files."""
        if not await asyncio.to_thread(self.writer.close, CLOSE_S):
            logger.warning("the last photos were not kept for text search: the disk is too slow")
        self._executor.submit(self._searcher.close)
        self._executor.shutdown(wait=False)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: guarded_call(function, *args, **kwargs))
