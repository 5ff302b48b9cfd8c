"""A picture at any angle gives the same text, and each line begins at the top left of its own first character."""

from functools import cache

import cv2
import numpy as np
import pytest
from make_ocr_pictures import MIXED, NEWS, PICTURES, POEM
from numpy.typing import NDArray
from ocr_pipeline import OcrModels, read_picture
from PIL import Image

from benchmarks.ocr.drawing import rotation

Picture = NDArray[np.uint8]

EVERY = [pytest.param(angle, marks=() if angle % 20 == 4 else pytest.mark.slow) for angle in range(0, 360, 2)]


@cache
def picture(name: str) -> Picture:
    return np.asarray(Image.open(PICTURES / name).convert("RGB"))


def turned(image: Picture, angle: float) -> tuple[Picture, NDArray[np.float64]]:
    """A picture turned clockwise by so many degrees on a larger one, and the transform, (2, 3), of its points."""
    turn, size = rotation(image, angle)
    pixels = cv2.warpAffine(image, turn, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(pixels, np.uint8), turn


def check(image: Picture, angle: int, lines: list[str], first_corners: list[tuple[int, int]], size: int) -> None:
    """Read a picture at an angle; its lines are to begin within half a character of where they were drawn."""
    pixels, turn = turned(image, angle)
    read = read_picture(pixels, models=OcrModels.bundled(parallel=True))
    assert ["".join(text.split()) for text in read.texts] == ["".join(line.split()) for line in lines]
    expected = np.array(first_corners) @ turn[:, :2].T + turn[:, 2]
    assert np.linalg.norm(read.lines.boxes[:, 0] - expected, axis=1).max() < size / 2


@pytest.mark.parametrize("angle", EVERY)
def test_horizontal_lines(angle: int) -> None:
    image = picture("chinese.png")[20:180]
    check(image, angle, [NEWS[0], NEWS[1]], [(38, 25), (38, 95)], 44)


@pytest.mark.parametrize("angle", EVERY)
def test_vertical_lines(angle: int) -> None:
    image = picture("vertical.png")[:400, 220:400]
    check(image, angle, POEM[:2], [(106, 50), (16, 50)], 64)


@pytest.mark.parametrize("angle", EVERY)
def test_a_lone_horizontal_line(angle: int) -> None:
    check(picture("mixed.png")[20:110], angle, [MIXED[0]], [(38, 28)], 44)


@pytest.mark.parametrize("angle", EVERY)
def test_a_lone_vertical_line(angle: int) -> None:
    check(picture("vertical.png")[:400, 310:400], angle, [POEM[0]], [(16, 50)], 64)
