"""Pixels of large pictures, in memory that returns to the system while other threads of Python run.

Pillow frees an image while it holds the interpreter's lock, 100 megapixels for up to 0.1 s. A mapping is given back
without it, and Pillow works on one without a copy.
"""

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ORDINARY_PIXELS: Final = 20_000_000
"""The largest preview that Immich is set to make has as many; the lock is held for 0.02 s at most."""

MAPPED_MODES: Final = frozenset({"L", "P", "RGBX", "RGBA", "CMYK", "I;16", "I;16B", "I;16L"})
"""Modes that Pillow takes from a buffer as they are."""

MAPPED_BYTES: Final = 32 << 20
"""Pixels of so many bytes are worth a mapping."""

_BAND_PIXELS: Final = 1 << 18


def is_large(width: int, height: int) -> bool:
    """Whether a picture is to lie in memory of its own."""
    return width * height > MAX_ORDINARY_PIXELS


def allocated(size: int) -> "NDArray[np.uint8]":
    """Memory for `size` bytes of pixels, as an array of them."""
    import numpy as np  # processes that only decode do without

    if size < MAPPED_BYTES:
        return np.empty(size, np.uint8)
    # Not in huge pages: where memory is full of cached files, the kernel makes room for them first, and all wait.
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def image_of(pixels: "NDArray[np.uint8]", mode: str, size: tuple[int, int]) -> Image.Image:
    """An image of one of the `MAPPED_MODES` on memory that holds its pixels row by row."""
    return Image.frombuffer(mode, size, pixels, "raw", mode, 0, 1)


def opaque(image: Image.Image) -> Image.Image:
    """An image as RGB, a large one as RGBX; transparency is dropped, as Immich does."""
    if image.mode in ("RGB", "RGBX"):
        return image
    return _in_bands(image, "RGB", "RGBX") if is_large(*image.size) else to_rgb(image)


def premultiplied(image: Image.Image) -> Image.Image:
    """A large image of mode RGBA as RGBa, which is called RGBX: a resize treats all channels alike."""
    return _in_bands(image, "RGBa")


def to_rgb(image: Image.Image) -> Image.Image:
    """Pillow's conversion to RGB, without its warning."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # has the same pixels
    return image if image.mode == "RGB" else image.convert("RGB")


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image cut into bands of a quarter of a million pixels, each with its topmost row.

    Converted as a whole, a picture is in memory up to four times.
    """
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _in_bands(image: Image.Image, *modes: str) -> Image.Image:
    """The image converted to one mode after the other, the last of which has four bytes for each pixel."""
    pixels = allocated(image.width * image.height * 4)
    for top, band in bands(image):
        for mode in modes:
            band = to_rgb(band) if mode == "RGB" else band.convert(mode)
        start = top * image.width * 4
        pixels.data[start : start + band.width * band.height * 4] = band.tobytes()
    return image_of(pixels, "RGBX", image.size)
