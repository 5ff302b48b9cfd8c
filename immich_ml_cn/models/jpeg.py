"""JPEG files (ITU-T T.81): their picture without metadata, and how much work it is."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from immich_ml_cn.errors import BadImage
from immich_ml_cn.messages import tr

MAX_SEGMENTS: Final = 10_000
"""A file of 100 MB that holds nothing but segments of full length has a sixth of them."""

MAX_TABLES: Final = 200
"""Segments before the first scan that are no metadata; encoders write a dozen."""

MAX_SCANNED_PIXELS: Final = 4_000_000_000
"""Pixels times scans, two seconds of work: 22 scans of the largest picture allowed, 200 of 20 megapixels. Encoders
write ten or so."""

_SIGNATURE: Final = b"\xff\xd8\xff"
_EXIF: Final = b"Exif\0\0"

_SOI, _EOI, _SOS, _TEM, _APP1, _COM = 0xD8, 0xD9, 0xDA, 0x01, 0xE1, 0xFE
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_METADATA: Final = frozenset({*range(0xE1, 0xEE), 0xEF, *range(0xF0, 0xFE), _COM})
"""Application segments but JFIF's and Adobe's, which say how colours are coded; comments; and reserved ones."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_FILL_BYTES: Final = re.compile(rb"\xff+")
_MANY_FILL_BYTES: Final = b"\xff" * 1024
_WINDOW: Final = 1 << 18
"""Bytes searched in one go: other threads wait as long."""


class _Segment(NamedTuple):
    marker: int
    start: int
    end: int


def is_jpeg(data: bytes) -> bool:
    """Whether a file begins like a JPEG."""
    return data.startswith(_SIGNATURE)


def split(data: bytes) -> tuple[list[memoryview], bytes]:
    """The pieces of a file without its metadata, and its first EXIF block, empty where it has none.

    Pillow's parser copies what all metadata hold, and reads what stands between segments byte by byte.

    Raises:
        BadImage: more segments than any camera writes.
    """
    view, exif = memoryview(data), b""
    kept = [view[:2]]
    for marker, start, end in _segments(data):
        if marker == _SOS:
            kept += _without_fill_bytes(data, start)
            break
        if marker == _APP1 and not exif and data.startswith(_EXIF, start + 4):
            exif = data[start + 4 : end]
        if marker not in _METADATA:
            kept.append(view[start:end])
        if len(kept) > MAX_TABLES:
            raise BadImage(tr("the image cannot be decoded: it has more than {limit} tables", limit=MAX_TABLES))
    return kept, exif


def _without_fill_bytes(data: bytes, at: int) -> Iterator[memoryview]:
    """The rest of a file in pieces, whose runs of fill bytes, which may precede any marker, are short.

    libjpeg begins a run anew with each piece of the file that it is given: 30 MB take half a minute.
    """
    view = memoryview(data)
    while (start := _many_fill_bytes(data, at)) < len(data):
        yield view[at : start + 1]
        at = _end_of_fill_bytes(data, start)
    yield view[at:]


def _many_fill_bytes(data: bytes, at: int) -> int:
    """Where many of them begin, the end of the file where there are none."""
    for start in range(at, len(data), _WINDOW):
        found = data.find(_MANY_FILL_BYTES, start, start + _WINDOW + len(_MANY_FILL_BYTES))
        if found >= 0:
            return found
    return len(data)


def _end_of_fill_bytes(data: bytes, at: int) -> int:
    while fill := _FILL_BYTES.match(data, at, at + _WINDOW):
        at = fill.end()
    return at


def check_work(data: bytes) -> None:
    """Refuse a file that is short and takes long: each scan goes through all pixels again.

    Raises:
        BadImage: more scans than any encoder writes.
    """
    frame, scans = None, 0
    for segment in _segments(data):
        if segment.marker in _FRAMES:
            frame = segment
        elif segment.marker == _SOS and frame is not None:
            scans += 1
            pixels = _pixels(data, frame)
            if scans * pixels > MAX_SCANNED_PIXELS:
                raise BadImage(
                    tr(
                        "the image cannot be decoded: it draws its {pixels} pixels more than {limit} times",
                        pixels=pixels,
                        limit=scans - 1,
                    )
                )
            if _is_whole(data, frame, segment):
                return


def _pixels(data: bytes, frame: _Segment) -> int:
    at = frame.start + 5
    return int.from_bytes(data[at : at + 2], "big") * int.from_bytes(data[at + 2 : at + 4], "big")


def _is_whole(data: bytes, frame: _Segment, scan: _Segment) -> bool:
    """Whether the first scan is the only one: decoders stop after it."""
    components, scanned = data[frame.start + 9 : frame.start + 10], data[scan.start + 4 : scan.start + 5]
    return frame.marker not in _PROGRESSIVE and components == scanned


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments in order; what stands between two is passed over, as decoders do it.

    Raises:
        BadImage: more than any camera writes.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        at = _next_marker(data, at)
        marker = data[at + 1] if at + 1 < len(data) else _EOI
        if marker == _EOI:
            return
        end = at + 2
        if marker not in (_SOI, _TEM):
            end += max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
            yield _Segment(marker, at, end)
        at = end
    raise BadImage(tr("the image cannot be decoded: it has more than {limit} segments", limit=MAX_SEGMENTS))


def _next_marker(data: bytes, at: int) -> int:
    """Where the next marker begins, the end of the file where there is none; stuffed zeros and restarts are none."""
    while at < len(data):
        found = _MARKER.search(data, at, at + _WINDOW + 1)
        if found is None:
            at += _WINDOW
        elif data[found.start() + 1] != 0xFF:
            return found.start()
        else:
            at = _end_of_fill_bytes(data, found.start()) - 1
    return len(data)
