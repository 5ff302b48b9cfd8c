"""Tables on their side or steep, whose columns of numbers look like lines across them."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from ocr_pipeline import OcrModels, read_picture

from benchmarks.ocr.drawing import rotated
from immich_ml_cn.models.ocr.turned import steep_angle, turn_upright
from immich_ml_cn.models.results import NO_BOXES, ReadText, TextBoxes

ROWS = [("Name", "Art", "Math", "Music")]
ROWS += [(name, str(61 + 7 * n), str(98 - 6 * n), str(72 + 3 * n)) for n, name in enumerate(("Anna", "Ben", "Carl"))]
ROWS += [(name, str(67 + 5 * n), str(93 - 4 * n), str(81 + n)) for n, name in enumerate(("Dora", "Emil", "Frida"))]


def table() -> NDArray[np.uint8]:
    image = np.full((540, 900, 3), 250, np.uint8)
    for y, row in enumerate(ROWS):
        for x, cell in enumerate(row):
            place = 60 + 220 * x, 90 + 64 * y
            cv2.putText(image, cell, place, cv2.FONT_HERSHEY_SIMPLEX, 1.6, (30, 30, 30), 4, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("angle", [0, 90, 300, *(pytest.param(a, marks=pytest.mark.slow) for a in (45, 180, 270))])
def test_a_table_is_read_row_by_row_at_any_angle(angle: float) -> None:
    read = read_picture(rotated(table(), angle), models=OcrModels.bundled(parallel=True))
    assert list(read.texts) == [cell for row in ROWS for cell in row]


@pytest.mark.parametrize("angle", [0, 30, 90, 135, 180, 270, 301])
def test_boxes_of_the_turned_picture_come_back(angle: float) -> None:
    """Whose lines lie at an angle: turned they are level, inside the picture, and come back to where they were."""
    turn = turn_upright(400, 300, np.radians(angle))
    inside = np.array([[(200, 150), (220, 150), (220, 160), (200, 160)]], np.float32)
    turned = inside @ turn.matrix[:, :2].T + turn.matrix[:, 2]
    assert ((turned >= 0) & (turned <= [turn.width, turn.height])).all()
    np.testing.assert_allclose(turn.back(turned.astype(np.float32)), inside, atol=1e-3)
    along = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    np.testing.assert_allclose(turn.matrix[:, :2] @ along, [1, 0], atol=1e-12)


def rows(angle: float, count: int = 4) -> NDArray[np.float32]:
    """Lines at an angle, beginning at their top left."""
    along = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    down = np.array([-along[1], along[0]])
    first = 500 + np.arange(count)[:, None] * 60 * down
    return np.stack([first, first + 300 * along, first + 300 * along + 40 * down, first + 40 * down], axis=1).astype(
        np.float32
    )


def angle_of(boxes: NDArray[np.float32], score: float = 0.99) -> float | None:
    """Of a page whose first four lines were read with 0.99, and the others with another score."""
    scores = np.ones(len(boxes), np.float32)
    read_scores = tuple(0.99 if number < 4 else score for number in range(len(boxes)))
    return steep_angle(
        TextBoxes(boxes, scores), ReadText(TextBoxes(boxes, scores), ("text",) * len(boxes), read_scores)
    )


@pytest.mark.parametrize("angle", [90, -90, 180, 30, -15, -120])
def test_a_steep_page_with_lines_across_is_looked_at_again(angle: float) -> None:
    lines = rows(angle)
    assert angle_of(lines) is None
    across = np.concatenate([lines, rows(angle + 90, 5)])
    found = angle_of(across, 0.7)
    assert found is not None
    assert np.cos(found - np.radians(angle)) == pytest.approx(1, abs=1e-6)
    assert angle_of(across) is None


def test_a_straight_page_and_vertical_writing_are_not() -> None:
    lines = rows(3)
    assert angle_of(np.concatenate([lines, rows(90, 1)]), 0.7) is None
    columns = np.roll(rows(90), 1, axis=1)
    assert angle_of(np.concatenate([columns, lines[:1]]), 0.7) is None
    assert angle_of(lines[:0]) is None


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        ([("Name", 0.99), ("Math", 0.99)], True),
        ([("Name", 0.99)], False),
        ([("Name", 0.99), ("Mat", 0.92), ("ath", 0.92)], True),
        ([("Name", 0.8), ("Mat", 0.8)], False),
    ],
)
def test_the_second_result_counts_where_it_has_more_or_is_surer(again: list[tuple[str, float]], expected: bool) -> None:
    first, second = ([("Name", 0.9), ("Mat", 0.9), ("th", 0.9)], again)
    read, other = (ReadText(NO_BOXES, *zip(*lines, strict=True)) for lines in (first, second))
    assert other.is_better_than(read) is expected
