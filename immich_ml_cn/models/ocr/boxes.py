"""Probability map → text boxes: the post-processing of DB (Liao et al., "Real-time Scene Text
Detection with Differentiable Binarization", AAAI 2020), with PP-OCR's constants.

The map is binarised, each connected region becomes its minimum-area rectangle, and the rectangle
is grown again ("unclipped") because DB is trained on shrunken regions.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from .skew import page_skew, rotated

THRESHOLD = 0.3
UNCLIP_RATIO = 1.6
MAX_CANDIDATES = 1000
MIN_SIDE = 3
_DILATION = np.ones((2, 2), np.uint8)


def find_boxes(
    probability: NDArray[np.float32], min_score: float, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The text boxes in one probability map.

    Args:
        probability: float32 (H, W), 0…1, DB's shrunken text regions.
        min_score: mean probability inside a box below which it is dropped.
        width: of the picture the map stands for, in pixels; the boxes are scaled to it.
        height: likewise.

    Returns:
        Boxes float32 (N, 4, 2), whole pixels inside the picture, corners top-left, top-right,
        bottom-right, bottom-left; scores float32 (N,). In the order the regions were found.
    """
    shrunken = _region_rectangles(probability)
    scores = np.array([_mean_inside(probability, box) for box in shrunken], np.float32)
    confident = scores >= min_score
    grown, kept = _unclip_all(shrunken[confident])
    # In this order and precision, so that halves are rounded as RapidOCR rounds them.
    relative = grown / np.array(probability.shape[::-1], np.float32)
    boxes = order_corners(np.round(relative * np.array([width, height], np.float32)))
    boxes = np.clip(boxes, 0, [width - 1, height - 1]).astype(np.float32)
    large = _large_enough(boxes)
    return boxes[large], scores[confident][kept][large]


def order_corners(boxes: NDArray[Any]) -> NDArray[Any]:
    """Corners of (N, 4, 2) boxes as top-left, top-right, bottom-right, bottom-left, in the directions of their page.

    The top-left corner is the one that comes first along the page's diagonal (least x + y), which holds for a thin box
    at any angle; the two leftmost corners of a vertical line that is a little tilted are both at one of its ends. Page
    directions are the picture's, turned by `page_skew`: without that, the lines of a page at 45° would fall apart into
    horizontal and vertical ones.
    """
    upright = rotated(boxes, -page_skew(boxes))
    towards = upright - upright.mean(axis=1, keepdims=True)
    clockwise = _stable_order(np.arctan2(towards[:, :, 1], towards[:, :, 0]))
    first = np.take_along_axis(upright, clockwise, axis=1).sum(axis=2).argmin(axis=1)
    from_first = (np.arange(4) + first[:, None]) % 4
    return np.take_along_axis(np.take_along_axis(boxes, clockwise, axis=1), from_first[:, :, None], axis=1)


def unclip(box: NDArray[np.float32], ratio: float = UNCLIP_RATIO) -> NDArray[np.int32]:
    """Grow a convex polygon by area * ratio / perimeter on every side (Vatti clipping).

    Args:
        box: (N, 2) corners in pixels; the grid is whole pixels, fractions are cut off.

    Returns:
        int32 (M, 2), rounded at the corners; (0, 2) for a polygon without area.
    """
    edges = np.roll(box, -1, axis=0).astype(np.float64) - box
    perimeter = float(np.hypot(edges[:, 0], edges[:, 1]).sum())
    area = abs(float(cv2.contourArea(box.astype(np.float32))))
    if area == 0 or perimeter == 0:
        return np.zeros((0, 2), np.int32)
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(box.astype(np.int64), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    polygons = offset.Execute(area * ratio / perimeter)  # none when cutting off fractions left no area
    return np.array(polygons[0] if polygons else [], np.int32).reshape(-1, 2)


def _stable_order(values: NDArray[Any]) -> NDArray[np.intp]:
    return np.argsort(values, axis=1, kind="stable")[:, :, None]


def _region_rectangles(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """The minimum-area rectangles (N, 4, 2) of the regions above the threshold."""
    mask = cv2.dilate((probability > THRESHOLD).view(np.uint8), _DILATION)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return _rectangles(contours[:MAX_CANDIDATES], MIN_SIDE)[0]


def _rectangles(outlines: Sequence[NDArray[Any]], min_side: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Minimum-area rectangles of those outlines whose shorter side is at least `min_side`; and
    which ones they are."""
    found = [cv2.minAreaRect(outline) if len(outline) else None for outline in outlines]
    kept = np.array([rect is not None and min(rect[1]) >= min_side for rect in found], np.bool_)
    corners = [cv2.boxPoints(rect) for rect in found if rect and min(rect[1]) >= min_side]
    return np.array(corners, np.float32).reshape(-1, 4, 2), kept


def _unclip_all(boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return _rectangles([unclip(box) for box in boxes], MIN_SIDE + 2)


def _mean_inside(probability: NDArray[np.float32], box: NDArray[np.float32]) -> float:
    """Mean probability inside a box (PaddleOCR's score mode "fast")."""
    limit = np.array([probability.shape[1] - 1, probability.shape[0] - 1])
    low = np.clip(np.floor(box.min(axis=0)), 0, limit).astype(np.int32)
    high = np.clip(np.ceil(box.max(axis=0)), 0, limit).astype(np.int32)
    region = probability[low[1] : high[1] + 1, low[0] : high[0] + 1]
    mask = np.zeros(region.shape, np.uint8)
    cv2.fillPoly(mask, [(box - low).astype(np.int32)], 1)
    return float(cv2.mean(region, mask)[0])


def _large_enough(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    widths = np.linalg.norm(boxes[:, 0] - boxes[:, 1], axis=1)
    heights = np.linalg.norm(boxes[:, 0] - boxes[:, 3], axis=1)
    large: NDArray[np.bool_] = np.minimum(widths, heights) >= MIN_SIDE + 1
    return large
