"""A file that is being downloaded: appended to, verified, and only then given its name."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from immich_ml_cn.messages import tr

from .failure import DiskFailed, WrongBytes, writing
from .monitor import TransferMonitor

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a file before it arrives, None where nothing is.

    Attributes:
        size: bytes.
        sha256: 64 hex digits.
        git_blob: the git object id (40 hex digits), which hubs give for small files instead of a sha256.
    """

    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def identity(self) -> str | None:
        """A name for exactly these bytes, None when any bytes would do."""
        return self.sha256 or self.git_blob


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that has arrived whole, under a name of its own in the staging folder."""

    path: Path
    size: int
    sha256: str


class PartialFile:
    """The bytes of one file that have arrived so far, on disk, hashed as they come.

    It survives cuts, crashes and restarts; it is removed only when its bytes are wrong or the disk is full.
    """

    def __init__(self, path: Path, name: str, expected: Expected, monitor: TransferMonitor) -> None:
        """
        Args:
            path: of the part, ending in ``.part``.
            name: of the file, for people.
        """
        self.path = path
        self.name = name
        self.expected = expected
        self._monitor = monitor
        self.size = 0
        self._hash = hashlib.sha256()
        self._closed = True

    def __repr__(self) -> str:
        return f"<PartialFile {self.path.name}: {self.size} of {self.expected.size} bytes>"

    def __enter__(self) -> Self:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: closing a full disk's file must not try to write once more.
            self._file = self.path.open("ab+", buffering=0)
            self._closed = False
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK):
                self._hash.update(chunk)
                self.size += len(chunk)
        if self.expected.size is not None and self.size > self.expected.size:
            self._empty()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep what has arrived; a file of no bytes is removed, and the note of what it would have been."""
        self._close()
        if self.size == 0:
            self.path.unlink(missing_ok=True)
            self.path.with_suffix(".etag").unlink(missing_ok=True)

    @property
    def is_complete(self) -> bool:
        """All bytes are here, as far as the size is known."""
        return self.size == self.expected.size

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            DiskFailed: the disk is full (then the part is removed, to free it again) or broken.
            Cancelled, Stalled: as `TransferMonitor.advance`.
            WrongBytes: more than there should be.
        """
        try:
            with writing(self.path):
                self._write_all(data)
        except DiskFailed:
            self.discard()
            raise
        self._hash.update(data)
        self.size += len(data)
        if self.expected.size is not None and self.size > self.expected.size:
            self.discard()
            raise WrongBytes(tr("sent more than the {size} bytes of {name}", size=self.expected.size, name=self.name))
        self._monitor.advance(len(data))

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def restart(self) -> None:
        """Forget what has arrived: the source sends everything again."""
        self._monitor.progress.advance(-self.size)
        self._empty()

    def discard(self) -> None:
        """Remove the part from the disk."""
        self._close()
        self.path.unlink(missing_ok=True)

    def finish(self) -> Fetched:
        """Check the bytes, make them durable and give them the name of a whole file.

        Raises:
            WrongBytes: size or checksum are wrong; the part is removed.
            DiskFailed: the disk does not take it.
        """
        wrong = self._wrong()
        if wrong is not None:
            self.discard()
            raise WrongBytes(wrong)
        whole = self.path.with_suffix(".whole")
        with writing(self.path):
            os.fsync(self._file.fileno())
            self._close()
            self.path.replace(whole)
        return Fetched(whole, self.size, self._hash.hexdigest())

    def _wrong(self) -> str | None:
        name, size = self.name, self.expected.size
        if size is not None and self.size != size:
            return tr("sent {sent} of the {size} bytes of {name}", sent=self.size, size=size, name=name)
        if self.expected.sha256 not in (None, self._hash.hexdigest()):
            return tr("sent wrong bytes for {name} (sha256 {digest}…)", name=name, digest=self._hash.hexdigest()[:12])
        if self.expected.git_blob not in (None, self._git_blob()):
            return tr("sent wrong bytes for {name} (another git object)", name=name)
        return None

    def _git_blob(self) -> str:
        digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def _empty(self) -> None:
        with writing(self.path):
            self._file.truncate(0)
        self.size, self._hash = 0, hashlib.sha256()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            with writing(self.path):
                self._file.close()


def find_complete(part: Path, expected: Expected) -> Fetched | None:
    """The file, if an earlier fetch finished it but could not place it; checked again when a sha256 is known."""
    whole = part.with_suffix(".whole")
    if not whole.is_file():
        return None
    with whole.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Fetched(whole, whole.stat().st_size, digest) if expected.sha256 in (None, digest) else None
