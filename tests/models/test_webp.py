"""The size that a WebP's first chunk promises, compared with Pillow's."""

import pytest
from picture_files import encoded, png_of
from PIL import Image

from immich_ml_cn.models.webp import canvas_pixels, is_webp

FRAMES = [Image.new("RGB", (300, 20), colour) for colour in ("red", "blue")]


@pytest.mark.parametrize(
    "data",
    [
        encoded(FRAMES[0], "WEBP"),
        encoded(FRAMES[0], "WEBP", lossless=True),
        encoded(FRAMES[0], "WEBP", exif=b"Exif\0\0II*\0"),
        encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    ],
    ids=["VP8", "VP8L", "VP8X", "animated"],
)
def test_the_size_that_is_promised(data: bytes) -> None:
    assert is_webp(data)
    assert canvas_pixels(data) == 300 * 20
    for cut in range(30):
        assert canvas_pixels(data[:cut]) is None


def test_what_is_no_webp() -> None:
    data = encoded(FRAMES[0], "WEBP")
    assert not is_webp(data[:11])
    assert not is_webp(png_of(1, 1))
    assert canvas_pixels(data[:12] + b"JUNK" + data[16:]) is None
