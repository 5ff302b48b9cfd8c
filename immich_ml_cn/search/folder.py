"""The index's folder: its files, and who may write them."""

import logging
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from . import embeddings
from .texts import Texts

logger = logging.getLogger(__name__)

NAME: Final = "search"
LOCK_S: Final = 30.0
"""Seconds to wait for another process that writes."""

_FILE: Final = re.compile(r"(?P<model>.+)\.(?P<dimension>\d+)\.f16")


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in the folder.

    Attributes:
        photos: with an embedding, by model; those that were seen more than once may count more than once.
        texts: photos with text.
        size: bytes on disk.
    """

    photos: Mapping[str, int]
    texts: int
    size: int


class Folder:
    """The files of one cache folder, which any number of processes may share: they write in turns."""

    def __init__(self, cache: Path, max_photos: int) -> None:
        """
        Args:
            cache: the folder in which this one is.
            max_photos: under each model, and with text; what was seen longest ago goes first.
        """
        self.path = cache / NAME
        self.max_photos = max_photos
        self._next_look: dict[Path, int] = {}

    @property
    def texts(self) -> Path:
        """The file of texts."""
        return self.path / "texts.db"

    def embeddings(self, model: str, dimension: int) -> Path:
        """The file of a model's embeddings.

        Args:
            model: such as ``clip/chinese-clip-vit-base-patch16``.
        """
        return self.path / f"{model.replace('/', '__')}.{dimension}.f16"

    def models(self) -> list[tuple[str, int]]:
        """The models that there are embeddings of and their length, the last written first."""
        found = []
        for path in sorted(self.path.glob("*.f16"), key=lambda path: path.stat().st_mtime, reverse=True):
            name = _FILE.fullmatch(path.name)
            if name is not None:
                found.append((name["model"].replace("__", "/", 1), int(name["dimension"])))
        return found

    def dimension(self, model: str) -> int | None:
        """The length of a model's embeddings, of the last that were written; None where there are none."""
        return next((dimension for name, dimension in self.models() if name == model), None)

    def write_pictures(self, model: str, entries: Sequence[tuple[bytes, NDArray[np.float32]]]) -> None:
        """Take in embeddings (d,) of one model by digest.

        Raises:
            OSError: they cannot be written.
        """
        dimension = len(entries[0][1])
        path = self.embeddings(model, dimension)
        with self._locked():
            if path not in self._next_look:
                _void_damaged(path, dimension)
            embeddings.append(path, dimension, entries)
            count = path.stat().st_size // embeddings.record(dimension).itemsize
            if count >= self._next_look.get(path, 0):
                embeddings.compact(path, dimension, self.max_photos)
                self._next_look[path] = int(1.05 * count) + embeddings.LAST_CHECKED

    def write_texts(self, entries: Sequence[tuple[bytes, str]]) -> None:
        """Take in normalised texts by digest.

        Raises:
            OSError, sqlite3.Error: they cannot be written.
        """
        with self._locked(), closing(self._writable_texts()) as texts:
            texts.write(entries, self.max_photos)

    def clear(self) -> None:
        """Forget every photo.

        Raises:
            OSError, sqlite3.Error: something cannot be removed.
        """
        if not self.path.is_dir():
            return
        with self._locked():
            for path in self.path.glob("*.f16"):
                path.unlink()
            if self.texts.exists():
                with closing(self._writable_texts()) as texts:
                    texts.clear()

    def contents(self) -> Contents:
        """What is in it.

        Raises:
            OSError, sqlite3.Error: it cannot be read.
        """
        photos: dict[str, int] = {}
        for model, dimension in self.models():
            size = self.embeddings(model, dimension).stat().st_size
            photos[model] = photos.get(model, 0) + size // embeddings.record(dimension).itemsize
        texts = Texts.open(self.texts)
        count = 0
        if texts is not None:
            with closing(texts):
                count = texts.count()
        return Contents(photos, count, sum(path.stat().st_size for path in self.path.glob("*") if path.is_file()))

    def _writable_texts(self) -> Texts:
        """The file of texts; what is none, or of another version, is put aside and begun anew."""
        try:
            return Texts.create(self.texts)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            kept = self.texts.with_suffix(".damaged")
            self.texts.replace(kept)
            logger.warning("%s is unusable (%s): it is now %s, and the texts are begun anew", self.texts, error, kept)
            return Texts.create(self.texts)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Write alone; the system lets go of the lock when a process dies."""
        from filelock import FileLock

        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self.path / ".lock", timeout=LOCK_S, mode=0o600):
            yield


def _void_damaged(path: Path, dimension: int) -> None:
    damaged = embeddings.void_damaged(path, dimension)
    if damaged:
        logger.warning("%s: %d photos were not written whole and have to be seen again", path, damaged)
