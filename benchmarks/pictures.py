"""Pictures as Immich sends them: JPEG, quality 80, no chroma subsampling, short side 1440 pixels, with a profile."""

import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

SHORT_SIDE = 1440
_OCR_PICTURES = Path(__file__).parents[1] / "tests" / "pictures" / "ocr"
_PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")
_DENSE = ("dense.png", "two_columns.png")
_SPARSE = ("large.jpg", "english.png", "mixed.png", "light_on_dark.jpg")


def photos() -> list[bytes]:
    """Four photos that come with scikit-image, enlarged, with grain so that they compress as photos do."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise RuntimeError("the photos come with scikit-image, which is not installed: scripts/environment bench")
    folder = Path(spec.origin).parent / "data"
    return [as_preview(Image.open(folder / name), grain=2.5) for name in _PHOTOS]


def dense() -> list[bytes]:
    """Pages full of text."""
    return [as_preview(Image.open(_OCR_PICTURES / name)) for name in _DENSE]


def sparse() -> list[bytes]:
    """Pictures with a few lines of text."""
    return [as_preview(Image.open(_OCR_PICTURES / name)) for name in _SPARSE]


def photos_with_text() -> list[bytes]:
    """Photos with text in them: what all three tasks of a request find something in."""
    return [_beside(photo, text) for photo, text in zip(photos(), sparse(), strict=True)]


def padded(size: int) -> bytes:
    """A picture of 8 x 8 pixels in a file of `size` bytes: as long to receive as a preview, nothing to decode."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 60)).save(file, "JPEG", quality=80)
    return file.getvalue().ljust(size, b"\0")


def as_preview(image: Image.Image, *, grain: float = 0.0) -> bytes:
    """Scale a picture to a short side of 1440 pixels and compress it.

    Args:
        grain: standard deviation of noise added to every level, 0…255.
    """
    image = image.convert("RGB")
    ratio = SHORT_SIDE / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BICUBIC)
    if grain:
        noise = np.random.default_rng(7).normal(0, grain, (image.height, image.width, 1))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    return _compress(image)


def _beside(photo: bytes, text: bytes) -> bytes:
    """A picture of text in the lower right quarter of a photo."""
    image, page = Image.open(io.BytesIO(photo)), Image.open(io.BytesIO(text))
    page.thumbnail((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    image.paste(page, (image.width - page.width, image.height - page.height))
    return _compress(image)


def _compress(image: Image.Image) -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80, subsampling=0, icc_profile=profile)
    return file.getvalue()
