"""The resize in bands against Pillow's own, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from immich_ml_cn.models.clip import resizing
from immich_ml_cn.models.clip.resizing import resized

SIDES = st.integers(2, 400)
TARGETS = st.integers(1, 300)


def noise(mode: str, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", [(1440, 1440), (1920, 1440), (2165, 1440), (1440, 1920), (2160, 1080)])
@pytest.mark.parametrize("target", [(224, 224), (336, 224), (384, 384)])
def test_previews(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise("RGB", *size)
    expected = image.resize(target, Image.Resampling.BICUBIC)
    assert resized(image, target, Image.Resampling.BICUBIC).tobytes() == expected.tobytes()


@given(
    st.sampled_from(["RGB", "L", "CMYK", "YCbCr", "RGBA", "LA", "P", "F"]),
    st.sampled_from(list(Image.Resampling)),
    SIDES,
    SIDES,
    TARGETS,
    TARGETS,
)
@settings(max_examples=300)
def test_any_picture(mode: str, filter_: Image.Resampling, width: int, height: int, wide: int, high: int) -> None:
    image = noise(mode, width, height)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resizing, "_MIN_PIXELS", 0)
        found = resized(image, (wide, high), filter_)
    assert found.tobytes() == image.resize((wide, high), filter_).tobytes()
