"""Pillow's resize, bit for bit, with two threads."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from PIL import Image

_THREADS: Final = 2
_MIN_PIXELS: Final = 1_000_000
_MODES: Final = frozenset({"L", "RGB", "CMYK", "YCbCr"})
"""Of the others, those with transparency are multiplied by it and divided again in each pass."""


def resized(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """``image.resize(size, resample)``, sooner where two cores are free.

    Pillow takes two passes with whole levels between them: along the rows, which reads every pixel, and along what is
    left of the columns. The first is done in bands of rows here, side by side.
    """
    if not _has_first_pass_along_rows(image, size):
        return image.resize(size, resample)
    edges = [image.height * number // _THREADS for number in range(_THREADS + 1)]

    def narrowed(top: int, bottom: int) -> Image.Image:
        return image.crop((0, top, image.width, bottom)).resize((size[0], bottom - top), resample)

    narrow = Image.new(image.mode, (size[0], image.height))
    with ThreadPoolExecutor(_THREADS) as threads:  # they have the priority of this one
        for top, band in zip(edges, threads.map(narrowed, edges, edges[1:]), strict=False):
            narrow.paste(band, (0, top))
    return narrow.resize(size, resample)


def _has_first_pass_along_rows(image: Image.Image, size: tuple[int, int]) -> bool:
    """Whether it is worth it, and sure: from 13 on, Pillow may take the columns of tall pictures first."""
    width, height = image.size
    large = width * height >= _MIN_PIXELS and image.mode in _MODES
    return large and width >= height and size[0] < width and size[0] * height <= size[1] * width
