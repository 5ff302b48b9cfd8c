"""Lone large characters, a house number or a letter on a shirt, which a text detector misses: it looks for lines of
text, and a character over a quarter of the picture is larger than its field of view. On a picture a few times smaller
it finds them.
"""

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .boxes import THRESHOLD, UNCLIP_RATIO

SHORT_SIDE: Final = 128
"""Of the smaller picture, in pixels: what is a 30th of the pixels of Immich's 736."""

FEW_BOXES: Final = 2
"""Up to which a picture may have found no text, or but parts of a large character."""

MIN_SHARE: Final = 1 / 8
"""Of the picture's shorter side; what is smaller is found as it is."""


def may_be_missing(box_count: int, probability: NDArray[np.float32]) -> bool:
    """Whether to look again: there is little text, but something that looks like it.

    Args:
        box_count: what was found.
        probability: float32 (H, W), 0…1, the map that it was found in.
    """
    small = min(probability.shape) >= 2 * SHORT_SIDE
    return small and box_count <= FEW_BOXES and bool(probability.max() > THRESHOLD)


def find_large_boxes(
    probability: NDArray[np.float32], min_score: float, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The large characters in the map of the smaller picture.

    Unlike `boxes.find_boxes`, a region gives an upright rectangle, for that of least area around a 7 or an A lies
    askew; and it scores by what lies inside its outline (PaddleOCR's score mode "slow"), not in the rectangle, of which
    such characters leave the most empty.

    Args:
        probability: float32 (H, W), 0…1.
        min_score: mean probability inside a region below which it is dropped.
        width: of the picture, in pixels; the boxes are scaled to it.
        height: likewise.

    Returns:
        Boxes float32 (N, 4, 2), corners from top-left clockwise; scores float32 (N,).
    """
    mask = (probability > THRESHOLD).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    scale = np.array([width / probability.shape[1], height / probability.shape[0]])
    boxes, scores = [], []
    for outline in outlines:
        x, y, w, h = cv2.boundingRect(outline)
        grown = w * h * UNCLIP_RATIO / (2 * (w + h))
        low, high = np.array([x, y]) - grown, np.array([x + w, y + h]) + grown
        low, high = np.clip([low * scale, high * scale], 0, [width - 1, height - 1]).round()
        score = _mean_inside(probability, outline)
        if score >= min_score and min(high - low) >= MIN_SHARE * min(width, height):
            boxes.append([low, (high[0], low[1]), high, (low[0], high[1])])
            scores.append(score)
    return np.array(boxes, np.float32).reshape(-1, 4, 2), np.array(scores, np.float32)


def parts_of(large: NDArray[np.float32], boxes: NDArray[np.float32], lines: Sequence[int]) -> list[int]:
    """Of some lines, those whose middle lies inside a large character's box (4, 2); `boxes` (N, 4, 2) has them all."""
    middles = boxes.mean(axis=1)
    inside = ((middles >= large[0]) & (middles <= large[2])).all(axis=1)
    return [line for line in lines if inside[line]]


def _mean_inside(probability: NDArray[np.float32], outline: NDArray[Any]) -> float:
    mask = np.zeros(probability.shape, np.uint8)
    cv2.drawContours(mask, [outline], -1, 1, cv2.FILLED)
    return float(cv2.mean(probability, mask)[0])
