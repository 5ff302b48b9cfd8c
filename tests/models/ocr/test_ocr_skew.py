import numpy as np
import pytest
from numpy.typing import NDArray

from immich_ml_cn.models.ocr.boxes import order_corners
from immich_ml_cn.models.ocr.skew import page_angle, page_skew, rotated

ANGLES = range(0, 360, 2)


def rectangle(width: float, height: float, x: float = 0, y: float = 0) -> NDArray[np.float64]:
    """From its top-left corner clockwise, around (x, y)."""
    return np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2 + [x, y]


def first_corner(box: NDArray[np.float64], ordered: NDArray[np.float64]) -> int:
    """Which of the corners a box that was drawn begins with."""
    return int(np.linalg.norm(box - ordered[0], axis=1).argmin())


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("size", [(600, 40), (40, 600), (120, 40), (40, 70)])
def test_a_box_begins_top_left_in_the_directions_of_its_page(size: tuple[float, float], angle: int) -> None:
    """That is, a box at up to 45 degrees at the corner it was drawn from, and then at the next for each quarter."""
    box = rotated(rectangle(*size), np.radians(angle))
    [ordered] = order_corners(box[None])
    quarters = -((angle + 45) // 90) % 4 if angle % 90 != 45 else None
    if quarters is not None:
        assert first_corner(box, ordered) == quarters
    np.testing.assert_allclose(ordered, np.roll(box, -first_corner(box, ordered), axis=0))


@pytest.mark.parametrize("angle", ANGLES)
def test_all_lines_of_a_page_begin_alike(angle: int) -> None:
    """Those of a page at 45 degrees too, some of which lie a little less steep and others a little more."""
    wobble = np.random.default_rng(angle).uniform(-4, 4, 12)
    boxes = np.array([rectangle(500, 30, y=60 * line) for line in range(12)])
    boxes = np.array([rotated(box, np.radians(angle + turn)) for box, turn in zip(boxes, wobble, strict=True)])
    ordered = order_corners(boxes)
    assert len({first_corner(box, found) for box, found in zip(boxes, ordered, strict=True)}) == 1


@pytest.mark.parametrize("angle", [-44, -15, -3, 0, 0.5, 3, 15, 44])
@pytest.mark.parametrize("quarters", range(4))
def test_the_skew_of_a_page(angle: float, quarters: int) -> None:
    boxes = np.array([rectangle(300, 30, y=50 * line) for line in range(5)])
    page = rotated(boxes, np.radians(angle + 90 * quarters))
    assert np.degrees(page_skew(page)) == pytest.approx(angle)


@pytest.mark.parametrize("angle", [-15, -3, 0, 0.5, 3, 15, 44])
def test_the_skew_of_a_calendar(angle: float) -> None:
    """The rectangles of its numbers lie as the picture does."""
    days = rotated(np.array([(120 * (day % 7), 90 * (day // 7)) for day in range(30)]), np.radians(angle))
    boxes = np.array([rectangle(50, 44, *day) for day in days])
    assert np.degrees(page_skew(boxes)) == pytest.approx(angle, abs=0.1)


def test_scattered_characters_have_no_skew() -> None:
    scattered = np.random.default_rng(0).uniform(0, 1000, (12, 2))
    boxes = np.array([rectangle(50, 44, *place) for place in scattered])
    assert page_skew(boxes) == 0


def test_vertical_and_horizontal_lines_agree_and_outliers_do_not_count() -> None:
    page = [rectangle(300, 30), rectangle(30, 200, x=300), rotated(rectangle(150, 30), 0.6), rectangle(400, 30, y=90)]
    assert np.degrees(page_skew(rotated(np.array(page), np.radians(7)))) == pytest.approx(7)


def test_lone_characters_have_no_skew() -> None:
    assert page_skew(rotated(rectangle(40, 40)[None], 0.3)) == pytest.approx(0, abs=1e-6)
    assert page_skew(np.zeros((0, 4, 2))) == 0


@pytest.mark.parametrize("angle", [-45, -44, 0, 10, 44, 45, 46])
def test_each_line_of_a_page_says_how_its_page_is_turned(angle: float) -> None:
    """At 45 degrees too, where the skew of one line is a quarter off that of the next."""
    wobble = np.random.default_rng(0).uniform(-3, 3, 12)
    lines = [rotated(rectangle(500, 30, y=60 * line), np.radians(angle + turn)) for line, turn in enumerate(wobble)]
    page = order_corners(np.array(lines))
    assert [np.degrees(page_angle(line[None]) - page_angle(page)) for line in page] == pytest.approx([0] * 12, abs=6)
    assert np.degrees(page_angle(page) - page_skew(page)) == pytest.approx(0) or abs(angle) == 45
