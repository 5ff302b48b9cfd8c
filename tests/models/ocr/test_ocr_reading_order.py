import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rapidocr.ch_ppocr_det import TextDetector as Reference

from immich_ml_cn.models.ocr.reading_order import reading_order

Rect = tuple[float, float, float, float]


def boxes(*rects: Rect) -> NDArray[np.float32]:
    """Upright boxes from (left, top, width, height)."""
    corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in rects]
    return np.array(corners, np.float32).reshape(-1, 4, 2)


def order(*rects: Rect, upside_down: bool = False) -> list[int]:
    return [int(index) for index in reading_order(boxes(*rects), upside_down)]


def test_no_boxes_have_no_order() -> None:
    assert order() == []


def test_lines_go_from_top_to_bottom() -> None:
    # Immich 2.5.6 answers rows at y = 200, 100, 0 in that order.
    assert order((0, 200, 90, 20), (0, 100, 90, 20), (0, 0, 90, 20)) == [2, 1, 0]


def test_within_a_line_from_left_to_right() -> None:
    assert order((300, 52, 90, 20), (0, 50, 90, 20), (150, 48, 90, 20)) == [1, 2, 0]


def test_small_print_is_not_run_together() -> None:
    rows = [(90 - 30 * row, 9.0 * row, 25.0, 7.0) for row in range(3)]
    assert order(*rows) == [0, 1, 2]


def test_a_headline_is_not_torn_apart() -> None:
    assert order((500, 100, 300, 120), (0, 115, 400, 120)) == [1, 0]


def test_columns_go_from_right_to_left() -> None:
    assert order((0, 0, 30, 200), (50, 0, 30, 150), (100, 0, 30, 180)) == [2, 1, 0]


def test_within_a_column_from_top_to_bottom() -> None:
    column = (100.0, 120.0, 30.0, 100.0), (100.0, 0.0, 30.0, 100.0)
    assert order((50, 0, 30, 220), *column) == [2, 1, 0]


def test_a_lone_character_stays_in_its_column() -> None:
    assert order((50, 0, 30, 200), (100, 0, 30, 120), (100, 150, 30, 32)) == [1, 2, 0]


def test_a_block_of_columns_between_a_title_and_a_footer() -> None:
    title, footer = (0.0, 0.0, 300.0, 30.0), (0.0, 400.0, 300.0, 30.0)
    columns = (20.0, 60.0, 30.0, 300.0), (80.0, 60.0, 30.0, 300.0)
    assert order(footer, *columns, title) == [3, 2, 1, 0]


def test_upside_down_is_the_order_of_the_turned_page() -> None:
    rects = [(0.0, 0.0, 90.0, 20.0), (200.0, 0.0, 90.0, 20.0), (0.0, 50.0, 90.0, 20.0)]
    assert order(*rects) == [0, 1, 2]
    assert order(*rects, upside_down=True) == [2, 1, 0]


@given(
    st.lists(st.lists(st.integers(0, 6), unique=True, min_size=1), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_a_horizontal_page_is_in_rapidocrs_order(rows: list[list[int]], random: object) -> None:
    rects = [(100.0 * x, 40.0 * y + (3 * x + y) % 5, 80.0, 24.0) for y, row in enumerate(rows) for x in row]
    random.shuffle(rects)  # type: ignore[attr-defined]
    page = boxes(*rects)
    np.testing.assert_array_equal(page[reading_order(page)], Reference.sorted_boxes(page))


side = st.floats(-100, 5000, width=32)


@given(st.lists(st.lists(st.tuples(side, side), min_size=4, max_size=4)), st.booleans())
@settings(deadline=None)
def test_any_boxes_are_permuted(page: list[list[tuple[float, float]]], upside_down: bool) -> None:
    corners = np.array(page, np.float32).reshape(-1, 4, 2)
    assert sorted(reading_order(corners, upside_down).tolist()) == list(range(len(page)))


@pytest.mark.parametrize("angle", [-6, 6])
def test_slanted_lines_stay_apart(angle: float) -> None:
    rects = [(0.0, 60.0 * row, 500.0, 30.0) for row in range(6)]
    slope = np.tan(np.radians(angle))
    page = boxes(*rects)
    page[:, :, 1] += page[:, :, 0] * slope
    assert reading_order(page).tolist() == list(range(6))
