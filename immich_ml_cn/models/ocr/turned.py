"""Pages on their side or steep, which are looked at once more, turned upright.

A detector joins what stands close beside one another in the picture. On a page on its side those are the numbers of a
column: a table's marks come out as one line across their rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.models.results import ReadText, TextBoxes

from .skew import QUARTER, page_skew

STEEP: Final = np.radians(8)
"""Up to which the detector finds the lines of a tilted page as those of a straight one."""

SURE: Final = 0.9
"""Score of a line from which its direction counts."""

MIN_LENGTH: Final = 1.5
"""Of a box that has a direction, in units of its thickness."""


@dataclass(frozen=True, eq=False)
class Turn:
    """Of a picture, so that its text is upright.

    Attributes:
        matrix: (2, 3), from points of the picture to points of the turned one.
        width: of the turned one, in pixels of the picture.
        height: likewise.
    """

    matrix: NDArray[np.float64]
    width: int
    height: int

    def back(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (N, 4, 2) of the turned picture in the picture."""
        inverse = cv2.invertAffineTransform(self.matrix)
        return (boxes @ inverse[:, :2].T + inverse[:, 2]).astype(np.float32)


def turn_upright(width: int, height: int, angle: float) -> Turn:
    """Of a picture whose text is read in a direction, in radians, clockwise from left to right."""
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ rotation.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    return Turn(np.column_stack([rotation, -low]), *np.ceil(high - low).astype(int).tolist())


def steep_angle(found: TextBoxes, read: ReadText) -> float | None:
    """The direction in which a page's text is read, if it is to be looked at turned upright.

    Args:
        found: all that was.
        read: what of it was, beginning at the top left of its text.

    Returns:
        Radians, clockwise from left to right. None for pages that are not steep, and those where nothing lies across
        the lines but what was surely read as vertical writing.
    """
    sure = [line for line, score in enumerate(read.scores) if score >= SURE and len(read.texts[line]) > 1]
    lines = read.lines.boxes[sure]
    angle = _direction(lines, [_weight(read.texts[line]) for line in sure])
    if abs(angle) <= STEEP:
        return None
    others = ~(_places(found.boxes)[:, None] == _places(lines)).all(axis=2).any(axis=1)
    return angle if _lie_across(found.boxes[others], angle).any() else None


def _weight(text: str) -> float:
    """Of a line's word on its direction: digits are read where there are none, and on their side."""
    return sum(1.0 if character.isalpha() else 0.25 for character in text)


def _direction(lines: NDArray[np.float32], weights: Sequence[float]) -> float:
    """In which most of the lines are read, -π…π: their skew and whole quarters; 0.0 if none tells."""
    skew = page_skew(lines)
    along, down = lines[:, 1] - lines[:, 0], lines[:, 3] - lines[:, 0]
    quarters = np.round((np.arctan2(along[:, 1], along[:, 0]) - skew) / QUARTER).astype(int) % 4
    votes = np.bincount(quarters, np.array(weights) * (np.hypot(*along.T) > np.hypot(*down.T)), minlength=4)
    return float((skew + QUARTER * votes.argmax() + np.pi) % (2 * np.pi) - np.pi) if votes.any() else 0.0


def _places(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Twice the middles of boxes, the same whichever corner they begin at."""
    return np.asarray(boxes.min(axis=1) + boxes.max(axis=1), np.float32)


def _lie_across(boxes: NDArray[np.float32], angle: float) -> NDArray[np.bool_]:
    """Which boxes are long, and more across a direction than along it."""
    edges = boxes[:, 1:3] - boxes[:, 0:2]
    along = np.abs(edges @ np.array([np.cos(angle), np.sin(angle)])).max(axis=1)
    lengths = np.linalg.norm(edges, axis=2)
    longest = lengths.max(axis=1)
    return np.asarray((longest >= MIN_LENGTH * lengths.min(axis=1)) & (along < longest * np.sqrt(0.5)), np.bool_)
