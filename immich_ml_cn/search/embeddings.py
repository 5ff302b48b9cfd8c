"""The embeddings of photos under one model, in an append-only file that is memory-mapped.

The file is a row of records of one size: the digest of the picture's bytes, a checksum, the embedding in float16. A
photo that is seen again is appended again; its last record counts. Records without a digest are void.
"""

import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES: Final = 16
LAST_CHECKED: Final = 4096
"""Records at the end of a file whose checksums are looked at before it grows: a power cut may have spoiled those."""

DEAD_SHARE: Final = 0.2
"""Of all records, above which the file is written anew without them."""

CHUNK_NUMBERS: Final = 1 << 18
"""Numbers of a chunk in float32 that are scored at once: a chunk stays in the CPU's cache."""

_SCALE: Final = np.float32(2.0**112)
_MASK: Final = np.int32(-0x70002000)
"""0x8FFFE000: sign, exponent and mantissa of a float16 within a float32, without the copies of the sign."""


def record(dimension: int) -> np.dtype[np.void]:
    """The form of one record; the embedding as float16 and, by its bits, as int16."""
    offset = DIGEST_BYTES + 4
    return np.dtype(
        {
            "names": ["digest", "key", "checksum", "vector", "bits"],
            "formats": [f"V{DIGEST_BYTES}", "<u8", "<u4", ("<f2", (dimension,)), ("<i2", (dimension,))],
            "offsets": [0, 0, DIGEST_BYTES, offset, offset],
            "itemsize": offset + 2 * dimension,
        }
    )


