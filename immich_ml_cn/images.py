"""Bytes → picture. Decoding is done once per request, whatever the number of its tasks."""

import io
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from .errors import BadImage, TooLarge


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: all pixels loaded, in the mode they were stored in (CLIP resizes before it converts). The EXIF orientation is
            not applied: Immich sends upright previews, and its own service does not turn them either.
    """

    image: Image.Image

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.image.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.image.height

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """The pixels as uint8 (height, width, 3), RGB, 0…255; transparency is dropped, as Immich does. Not to be written to."""
        return np.asarray(self.image if self.image.mode == "RGB" else self.image.convert("RGB"))


def decode(data: bytes, max_pixels: int) -> Picture:
    """Decode the first frame of an image.

    Args:
        data: the encoded file, of any format Pillow reads.
        max_pixels: width x height above which nothing is decoded.

    Raises:
        BadImage: empty, truncated, zero-sized or undecodable.
        TooLarge: more pixels than `max_pixels`.
    """
    if not data:
        raise BadImage("the image is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            _check_size(image, max_pixels)
            image.load()
    except (BadImage, TooLarge):
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the image has more than {max_pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise BadImage("the image is of no format this server can read") from error
    except MemoryError as error:
        raise TooLarge("the image does not fit in memory") from error
    except Exception as error:  # Pillow's plugins raise OSError, ValueError, SyntaxError, struct.error, IndexError …
        raise BadImage(f"the image cannot be decoded: {error}") from error
    return Picture(image)


def _check_size(image: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage("Image has zero width or height")
    if width * height > max_pixels:
        raise TooLarge(f"the image has {width} x {height} pixels, more than the {max_pixels} allowed")
