"""Large lone characters, drawn with OpenCV's own font."""

import cv2
import numpy as np
import pytest
from make_ocr_pictures import PICTURES
from numpy.typing import NDArray
from ocr_pipeline import read_picture

from immich_ml_cn.models.ocr.large import find_large_boxes, may_be_missing, parts_of


def poster(character: str, scale: float, *, line: str = "") -> NDArray[np.uint8]:
    """A character of about 22 `scale` px in the middle of a picture as large as Immich sends it."""
    image = np.full((1440, 1920, 3), (225, 228, 235), np.uint8)
    face, thickness = cv2.FONT_HERSHEY_SIMPLEX, round(2.4 * scale)
    (width, height), _ = cv2.getTextSize(character, face, scale, thickness)
    cv2.putText(
        image, character, (960 - width // 2, 640 + height // 2), face, scale, (40, 34, 30), thickness, cv2.LINE_AA
    )
    cv2.putText(image, line, (660, 1300), face, 2.4, (40, 34, 30), 6, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("character", ["7", "4", "A", "K"])
@pytest.mark.parametrize("scale", [18, 28, 36])
def test_a_lone_character_is_read(character: str, scale: float) -> None:
    read = read_picture(poster(character, scale))
    assert read.texts == (character,)
    top_left, bottom_right = read.lines.boxes[0, 0], read.lines.boxes[0, 2]
    assert (top_left < [960, 640]).all()
    assert (bottom_right > [960, 640]).all()


def test_a_character_above_a_line() -> None:
    assert read_picture(poster("7", 28, line="Platform seven")).texts == ("7", "Platform seven")


@pytest.mark.parametrize("name", ["no_text.jpg", "light_on_dark.jpg", "large.jpg"])
def test_nothing_is_made_up(name: str) -> None:
    texts = read_picture((PICTURES / name).read_bytes()).texts
    assert all(len(text) > 1 for text in texts)


@pytest.mark.parametrize(
    ("count", "value", "size", "expected"),
    [(0, 0.9, 736, True), (2, 0.4, 736, True), (3, 0.9, 736, False), (0, 0.2, 736, False), (0, 0.9, 192, False)],
)
def test_it_is_looked_for_where_there_is_little_text(count: int, value: float, size: int, expected: bool) -> None:
    assert may_be_missing(count, np.full((size, size + 96), value, np.float32)) is expected


def test_a_region_gives_an_upright_box_in_pixels_of_the_picture() -> None:
    probability = np.zeros((128, 160), np.float32)
    cv2.line(probability, (60, 40), (90, 100), 0.8, 5)  # a stroke, askew
    probability[5:10, 5:10] = 0.9  # too small
    boxes, scores = find_large_boxes(probability, 0.5, 1600, 1280)
    assert boxes.shape == (1, 4, 2)
    [left, top], [right, bottom] = boxes[0, 0].tolist(), boxes[0, 2].tolist()
    assert boxes[0].tolist() == [[left, top], [right, top], [right, bottom], [left, bottom]]
    assert (left < 560, top < 360, right > 940, bottom > 1050) == (True,) * 4
    assert scores[0] == pytest.approx(0.8, abs=0.05)
    assert len(find_large_boxes(probability, 0.85, 1600, 1280)[0]) == 0


def test_boxes_stay_inside_the_picture() -> None:
    boxes, _ = find_large_boxes(np.ones((128, 128), np.float32), 0.5, 300, 200)
    assert boxes[0].tolist() == [[0, 0], [299, 0], [299, 199], [0, 199]]


def test_lines_inside_a_character_are_parts_of_it() -> None:
    part = [(10, 10), (30, 10), (30, 20), (10, 20)]
    boxes = np.array([part, np.add(part, [200, 0])], np.float32)
    character = np.array([(0, 0), (100, 0), (100, 100), (0, 100)], np.float32)
    assert parts_of(character, boxes, [0, 1]) == [0]
    assert parts_of(character, boxes, [1]) == []
