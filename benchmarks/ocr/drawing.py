"""Lines of text on a picture, and what photographing does to it. Needs Debian's fonts-noto-cjk, fonts-wqy-zenhei,
fonts-wqy-microhei, fonts-arphic-ukai, fonts-liberation and fonts-dejavu-core."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .layouts import VERTICAL_PITCH, Item

FONTS = Path("/usr/share/fonts")
CHINESE = {
    "Noto Sans": ("opentype/noto/NotoSansCJK-Regular.ttc", 2),
    "Noto Serif": ("opentype/noto/NotoSerifCJK-Bold.ttc", 2),
    "Zen Hei": ("truetype/wqy/wqy-zenhei.ttc", 0),
    "Micro Hei": ("truetype/wqy/wqy-microhei.ttc", 0),
    "UKai": ("truetype/arphic/ukai.ttc", 0),
    "Noto Sans Bold": ("opentype/noto/NotoSansCJK-Bold.ttc", 2),
}
LATIN = {
    "Liberation Sans": ("truetype/liberation/LiberationSans-Regular.ttf", 0),
    "DejaVu Serif": ("truetype/dejavu/DejaVuSerif.ttf", 0),
}

Picture = NDArray[np.uint8]


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of the fonts by its name above."""
    path, index = (CHINESE | LATIN)[name]
    return ImageFont.truetype(FONTS / path, size, index=index)


def draw(
    items: Sequence[Item],
    size: tuple[int, int],
    name: str,
    *,
    scale: float = 1.0,
    ink: str = "#202020",
    paper: str = "#fbfaf5",
) -> Picture:
    """A page of (width, height) pixels with some items, both multiplied by `scale`; uint8 (H, W, 3), RGB."""
    image = Image.new("RGB", (round(size[0] * scale), round(size[1] * scale)), paper)
    pen = ImageDraw.Draw(image)
    for item in items:
        _draw_item(pen, item, font(name, max(8, round(item.size * scale))), scale, ink)
    return np.asarray(image)


def extent(items: Sequence[Item], margin: float = 60) -> tuple[int, int]:
    """Width and height of a page that holds some items."""
    right = max(item.x + (item.size if item.vertical else item.length) for item in items)
    bottom = max(item.y + (item.length if item.vertical else 1.3 * item.size) for item in items)
    return round(right + margin), round(bottom + margin)


def rotated(picture: Picture, angle: float, around: Sequence[int] = (190, 190, 190)) -> Picture:
    """Turned clockwise by so many degrees, on a larger picture."""
    turn, size = rotation(picture, angle)
    return _uint8(cv2.warpAffine(picture, turn, size, flags=cv2.INTER_CUBIC, borderValue=list(around)))


def rotation(picture: Picture, angle: float) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """The transform, (2, 3), of a picture's points that turns it clockwise by so many degrees, and the width and height
    of the picture that then holds it."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 1)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    wide, high = round(width * cosine + height * sine), round(width * sine + height * cosine)
    turn[:, 2] += [(wide - width) / 2, (high - height) / 2]
    return np.asarray(turn, np.float64), (wide, high)


def in_perspective(picture: Picture, strength: float, random: np.random.Generator) -> Picture:
    """As seen from one side: each corner moved by up to `strength` of the picture's size."""
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(0, strength, (4, 2)) * [width, height] * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    transform = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    return _uint8(
        cv2.warpPerspective(picture, transform, (width, height), flags=cv2.INTER_CUBIC, borderValue=(190, 190, 190))
    )


def blurred(picture: Picture, sigma: float) -> Picture:
    return _uint8(cv2.GaussianBlur(picture, (0, 0), sigma))


def noisy(picture: Picture, deviation: float, random: np.random.Generator) -> Picture:
    return _uint8(np.clip(picture + random.normal(0, deviation, picture.shape), 0, 255).astype(np.uint8))


def jpeg(picture: Picture, quality: int = 80) -> bytes:
    """As Immich sends it."""
    return cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _draw_item(pen: ImageDraw.ImageDraw, item: Item, face: ImageFont.FreeTypeFont, scale: float, ink: str) -> None:
    x, y = item.x * scale, item.y * scale
    if not item.vertical:
        pen.text((x, y + item.size * scale / 2), item.text, ink, font=face, anchor="lm")
        return
    for number, character in enumerate(item.text):
        middle = y + (number + 0.5) * VERTICAL_PITCH * item.size * scale
        pen.text((x + item.size * scale / 2, middle), character, ink, font=face, anchor="mm")


def is_wide(text: str) -> bool:
    """Whether a text needs a Chinese font."""
    return any(unicodedata.east_asian_width(character) in "WF" for character in text)


def _uint8(picture: Any) -> Picture:
    return np.asarray(picture, np.uint8)
