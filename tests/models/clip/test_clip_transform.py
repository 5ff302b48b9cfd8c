"""CLIP's image transform against a plain Pillow and NumPy one, bit for bit."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_models import save_preprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from picture_files import encoded
from PIL import Image, ImageFilter

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.models.clip import ImageTransform, chinese_clip_transform
from immich_ml_cn.models.clip.transform import OPENAI_MEAN, OPENAI_STD, read_transform, shorten
from immich_ml_cn.models.images import Picture, decode

MODES = ("RGB", "L", "RGBA", "P", "PA", "LA", "CMYK", "1", "I;16", "YCbCr", "HSV", "LAB", "I", "F")
SIGLIP = (0.5, 0.5, 0.5)


def picture(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise on a gradient, in any mode of Pillow's."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 64, (height, width, 4))
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * 191 // max(1, height + width)
    rgba = Image.fromarray((noise + ramp).astype(np.uint8))
    if mode == "RGBA":
        return rgba
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode in ("P", "PA"):
        return rgba.convert("RGB").quantize(64).convert(mode)
    if mode == "LA":
        return rgba.convert("LA")
    if mode == "LAB":
        return Image.merge("LAB", rgba.split()[:3])
    return rgba.convert("RGB").convert(mode)


def reference(image: Image.Image, mean: Any = OPENAI_MEAN, std: Any = OPENAI_STD) -> NDArray[np.float32]:
    """ToTensor and Normalize of torchvision on an image of the final size, in float32."""
    pixels = np.asarray(image.convert("RGB")).astype(np.float32) / np.float32(255)
    tensor = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(tensor.transpose(2, 0, 1))


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("size", [(300, 200), (60, 90), (64, 64), (1, 500)])
@pytest.mark.parametrize("mode", MODES)
def test_chinese_clip_equals_cn_clip(mode: str, size: tuple[int, int]) -> None:
    """Resize to R x R, bicubic, in the picture's own mode; then RGB, /255, mean, std."""
    image = picture(mode, *size)
    expected = reference(image.resize((64, 64), Image.Resampling.BICUBIC))
    assert same_bits(chinese_clip_transform(64)(Picture.of(image)), expected)


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "I;16"])
def test_order_of_conversion_matters(mode: str) -> None:
    """What would let the test above pass with the conversion first would fail here."""
    image = picture(mode, 300, 200)
    first = ImageTransform((64, 64), resize_mode="squash")(Picture.of(image))
    last = chinese_clip_transform(64)(Picture.of(image))
    assert same_bits(first, reference(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)))
    assert not same_bits(first, last)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400), side=st.sampled_from([24, 31, 32]))
def test_shortest_equals_torchvision(width: int, height: int, side: int) -> None:
    """Resize(side): the longer side truncated; CenterCrop(side): the offset rounded half to even."""
    if max(width, height) > 32 * min(width, height):
        return
    image = picture("RGB", width, height)
    long = int(side * max(width, height) / min(width, height))
    resized = image.resize((side, long) if width <= height else (long, side), Image.Resampling.BICUBIC)
    left, top = (int(round((have - side) / 2.0)) for have in resized.size)  # noqa: RUF046
    expected = reference(resized.crop((left, top, left + side, top + side)))
    assert same_bits(ImageTransform((side, side))(Picture.of(image)), expected)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (20000, 40)])
def test_strip(size: tuple[int, int]) -> None:
    """A strip is not blown up: its middle is."""
    image = Image.new("RGB", size, (10, 20, 30))
    expected = reference(Image.new("RGB", (224, 224), (10, 20, 30)))
    assert same_bits(ImageTransform((224, 224))(Picture.of(image)), expected)


def test_shorten() -> None:
    """Only the middle of a strip is kept; the centre crop needs far less than 32 times its side."""
    image = Image.new("L", (1001, 10))
    image.paste(255, (500, 0, 501, 10))
    short = shorten(image)
    assert short.size == (320, 10)
    assert short.getpixel((160, 5)) == 255
    assert shorten(image.transpose(Image.Transpose.ROTATE_90)).size == (10, 320)
    ordinary = Image.new("L", (320, 10))
    assert shorten(ordinary) is ordinary


def test_strips_are_shortened() -> None:
    """At the price of a fraction of a pixel's shift."""
    image, transform = picture("RGB", 1001, 10), ImageTransform((64, 64))
    whole = image.resize((6406, 64), Image.Resampling.BICUBIC).crop((3171, 0, 3235, 64))
    assert same_bits(transform(Picture.of(image)), transform(Picture.of(shorten(image))))
    assert not same_bits(transform(Picture.of(image)), reference(whole))


def test_shortest_converts_first() -> None:
    image = picture("P", 300, 200)
    resized = image.convert("RGB").resize((96, 64), Image.Resampling.BICUBIC).crop((16, 0, 80, 64))
    assert same_bits(ImageTransform((64, 64))(Picture.of(image)), reference(resized))


