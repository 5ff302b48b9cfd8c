"""Pages of every kind come in the order in which a person reads them, straight, tilted, on their side, upside down."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.ocr.layouts import Layout, layouts
from immich_ml_cn.models.ocr.boxes import order_corners
from immich_ml_cn.models.ocr.reading_order import reading_order
from immich_ml_cn.models.ocr.skew import rotated

PAGES = layouts()
TILTS = (-15, -10, -5, -3, -1, 0, 1, 3, 5, 10, 15)


def order(page: Layout, boxes: NDArray[np.float64], upside_down: bool = False) -> list[str]:
    """The texts of a page, whose boxes are found in any order and given in whole pixels."""
    found = np.random.default_rng(0).permutation(len(boxes))
    texts = [page.items[index].text for index in found]
    corners = order_corners(np.round(boxes[found]).astype(np.float32))
    return [texts[index] for index in reading_order(corners, upside_down, texts)]


def named(page: Layout) -> str:
    return f"{page.kind}: {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=named)
@pytest.mark.parametrize("angle", TILTS)
def test_a_tilted_page_is_read_as_a_straight_one(page: Layout, angle: float) -> None:
    assert order(page, rotated(page.boxes(), np.radians(angle))) == [item.text for item in page.items]


@pytest.mark.parametrize("page", PAGES, ids=named)
@pytest.mark.parametrize("angle", [176, 180, 183])
def test_a_page_upside_down_is_read_from_its_own_top(page: Layout, angle: float) -> None:
    boxes = rotated(page.boxes(), np.radians(angle))
    assert order(page, boxes, upside_down=True) == [item.text for item in page.items]


@pytest.mark.parametrize("page", PAGES, ids=named)
@pytest.mark.parametrize("angle", [86, 90, 94, 267, 270])
def test_a_page_on_its_side_is_read_from_its_own_top(page: Layout, angle: float) -> None:
    """Of its lines, which are turned by a quarter to be read, those of a page turned to the left are upside down then;
    so are columns of vertical writing on a page turned to the right."""
    vertical = {item.vertical for item in page.items}
    if len(vertical) > 1:
        pytest.skip("some of its lines would be upside down, and others not")
    boxes = rotated(page.boxes(), np.radians(angle))
    upside_down = (angle > 180) != (vertical == {True})
    assert order(page, boxes, upside_down) == [item.text for item in page.items]


@pytest.mark.parametrize("seed", range(8))
def test_a_page_at_45_degrees_is_read_line_by_line(seed: int) -> None:
    """Where some of its lines lie a little less steep and others a little more, and a few turn out to be no text."""
    random = np.random.default_rng(seed)
    page = Layout("book", "")
    page.lines([f"line {number} of the page" for number in range(9)], 50, 50)
    turns = np.radians(45 + random.uniform(-2, 2, 9))
    boxes = np.array([rotated(box, turn) for box, turn in zip(page.boxes(), turns, strict=True)])
    corners = order_corners(boxes.round().astype(np.float32))
    kept = np.sort(random.choice(9, 5, replace=False))
    np.testing.assert_array_equal(kept[reading_order(corners[kept])], kept)


def test_columns_of_numbers_are_a_table() -> None:
    """Dates and telephone numbers fill their columns, as running text does."""
    page = Layout("tables", "")
    for row in range(8):
        page.add(f"2026-11-{row + 10}", 50, 50 + 40 * row)
        page.add(f"1380013800{row}", 400, 50 + 40 * row)
    assert order(page, page.boxes().astype(np.float64)) == [item.text for item in page.items]


def test_there_are_at_least_forty() -> None:
    assert len({named(page) for page in PAGES}) == len(PAGES) >= 40
