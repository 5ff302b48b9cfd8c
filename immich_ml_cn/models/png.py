"""PNG files (W3C PNG 3): their picture without metadata."""

from typing import Final

from immich_ml_cn.errors import BadImage
from immich_ml_cn.messages import tr

MAX_CHUNKS: Final = 100_000
"""libpng cuts the pixels into chunks of 8 KB: a file of 100 MB has an eighth of them."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_TRANSPARENCY: Final = b"tRNS"
_EXIF: Final = b"eXIf"
_END: Final = b"IEND"
_ANCILLARY: Final = 0x20
"""The bit of a chunk's first letter that says that a picture can be shown without it."""


def is_png(data: bytes) -> bool:
    """Whether a file begins like a PNG."""
    return data.startswith(_SIGNATURE)


def split(data: bytes) -> tuple[list[memoryview], bytes]:
    """The pieces of a file without its metadata, and its EXIF block, empty where it has none.

    Pillow unpacks compressed comments and profiles, and refuses a good picture where they are long.

    Raises:
        BadImage: more chunks than any encoder writes.
    """
    view, exif, at = memoryview(data), b"", len(_SIGNATURE)
    kept = [view[:at]]
    for _ in range(MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if not kind:
            return kept, exif
        if kind == _EXIF:
            exif = data[at + 8 : end - 4]
        if not kind[0] & _ANCILLARY or kind == _TRANSPARENCY:
            kept.append(view[at:end])
        at = len(data) if kind == _END else end
    raise BadImage(tr("the image cannot be decoded: it has more than {limit} chunks", limit=MAX_CHUNKS))
