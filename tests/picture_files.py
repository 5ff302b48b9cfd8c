"""Small pictures as files of any format."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def gradient(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture in which no two corners are alike."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    image = Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))
    if mode in ("I;16", "I;16B"):
        return image.convert("I").convert("I;16") if mode == "I;16" else image.convert("L").convert(mode)
    if mode in ("LA", "PA", "La"):
        return image.convert("RGBA").convert("LA" if mode == "LA" else "P").convert(mode)
    return Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    """A picture as a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **({"sizes": [image.size]} if kind == "ICO" else {}), **how)
    return stream.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG that promises a size and holds what it likes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
