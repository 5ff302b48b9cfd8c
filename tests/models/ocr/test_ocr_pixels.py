import numpy as np
import pytest
from PIL import Image
from rapidocr.utils.load_image import LoadImage

from immich_ml_cn.models.images import Picture
from immich_ml_cn.models.ocr.pixels import opaque_rgb, to_tensor

NOISE = np.random.default_rng(0).integers(0, 256, (8, 12, 4), np.uint8)


def rgba(alpha: int | None = None, ink: int | None = None) -> Image.Image:
    pixels = NOISE.copy()
    if alpha is not None:
        pixels[:, :, 3] = alpha
    if ink is not None:
        pixels[:, :, :3] = ink
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "image",
    [
        rgba(),
        rgba(ink=20),
        rgba(ink=230),
        rgba(alpha=0),
        rgba(alpha=255),
        rgba().convert("RGB"),
        rgba().convert("L"),
        rgba().convert("1"),
    ],
)
def test_pixels_are_rapidocrs(image: Image.Image) -> None:
    expected = LoadImage()(image)
    # The weights of red, green and blue are added up in another order: the last bit may differ.
    np.testing.assert_allclose(opaque_rgb(Picture.of(image))[:, :, ::-1].astype(int), expected, atol=1)


def on_transparency(mode: str, ink: int) -> Image.Image:
    """Left half opaque ink, right half transparent."""
    if mode == "P":
        image = Image.fromarray(np.tile(np.arange(12) // 6, (8, 1)).astype(np.uint8))
        image.putpalette([ink] * 6)
        image.info["transparency"] = 1
        return image
    pixels = np.full((8, 12, 4), ink, np.uint8)
    pixels[:, 6:, 3] = 0
    pixels[:, :6, 3] = 255
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("ink", [0, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_ink_on_transparency_stands_out(mode: str, ink: int) -> None:
    image = on_transparency(mode, ink)
    assert image.mode == mode
    rgb = opaque_rgb(Picture.of(image))
    assert (rgb[:, :6] == ink).all()
    assert (rgb[:, 6:] == 255 - ink).all()


def test_a_palette_is_resolved() -> None:
    image = Image.new("RGB", (4, 4), (10, 20, 30)).convert("P")
    assert opaque_rgb(Picture.of(image)).shape == (4, 4, 3)
    np.testing.assert_array_equal(opaque_rgb(Picture.of(image)), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_is_scaled() -> None:
    image = Image.fromarray(np.array([[0, 0x80FF, 0xFFFF]], np.uint16))
    assert opaque_rgb(Picture.of(image))[0, :, 0].tolist() == [0, 0x80, 255]


def test_the_tensor_is_normalised_and_bgr() -> None:
    tensor = to_tensor(np.array([[[255, 51, 0]]], np.uint8))
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor[:, 0, 0], [-1, -0.6, 1], atol=1e-6)
