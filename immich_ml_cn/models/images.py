"""Bytes → picture. Decoding is done once per request, whatever the number of its tasks."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from immich_ml_cn.errors import BadImage, ServiceError, TooLarge
from immich_ml_cn.messages import tr

from . import heic, jpeg, pixel_memory, png, webp
from .pieces import joined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

MAX_SIDE: Final = 1_000_000
"""Pixels in width and height: Pillow has a pointer to each row, which it sets while no other thread of Python runs, and
codecs count bits of a row in 31."""

_MAX_WEBP: Final = 8_000_000
"""Pixels, and bytes, of a WebP that is decoded on a thread: Pillow copies its pixels while no other thread of Python
runs, 25 ms for 20 million. Immich's largest ordinary preview has 6 million pixels."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: all pixels loaded, in the mode they were stored in (CLIP resizes before it converts), RGB perhaps as
            RGBX. The EXIF orientation is not applied: Immich sends upright previews, and its own service does not turn
            them either.
        size: width and height in pixels as the file has them; `image` is smaller where it was decoded at a fraction.
        orientation: what EXIF says, 1 (upright) to 8.
    """

    image: Image.Image
    size: tuple[int, int]
    orientation: int = 1

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
    def rgb(self) -> "NDArray[np.uint8]":
        """The pixels as uint8 (height, width, 3), RGB, 0…255, read-only; transparency is dropped, as Immich does."""
        import numpy as np  # processes that only decode do without

        width, height = self.image.size
        rgb = pixel_memory.allocated(height * width * 3).reshape(height, width, 3)
        for top, band in pixel_memory.bands(self.image):
            rgb[top : top + band.height] = np.asarray(pixel_memory.to_rgb(band))
        rgb.setflags(write=False)
        return rgb


def decodes_on_thread(data: bytes) -> bool:
    """Whether a file's codec lets other threads of Python run, and takes no longer than its size says.

    That is JPEG, PNG, and WebP but for the largest. JPEG 2000 holds the interpreter's lock to the end, AVIF while it
    copies the pixels; DDS, QOI and others are decoded in Python, half a minute for 20 million pixels. Pixels of large
    pictures are for `pixel_memory`, of whatever codec.
    """
    if webp.is_webp(data):
        pixels = webp.canvas_pixels(data)
        return pixels is not None and max(pixels, len(data)) <= _MAX_WEBP
    return not data or jpeg.is_jpeg(data) or png.is_png(data)


def measure(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels, read from the header: nothing is decoded.

    Args:
        data: the encoded file, of any format Pillow reads, or HEIC where pillow-heif is installed.
        max_pixels: width x height above which the image is refused.

    Raises:
        BadImage: empty, zero-sized or of no known format.
        TooLarge: more pixels than `max_pixels`.
    """
    with _pillow_failures(max_pixels), _opened(data, max_pixels)[0] as image:
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
        image, metadata = _opened(data, max_pixels)
        size = _checked_size(image, max_pixels)
        scaled = min_side is not None and image.draft(None, (min_side, min_side)) is not None
        image.load()
        if not scaled:
            size = _checked_size(image, max_pixels)  # what a HEIC holds may be smaller than it says
    return Picture(image, size, _orientation(image, metadata))


def upright(picture: Picture) -> Picture:
    """The picture turned as its EXIF orientation says, as OpenCV decodes it; as it is where that says nothing."""
    turn = _TURNS.get(picture.orientation)
    if turn is None:
        return picture
    size = picture.size[::-1] if turn in _QUARTER_TURNS else picture.size
    return Picture(picture.image.transpose(turn), size)


def _orientation(image: Image.Image, metadata: bytes | None) -> int:
    try:
        exif = image.getexif()
        if metadata is not None:
            exif.load(metadata)
        orientation = exif.get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata of a good picture; Pillow raises SyntaxError, struct.error …
        return 1
    return orientation if orientation in _TURNS else 1


def _opened(data: bytes, max_pixels: int) -> tuple[ImageFile.ImageFile, bytes | None]:
    """The image with its header read, and its EXIF block where it was taken out."""
    if not data:
        raise BadImage(tr("the image is empty (0 bytes)"))
    if jpeg.is_jpeg(data):
        jpeg.check_work(data)
        pieces, metadata = jpeg.split(data)
        return Image.open(joined(pieces), formats=["JPEG"]), metadata
    if png.is_png(data):
        pieces, metadata = png.split(data)
        return Image.open(joined(pieces), formats=["PNG"]), metadata
    if heic.is_heic(data):
        return _opened_heic(data, max_pixels), None
    return Image.open(io.BytesIO(data)), None


def _opened_heic(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    reader = heic.reader()
    if (pixels := heic.coded_pixels(data)) > max_pixels:
        raise TooLarge(
            tr(
                "the image has {pixels} pixels before it is cropped, more than the {limit} allowed",
                pixels=pixels,
                limit=max_pixels,
            )
        )
    return Image.open(io.BytesIO(data), formats=[reader])


def _checked_size(image: ImageFile.ImageFile, max_pixels: int) -> tuple[int, int]:
    if image.format in _REFUSED:
        raise UnidentifiedImageError
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage(tr("Image has zero width or height"))
    if max(width, height) > MAX_SIDE:
        raise TooLarge(
            tr(
                "the image has {width} x {height} pixels, more than {limit} wide or high",
                width=width,
                height=height,
                limit=MAX_SIDE,
            )
        )
    if width * height > max_pixels:
        raise TooLarge(
            tr(
                "the image has {width} x {height} pixels, more than the {limit} allowed",
                width=width,
                height=height,
                limit=max_pixels,
            )
        )
    return width, height


@contextmanager
def _pillow_failures(max_pixels: int) -> Iterator[None]:
    """Turn whatever Pillow raises for bad data into one of ours."""
    try:
        yield
    except ServiceError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(tr("the image has more than the {limit} pixels allowed", limit=max_pixels)) from error
    except UnidentifiedImageError as error:
        raise BadImage(tr("the image is of no format this server can read")) from error
    except MemoryError as error:
        raise TooLarge(tr("the image does not fit in memory")) from error
    except Exception as error:  # the plugins raise OSError, ValueError, SyntaxError, struct.error, IndexError …
        raise BadImage(tr("the image cannot be decoded: {reason}", reason=str(error).strip())) from error