class Embeddings:
    """The live photos of a file at one moment, `steering.Photos`; read only."""

    def __init__(self, records: NDArray[np.void], limit: int, threads: int = 1) -> None:
        """
        Args:
            records: (N,) of `record`.
            limit: of the photos only so many count, those that were seen last.
            threads: that score.
        """
        self._records = records
        self._keys: NDArray[np.uint64] = np.ascontiguousarray(records["key"])
        self._order = np.argsort(self._keys, kind="stable")
        self._sorted = self._keys[self._order]
        self.dimension: int = records.dtype["vector"].shape[0]
        self.hidden: NDArray[np.intp] = np.flatnonzero(~self._live(limit))
        self._threads = threads

    @property
    def count(self) -> int:
        """Live photos."""
        return len(self._records) - len(self.hidden)

    def __len__(self) -> int:
        return len(self._records)

    def find(self, digests: Sequence[bytes]) -> NDArray[np.intp]:
        """The index of each photo, -1 where it is not among them: int (n,)."""
        if not digests or not len(self):
            return np.full(len(digests), -1, np.intp)
        wanted = np.frombuffer(b"".join(digest[:8] for digest in digests), "<u8")
        places = np.searchsorted(self._sorted, wanted, side="right") - 1
        rows = self._order[np.maximum(places, 0)]
        found = (places >= 0) & (self._keys[rows] == wanted) & ~np.isin(rows, self.hidden)
        return np.where(found, rows, -1)

    def rows(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """The embeddings at some indices, float32 (n, d)."""
        rows: NDArray[np.float32] = self._records["vector"][indices].astype(np.float32)
        return rows

    def scores(self, directions: NDArray[np.float64]) -> NDArray[np.float32]:
        """Inner products of m directions (m, d) with every photo, float32 (m, N)."""
        columns = np.ascontiguousarray(directions.T, np.float32) * _SCALE
        scores = np.empty((len(self), len(directions)), np.float32)
        share = -(-max(1, len(self)) // self._threads)
        spans = [(start, min(start + share, len(self))) for start in range(0, len(self), share)]
        if len(spans) == 1:
            self._score(columns, scores, *spans[0])
        elif spans:
            with ThreadPoolExecutor(len(spans), "search-scores") as pool:
                list(pool.map(lambda span: self._score(columns, scores, *span), spans))
        return scores.T

    def sample(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        """Some of the live photos at random, float32 (n, d)."""
        live = np.delete(np.arange(len(self)), self.hidden)
        if len(live) > count:
            live = np.sort(np.random.default_rng(seed).choice(live, count, replace=False))
        return self.rows(live)

    def _score(self, columns: NDArray[np.float32], scores: NDArray[np.float32], start: int, stop: int) -> None:
        """Score a span.

        NumPy turns float16 into float32 one by one. Here their bits are moved to where a float32 has them, which leaves
        each 2**112 times too small; `columns` is as much too large. The result is the same, in a fifth of the time.
        """
        bits = self._records["bits"]
        size = max(1, CHUNK_NUMBERS // self.dimension)
        buffer = np.empty((size, self.dimension), np.int32)
        for first in range(start, stop, size):
            chunk = buffer[: min(size, stop - first)]
            np.copyto(chunk, bits[first : first + len(chunk)])
            np.left_shift(chunk, 13, out=chunk)
            np.bitwise_and(chunk, _MASK, out=chunk)
            np.matmul(chunk.view(np.float32), columns, out=scores[first : first + len(chunk)])

    def _live(self, limit: int) -> NDArray[np.bool_]:
        """Which records count: the last of each photo, and of these the last `limit`."""
        live = np.zeros(len(self._records), bool)
        last = np.ones(len(self._sorted), bool)
        last[:-1] = self._sorted[1:] != self._sorted[:-1]
        live[self._order[last]] = True
        live &= self._keys != 0
        surplus = int(np.count_nonzero(live)) - limit
        if surplus > 0:
            live[np.flatnonzero(live)[:surplus]] = False
        return live


def map_records(path: Path, dimension: int) -> NDArray[np.void]:
    """The whole records of a file, (N,), memory-mapped; none where there is no file."""
    form = record(dimension)
    try:
        count = path.stat().st_size // form.itemsize
        if count:
            return np.memmap(path, form, "r", shape=(count,))
    except FileNotFoundError:
        pass
    return np.zeros(0, form)


def append(path: Path, dimension: int, entries: Iterable[tuple[bytes, NDArray[np.float32]]]) -> None:
    """Append photos, digest and embedding (d,), as one write. Where it fails, the first of them may be there.

    Only one process may do so at a time. Whole records are never taken back: others may have them mapped.

    Raises:
        OSError: it cannot be written.
    """
    data = b"".join(_encode(digest, vector) for digest, vector in entries)
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        end = os.fstat(file).st_size
        whole = end - end % record(dimension).itemsize
        if whole != end:  # cut off in the middle: another process was killed, or the disk was full
            os.ftruncate(file, whole)
        written = os.pwrite(file, data, whole)
        while written < len(data):
            written += os.pwrite(file, data[written:], whole + written)
        os.fsync(file)
    finally:
        os.close(file)


def void_damaged(path: Path, dimension: int) -> int:
    """Void the records at the end of a file that a power cut has spoiled; how many.

    They stay in place: other processes may have them mapped.
    """
    records = map_records(path, dimension)[-LAST_CHECKED:]
    bad = [index for index, entry in enumerate(records) if not _is_whole(entry)]
    if bad:
        form = record(dimension)
        first = path.stat().st_size // form.itemsize - len(records)
        with path.open("r+b") as file:
            for index in bad:
                file.seek((first + index) * form.itemsize)
                file.write(bytes(DIGEST_BYTES))
    return len(bad)


def compact(path: Path, dimension: int, limit: int) -> bool:
    """Write the file anew without its dead records, where they are many; whether it was.

    Raises:
        OSError: it cannot be written; the old one is as it was.
    """
    records = map_records(path, dimension)
    kept = np.delete(np.arange(len(records)), Embeddings(records, limit).hidden)
    if len(records) - len(kept) <= DEAD_SHARE * len(records):
        return False
    fresh = path.with_suffix(".new")
    try:
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            for start in range(0, len(kept), LAST_CHECKED):
                file.write(records[kept[start : start + LAST_CHECKED]].tobytes())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return True


def _encode(digest: bytes, vector: NDArray[np.float32]) -> bytes:
    body = vector.astype("<f2").tobytes()
    return digest + zlib.crc32(digest + body).to_bytes(4, "little") + body


def _is_whole(entry: np.void) -> bool:
    data = entry.tobytes()
    digest, checksum, body = data[:DIGEST_BYTES], data[DIGEST_BYTES : DIGEST_BYTES + 4], data[DIGEST_BYTES + 4 :]
    return digest == bytes(DIGEST_BYTES) or zlib.crc32(digest + body).to_bytes(4, "little") == checksum
