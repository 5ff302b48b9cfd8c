"""HEIC files: which they are, and the library that reads them where it is installed."""

from functools import cache
from typing import Final

from immich_ml_cn.errors import BadImage
from immich_ml_cn.messages import tr

_HEVC: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"})
_AV1: Final = frozenset({b"avif", b"avis"})

_WAY: Final = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""The boxes that lead to the sizes of the items; bytes before the boxes inside."""

_MOST_BOXES: Final = 10_000


def is_heic(data: bytes) -> bool:
    """Whether a file says that it is HEIC: AVIF has the same container, but Pillow reads it without help."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    return bool(brands & _HEVC) and not brands & _AV1


def coded_pixels(data: bytes) -> int:
    """Pixels of the largest picture in a file: a few of them may be all that is shown, but all are decoded.

    Raises:
        BadImage: more boxes than any camera writes.
    """
    largest, spans = 0, [(0, len(data))]
    for _ in range(_MOST_BOXES):
        if not spans:
            return largest
        at, end = spans.pop()
        kind, body, stop = _box(data, at, end)
        if stop <= at:
            continue
        spans.append((stop, end))
        if kind == b"ispe":
            width, height = data[body + 4 : body + 8], data[body + 8 : body + 12]
            largest = max(largest, int.from_bytes(width, "big") * int.from_bytes(height, "big"))
        elif kind in _WAY:
            spans.append((body + _WAY[kind], stop))
    raise BadImage(tr("the image cannot be decoded: it has more than {limit} boxes", limit=_MOST_BOXES))


def _box(data: bytes, at: int, end: int) -> tuple[bytes, int, int]:
    """What the box at a place is, where its content begins, and where it ends: at the place itself if it is none."""
    size, kind, body = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
    if size == 1:
        size, body = int.from_bytes(data[body : body + 8], "big"), body + 8
    stop = min(at + size, end) if size else end
    return kind, body, stop if body <= stop else at


@cache
def reader() -> str:
    """The name of Pillow's reader of HEIC, which is imported when the first such file arrives.

    Raises:
        BadImage: pillow-heif is not installed, as in the images: its wheels are large, GPL, and had holes.
    """
    try:
        import pillow_heif
    except ImportError:
        raise BadImage(tr("the image is HEIC, which this server cannot read without the library pillow-heif")) from None
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return "HEIF"
