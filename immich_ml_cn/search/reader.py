"""What a search reads of the index, as it is at that moment."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .embeddings import Embeddings, map_records
from .folder import Folder
from .query import Query
from .steering import SAMPLE, Statistics
from .texts import Match, Texts
from .words import Words

GROWTH: Final = 1.1
"""Of the number of photos, after which they are looked at anew for what they have in common."""

Version = tuple[int, int, int]
"""Device, inode and size of a file."""


class Reader:
    """The index's files, opened when they are first asked for and looked at again when they change; for one thread."""

    def __init__(self, folder: Folder, threads: int = 1) -> None:
        """
        Args:
            threads: that score photos.
        """
        self._folder = folder
        self._threads = threads
        self._words = Words()
        self._texts: Texts | None = None
        self._inode: tuple[int, int] | None = None
        self._photos: dict[Path, tuple[Version, Embeddings]] = {}
        self._statistics: dict[Path, Statistics] = {}

    def close(self) -> None:
        """Close the files, and end the process that knows words."""
        self._words.close()
        if self._texts is not None:
            self._texts.close()
        self._texts = None
        self._photos.clear()
        self._statistics.clear()

    def match(self, query: Query, *, misread: bool = True) -> list[Match]:
        """The photos with the text, the best first.

        Raises:
            sqlite3.Error, OSError: the file cannot be read.
        """
        self._open_texts()
        return [] if self._texts is None else self._texts.match(query, misread=misread)

    def photos(self, model: str, dimension: int) -> Embeddings:
        """The photos with an embedding under a model.

        Raises:
            OSError: the file cannot be read.
        """
        path = self._folder.embeddings(model, dimension)
        version = _version(path)
        known = self._photos.get(path)
        if known is None or known[0] != version:
            known = version, Embeddings(map_records(path, dimension), self._folder.max_photos, self._threads)
            self._photos[path] = known
        return known[1]

    def statistics(self, model: str, photos: Embeddings) -> Statistics:
        """What a model's photos have in common."""
        path = self._folder.embeddings(model, photos.dimension)
        known = self._statistics.get(path)
        if known is None or not known.count / GROWTH <= photos.count <= known.count * GROWTH:
            known = self._statistics[path] = Statistics.of(photos.sample(SAMPLE), photos.count)
        return known

    def _open_texts(self) -> None:
        """Another file may have taken its place."""
        inode = _version(self._folder.texts)[:2]
        if self._texts is not None and inode != self._inode:
            self._texts.close()
            self._texts = None
        if self._texts is None:
            self._texts = Texts.open(self._folder.texts, self._words)
            self._inode = inode


def rows_of(photos: Embeddings, matches: list[Match]) -> tuple[NDArray[np.intp], list[Match]]:
    """Where the matches stand among the photos, in their order; those that have no embedding are left out."""
    rows = photos.find([match.digest for match in matches])
    known = np.flatnonzero(rows >= 0)
    return rows[known], [matches[index] for index in known]


def _version(path: Path) -> Version:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_dev, found.st_ino, found.st_size)
