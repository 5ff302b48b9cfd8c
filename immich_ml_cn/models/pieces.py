"""Files in memory without some of their parts: nothing is copied before it is read."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


def joined(pieces: Sequence[memoryview]) -> io.BufferedReader:
    """The pieces as one file. Copied into one, 100 MB would keep all other threads of Python waiting for 0.05 s."""
    return io.BufferedReader(_Pieces(pieces), 1 << 16)


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._starts = list(accumulate(map(len, self._pieces), initial=0))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._starts[-1])[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        number = bisect_right(self._starts, self._at) - 1
        if number == len(self._pieces):
            return 0
        offset = self._at - self._starts[number]
        piece = self._pieces[number][offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
