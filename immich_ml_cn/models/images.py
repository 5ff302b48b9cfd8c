"""Bytes → picture. Decoding is done once per request, whatever the number of its tasks."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from immich_ml_cn.errors import BadImage, ServiceError, TooLarge

from . import heic

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""

_QUARTER_TURNS: Final = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}


_REFUSED: Final = frozenset({"EPS", "IPTC"})
"""Formats that Pillow reads by starting Ghostscript on what a client sent, at once or for a picture inside."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: all pixels loaded, in the mode they were stored in (CLIP resizes before it converts). The EXIF
            orientation is not applied: Immich sends upright previews, and its own service does not turn them either.
        size: width and height in pixels as the file has them; `image` is smaller where it was decoded at a fraction.
    """

    image: Image.Image
    size: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """A picture at its own size."""
        return cls(image, image.size)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.size[1]

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """The pixels as uint8 (height, width, 3), RGB, 0…255, read-only; transparency is dropped, as Immich does."""
        image = self.image
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # the same pixels as straight to RGB, without Pillow's warning
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def measure(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels, read from the header: nothing is decoded.

    Args:
        data: the encoded file, of any format Pillow reads, or HEIC where pillow-heif is installed.
        max_pixels: width x height above which the image is refused.

    Raises:
        BadImage: empty, zero-sized or of no known format.
        TooLarge: more pixels than `max_pixels`.
    """
    with _pillow_failures(max_pixels), _opened(data, max_pixels) as image:
        return _checked_size(image, max_pixels)


def decode(data: bytes, max_pixels: int, min_side: int | None = None) -> Picture:
    """Decode the first frame of an image.

    Args:
        data: the encoded file, of any format Pillow reads, or HEIC where pillow-heif is installed.
        max_pixels: width x height above which nothing is decoded.
        min_side: pixels that are enough for the shorter side: a JPEG is decoded at a half, a quarter or an eighth
            of its size, the smallest that has them. None: at its own size.

    Raises:
        BadImage: empty, truncated, zero-sized or undecodable.
        TooLarge: more pixels than `max_pixels`.
    """
    with _pillow_failures(max_pixels):
        image = _opened(data, max_pixels)
        size = _checked_size(image, max_pixels)
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        image.load()
    return Picture(image, size)


def upright(picture: Picture) -> Picture:
    """The picture turned as its EXIF orientation says, as OpenCV decodes it; as it is where that says nothing."""
    try:
        orientation = picture.image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata of a good picture; Pillow raises SyntaxError, struct.error …
        return picture
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return picture
    size = picture.size[::-1] if turn in _QUARTER_TURNS else picture.size
    return Picture(picture.image.transpose(turn), size)


def _opened(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """The image with its header read."""
    if not data:
        raise BadImage("the image is empty (0 bytes)")
    if not heic.is_heic(data):
        return Image.open(io.BytesIO(data))
    reader = heic.reader()
    if (pixels := heic.coded_pixels(data)) > max_pixels:
        raise TooLarge(f"the image has {pixels} pixels before it is cropped, more than the {max_pixels} allowed")
    return Image.open(io.BytesIO(data), formats=[reader])


def _checked_size(image: ImageFile.ImageFile, max_pixels: int) -> tuple[int, int]:
    if image.format in _REFUSED:
        raise UnidentifiedImageError
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage("Image has zero width or height")
    if width * height > max_pixels:
        raise TooLarge(f"the image has {width} x {height} pixels, more than the {max_pixels} allowed")
    return width, height


@contextmanager
def _pillow_failures(max_pixels: int) -> Iterator[None]:
    """Turn whatever Pillow raises for bad data into one of ours."""
    try:
        yield
    except ServiceError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the image has more than the {max_pixels} pixels allowed") from error
    except UnidentifiedImageError as error:
        raise BadImage("the image is of no format this server can read") from error
    except MemoryError as error:
        raise TooLarge("the image does not fit in memory") from error
    except Exception as error:  # the plugins raise OSError, ValueError, SyntaxError, struct.error, IndexError …
        raise BadImage(f"the image cannot be decoded: {str(error).strip()}") from error
