"""WebP files (RFC 9649): the size that their first chunk promises."""

from typing import Final

_SIGNATURE: Final = b"WEBP"


def is_webp(data: bytes) -> bool:
    """Whether a file begins like a WebP."""
    return data.startswith(b"RIFF") and data[8:12] == _SIGNATURE


def canvas_pixels(data: bytes) -> int | None:
    """Width x height of the canvas, None where the file does not begin with it as it must."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return (int.from_bytes(body[4:7], "little") + 1) * (int.from_bytes(body[7:10], "little") + 1)
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return (int.from_bytes(body[6:8], "little") & 0x3FFF) * (int.from_bytes(body[8:10], "little") & 0x3FFF)
    return None
