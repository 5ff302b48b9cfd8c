"""CLIP's image transform: picture → normalised tensor, bit for bit as the models were trained.

Follows open_clip (Ilharco et al. 2021) for the resize modes and cn-clip for Chinese-CLIP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.models.images import Picture
from immich_ml_cn.models.pixel_memory import is_large, opaque, premultiplied, to_rgb

from .config import read_json
from .resizing import resized

ResizeMode: TypeAlias = Literal["shortest", "longest", "squash"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "random": Image.Resampling.BICUBIC,  # open_clip: augmentation while training, bicubic else
}
_LONGEST_STRIP = 32
_REDUCING_GAP = 2.0
_REDUCIBLE = frozenset({"L", "RGB", "RGBX", "CMYK", "YCbCr"})
"""Modes whose blocks are averaged; of the others some cannot be, and all are rare."""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """What turns a picture into a CLIP's input.

    Attributes:
        size: height and width of the result in pixels.
        mean: subtracted from R, G, B in 0…1.
        std: R, G, B are divided by it afterwards.
        interpolation: the filter of the resize, antialiased.
        resize_mode: ``shortest`` scales the shorter side to `size` and crops the centre,
            ``longest`` scales the longer side and pads with black, ``squash`` gives up the
            aspect ratio.
        resize_first: resize in the picture's own mode and convert to RGB afterwards, as cn-clip
            does. It matters for palette, bilevel, CMYK and 16-bit pictures only.
        fast: average whole blocks of pixels down to twice `size` at most, and use `interpolation` from there.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: Image.Resampling = Image.Resampling.BICUBIC
    resize_mode: ResizeMode = "shortest"
    resize_first: bool = False
    fast: bool = False

    @property
    def min_side(self) -> int | None:
        """Pixels of a picture's shorter side that are enough for it, None where every pixel counts."""
        return round(_REDUCING_GAP * max(self.size)) if self.fast else None

    def __call__(self, picture: Picture) -> NDArray[np.float32]:
        """The tensor of one picture.

        Returns:
            float32 (3, height, width), RGB, C-contiguous: ``(p / 255 - mean) / std`` rounded to
            float32 after every step, as PyTorch does.
        """
        image = picture.image if self.resize_first else opaque(picture.image)
        return self._normalise(np.asarray(to_rgb(self._fit(image, picture.size))))

    def _fit(self, image: Image.Image, full: tuple[int, int]) -> Image.Image:
        """Resize and crop; `full` is the picture's own size, whose ratio a half or a quarter only nearly keeps."""
        height, width = self.size
        if self.resize_mode == "squash":
            return self._resized(image, (width, height))
        if self.resize_mode == "longest":
            image = self._resized(image, _longest_size(full, self.size))
        else:
            shortened = shorten(image)
            full = full if shortened is image else shortened.size
            image = self._resized(shortened, _shortest_size(full, self.size))
        return image.crop(_centre(image.size, self.size))

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        if self.fast and image.mode in _REDUCIBLE:
            return image.resize(size, self.interpolation, reducing_gap=_REDUCING_GAP)
        if not is_large(*image.size):
            return resized(image, size, self.interpolation)
        if image.mode != "RGBA":
            return image.resize(size, self.interpolation)
        small = premultiplied(image).resize(size, self.interpolation)
        return Image.frombytes("RGBa", size, small.tobytes()).convert("RGBA")

    def _normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        tensor = pixels.transpose(2, 0, 1).astype(np.float32, order="C")  # (3, H, W)
        tensor /= np.float32(255)
        tensor -= np.array(self.mean, np.float32)[:, None, None]
        tensor /= np.array(self.std, np.float32)[:, None, None]
        return tensor


def chinese_clip_transform(size: int) -> ImageTransform:
    """Chinese-CLIP's own: squash to `size` x `size` pixels, bicubic, before the RGB conversion."""
    return ImageTransform((size, size), resize_mode="squash", resize_first=True)


def read_transform(path: Path) -> ImageTransform:
    """Read the ``preprocess_cfg.json`` (UTF-8) of Immich's layout.

    Keys: ``size`` (pixels, one number or [height, width]) and, with open_clip's defaults, ``mean``,
    ``std``, ``interpolation``, ``resize_mode``; ours is ``resize_first``. Others are ignored.

    Raises:
        Unavailable: the file is missing or says what this server does not know.
    """
    config = read_json(path)
    try:
        return _transform(config)
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(
            tr("{path} is not a CLIP image configuration: {reason!r}", path=path, reason=error)
        ) from error


def _transform(config: Mapping[str, Any]) -> ImageTransform:
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else (int(side) for side in size)
    mode = config.get("resize_mode", "shortest")
    if mode not in get_args(ResizeMode):
        raise ValueError(f"resize_mode {mode!r}")
    if min(height, width) < 1:
        raise ValueError(f"size {size!r}")
    return ImageTransform(
        size=(height, width),
        mean=_rgb_values(config.get("mean", OPENAI_MEAN)),
        std=_rgb_values(config.get("std", OPENAI_STD)),
        interpolation=_RESAMPLING[config.get("interpolation", "bicubic")],
        resize_mode=mode,
        resize_first=bool(config.get("resize_first", False)),
    )


def _rgb_values(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def shorten(image: Image.Image) -> Image.Image:
    """Cut the ends off a strip, of which the centre crop keeps nothing.

    A 10,000 x 1 picture would otherwise be enlarged to 2,240,000 x 224 first.
    """
    width, height = image.size
    limit = _LONGEST_STRIP * min(width, height)
    if max(width, height) <= limit:
        return image
    return image.crop(_centre(image.size, (min(height, limit), min(width, limit))))


def _shortest_size(image: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """(width, height) after the shorter side became `target`, a (height, width).

    The longer side is truncated as torchvision does for square targets; others are open_clip's
    ``ResizeKeepRatio``, which rounds.
    """
    width, height = image
    if target[0] != target[1]:
        ratio = min(height / target[0], width / target[1])
        return round(width / ratio), round(height / ratio)
    side = target[0]
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _longest_size(image: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """(width, height), at least 1, that fits into `target`, a (height, width)."""
    width, height = image
    ratio = max(height / target[0], width / target[1])
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centre(image: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of `target`, a (height, width), about the centre.

    Crops round half to even, as torchvision; padding (negative offsets) puts the odd pixel last.
    """
    width, height = target[1], target[0]
    left, top = _offset(image[0], width), _offset(image[1], height)
    return left, top, left + width, top + height


def _offset(have: int, want: int) -> int:
    return round((have - want) / 2) if have >= want else -((want - have) // 2)