def test_shortest_of_another_shape() -> None:
    """open_clip's ResizeKeepRatio for a target that is not square: (height, width) = (32, 64)."""
    image = picture("RGB", 300, 200)
    resized = image.resize((64, 43), Image.Resampling.BICUBIC).crop((0, 6, 64, 38))
    assert same_bits(ImageTransform((32, 64))(Picture.of(image)), reference(resized))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (301, 7), (5000, 1), (1, 5000)])
def test_longest_pads_with_black(size: tuple[int, int]) -> None:
    image = picture("RGB", *size)
    ratio = max(size) / 64
    width, height = (max(1, round(side / ratio)) for side in size)
    canvas = Image.new("RGB", (64, 64))
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(small, ((64 - width) // 2, (64 - height) // 2))
    transform = ImageTransform((64, 64), resize_mode="longest")
    assert same_bits(transform(Picture.of(image)), reference(canvas))


TRANSFORMS = [
    chinese_clip_transform(64),
    ImageTransform((64, 64)),
    ImageTransform((64, 64), resize_mode="longest"),
    ImageTransform((48, 64)),
]


@pytest.mark.parametrize("size", [(640, 480), (333, 999), (1000, 37), (3000, 60), (50, 40)])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_fast_is_nearly_exact(transform: ImageTransform, size: tuple[int, int]) -> None:
    """Of a JPEG, decoded at a fraction where that suffices, and of the same pixels without that."""
    file = encoded(picture("RGB", *size).filter(ImageFilter.GaussianBlur(2)), "JPEG", quality=90)
    exact = transform(decode(file, 10**9))
    fast = replace(transform, fast=True)
    for found in (fast(decode(file, 10**9, fast.min_side)), fast(decode(file, 10**9))):
        assert found.shape == exact.shape
        assert np.abs(found - exact).mean() < 0.02  # less than one of 256 levels, each 0.015 here
        assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("mode", MODES)
def test_fast_takes_every_mode(mode: str) -> None:
    image = picture(mode, 700, 500).filter(ImageFilter.BoxBlur(3)) if mode in ("RGB", "L") else picture(mode, 700, 500)
    for transform in TRANSFORMS:
        exact = transform(Picture.of(image))
        assert np.abs(replace(transform, fast=True)(Picture.of(image)) - exact).mean() < 0.05


def test_exact_needs_every_pixel() -> None:
    assert ImageTransform((224, 224)).min_side is None
    assert ImageTransform((224, 196), fast=True).min_side == 448


def test_palette_with_transparency() -> None:
    """Its transparency is dropped, without Pillow's warning about it."""
    image = picture("P", 300, 200)
    image.info["transparency"] = bytes(range(64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = reference(image.resize((64, 64), Image.Resampling.BICUBIC))
    assert same_bits(chinese_clip_transform(64)(Picture.of(image)), expected)


def test_the_picture_is_left_alone() -> None:
    image = picture("RGB", 64, 64)
    before = image.tobytes()
    tensor = chinese_clip_transform(64)(Picture.of(image))
    tensor[:] = 0
    assert image.tobytes() == before


def test_read_transform(tmp_path: Path) -> None:
    save_preprocessing(
        tmp_path,
        size=[32, 48],
        mode="RGB",
        mean=SIGLIP,
        std=SIGLIP,
        interpolation="bilinear",
        resize_mode="squash",
        fill_color=0,
        名="中文",
    )
    transform = read_transform(tmp_path / "visual" / "preprocess_cfg.json")
    assert transform == ImageTransform((32, 48), SIGLIP, SIGLIP, Image.Resampling.BILINEAR, "squash")
    image = picture("RGB", 300, 200)
    expected = reference(image.resize((48, 32), Image.Resampling.BILINEAR), SIGLIP, SIGLIP)
    assert same_bits(transform(Picture.of(image)), expected)


def test_defaults_are_open_clips(tmp_path: Path) -> None:
    save_preprocessing(tmp_path, size=224)
    assert read_transform(tmp_path / "visual" / "preprocess_cfg.json") == ImageTransform((224, 224))


def test_ours_is_read_back(tmp_path: Path) -> None:
    save_preprocessing(tmp_path, size=336, resize_mode="squash", resize_first=True)
    assert read_transform(tmp_path / "visual" / "preprocess_cfg.json") == chinese_clip_transform(336)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "size"),
        (json.dumps({"size": 0}), "size"),
        (json.dumps({"size": [1, 2, 3]}), "values to unpack"),
        (json.dumps({"size": 8, "resize_mode": "zoom"}), "zoom"),
        (json.dumps({"size": 8, "interpolation": "psychic"}), "psychic"),
        (json.dumps({"size": 8, "mean": [1, 2]}), "values to unpack"),
        (json.dumps({"size": 8, "std": "abc"}), "could not convert"),
    ],
)
def test_broken_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "preprocess_cfg.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Unavailable, match=message):
        read_transform(path)


def test_missing_configuration(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        read_transform(tmp_path / "preprocess_cfg.json")
