"""Pillow's resize, bit for bit, with two threads."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from PIL import Image

_THREADS: Final = 2
_MIN_PIXELS: Final = 1_000_000
_BAND_PIXELS: Final = 1 << 18
"""Pixels of a band: each thread has a copy of one at a time."""

_MODES: Final = frozenset({"L", "RGB", "CMYK", "YCbCr"})
"""Of the others, those with transparency are multiplied by it and divided again in each pass."""


def resized(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """``image.resize(size, resample)``, sooner where two cores are free.

    Pillow takes two passes with whole levels between them: along the rows, which reads every pixel, and along what is
    left of the columns. The first is done in bands of rows here, side by side.
    """
    if not _has_first_pass_along_rows(image, size):
        return image.resize(size, resample)
    rows = max(1, _BAND_PIXELS // image.width)
    tops = range(0, image.height, rows)

    def narrowed(top: int) -> Image.Image:
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        return band.resize((size[0], band.height), resample)

    narrow = Image.new(image.mode, (size[0], image.height))
    with ThreadPoolExecutor(_THREADS) as threads:  # they have the priority of this one
        for top, band in zip(tops, threads.map(narrowed, tops), strict=True):
            narrow.paste(band, (0, top))
    return narrow.resize(size, resample)


def _has_first_pass_along_rows(image: Image.Image, size: tuple[int, int]) -> bool:
    """Whether it is worth it, and sure: from 13 on, Pillow may take the columns of tall pictures first."""
    width, height = image.size
    large = width * height >= _MIN_PIXELS and image.mode in _MODES
    return large and width >= height and size[0] < width and size[0] * height <= size[1] * width
