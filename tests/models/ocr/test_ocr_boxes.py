import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from rapidocr.ch_ppocr_det.utils import DBPostProcess

from immich_ml_cn.models.ocr.boxes import find_boxes, order_corners, unclip


def reference(
    probability: NDArray[np.float32], min_score: float, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    post = DBPostProcess(0.3, min_score, 1000, 1.6, "fast", use_dilation=True)
    boxes, scores = post(probability[None, None], (height, width))
    return np.array(boxes, np.float32).reshape(-1, 4, 2), np.array(scores, np.float32)


def from_any_corner(boxes: NDArray[np.float32]) -> list[list[list[float]]]:
    """Which corner a steep box begins with is another question: RapidOCR takes its two leftmost for its left side."""
    return [sorted(box) for box in boxes.tolist()]


def shortest_side(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.linalg.norm(boxes - np.roll(boxes, 1, axis=1), axis=2).min(axis=1), np.float32)


def blobs(seed: int, count: int, largest: float = 60) -> NDArray[np.float32]:
    """A map of slanted regions of varied probability, some of which touch."""
    random = np.random.default_rng(seed)
    probability = np.zeros((160, 224), np.float32)
    for _ in range(count):
        centre, size = random.uniform(0, 200, 2), random.uniform(1, largest, 2)
        corners = cv2.boxPoints((centre.tolist(), size.tolist(), random.uniform(-90, 90)))
        cv2.fillPoly(probability, [corners.astype(np.int32)], random.uniform(0.2, 1))
    return probability


@pytest.mark.parametrize("seed", range(30))
def test_boxes_and_scores_are_rapidocrs(seed: int) -> None:
    probability = blobs(seed, 1 + seed)
    boxes, scores = find_boxes(probability, 0.5, 448, 311)
    expected_boxes, expected_scores = reference(probability, 0.5, 448, 311)
    np.testing.assert_array_equal(from_any_corner(boxes), from_any_corner(expected_boxes))
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_the_smallest_boxes_are_rapidocrs(seed: int) -> None:
    probability = blobs(seed, 60, largest=8)
    boxes, _ = find_boxes(probability, 0.3, 90, 64)
    # Of a tilted box a few pixels large, rounding makes opposite sides unlike: whether its sides are long enough hangs
    # on the corner that they are measured from.
    ours, theirs = (page[shortest_side(page) >= 6] for page in (boxes, reference(probability, 0.3, 90, 64)[0]))
    np.testing.assert_array_equal(from_any_corner(ours), from_any_corner(theirs))
    assert len(boxes)


@given(
    npst.arrays(np.float32, (32, 64), elements=st.sampled_from([0, 0.1, 0.31, 0.9, 1])),
    st.floats(0, 1),
)
@settings(max_examples=50, deadline=None)
def test_any_map_gives_boxes_inside_the_picture(probability: NDArray[np.float32], min_score: float) -> None:
    boxes, scores = find_boxes(probability, min_score, 100, 50)
    assert boxes.shape == (len(scores), 4, 2)
    assert boxes.dtype == scores.dtype == np.float32
    assert ((boxes >= 0) & (boxes <= [99, 49])).all()
    assert (scores >= np.float32(min_score)).all()
    np.testing.assert_array_equal(boxes, np.round(boxes))


@pytest.mark.parametrize("value", [0, 1])
def test_a_flat_map_has_no_box_or_one(value: int) -> None:
    boxes, scores = find_boxes(np.full((32, 32), value, np.float32), 0.5, 32, 32)
    assert len(boxes) == len(scores) == value


def test_boxes_below_the_score_are_dropped() -> None:
    probability = np.zeros((64, 64), np.float32)
    probability[5:15, 5:50], probability[35:45, 5:50] = 0.4, 0.8
    assert len(find_boxes(probability, 0.3, 64, 64)[0]) == 2
    assert len(find_boxes(probability, 0.6, 64, 64)[0]) == 1


def test_unclip_grows_by_area_over_perimeter() -> None:
    # 100 x 20: area 2000, perimeter 240, so 1.6 * 2000 / 240 = 13.3 px on every side.
    grown = unclip(np.array([[50, 50], [150, 50], [150, 70], [50, 70]], np.float32))
    np.testing.assert_array_equal(grown.min(axis=0), [37, 37])
    np.testing.assert_array_equal(grown.max(axis=0), [163, 83])


@pytest.mark.parametrize(
    "box",
    [
        np.zeros((4, 2)),
        np.array([[0, 0], [9, 0], [9, 0], [0, 0]]),
        np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]),
    ],
)
def test_unclip_of_nothing_is_nothing(box: NDArray[np.float64]) -> None:
    assert unclip(box.astype(np.float32)).shape == (0, 2)


@given(st.permutations([(10.0, 20.0), (90.0, 25.0), (88.0, 60.0), (8.0, 55.0)]))
@settings(deadline=None)
def test_corners_are_ordered_however_they_come(corners: list[tuple[float, float]]) -> None:
    ordered = order_corners(np.array([corners]))
    assert ordered.tolist() == [[[10, 20], [90, 25], [88, 60], [8, 55]]]
