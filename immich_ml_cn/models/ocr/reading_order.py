"""The order in which a person reads the text boxes of a picture.

Horizontal lines go from top to bottom and from left to right within a line. Vertical lines
(Chinese, Japanese) that stand side by side form a block, read column by column from right to left,
and the block takes its place among the horizontal lines.

RapidOCR's order is the reference for horizontal pages, with one difference: it puts two boxes
into one line when their tops differ by less than 10 px, whatever the size of the picture, so that
small print runs together and headlines fall apart. Here the text's own height is the measure.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .crops import is_vertical


@dataclass(frozen=True, slots=True)
class _Box:
    """An upright view of one box: its extent in pixels, and its place in the input."""

    index: int
    left: float
    top: float
    right: float
    bottom: float
    thickness: float
    vertical: bool
    square: bool

    @property
    def x(self) -> float:
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        return (self.top + self.bottom) / 2


def reading_order(boxes: NDArray[np.float32], upside_down: bool = False) -> NDArray[np.intp]:
    """The permutation that sorts boxes into reading order.

    Args:
        boxes: float32 (N, 4, 2), pixels, corners top-left, top-right, bottom-right, bottom-left.
        upside_down: the page is read from its other end: it was photographed the wrong way round,
            or on its side so that its lines have to be turned after cropping.

    Returns:
        intp (N,), so that ``boxes[order]`` is sorted.
    """
    views = _views(boxes, upside_down)
    blocks = _blocks(views)
    in_blocks = {box.index for block in blocks for box in block}
    lines = _lines(box for box in views if box.index not in in_blocks)
    parts = [(min(box.y for box in line), line) for line in lines]
    parts += [(min(box.top for box in block), _columns(block)) for block in blocks]
    parts.sort(key=lambda part: part[0])
    return np.array([box.index for _, part in parts for box in part], np.intp)


def _views(boxes: NDArray[np.float32], upside_down: bool) -> list[_Box]:
    widths = np.linalg.norm(boxes[:, 0] - boxes[:, 1], axis=1).tolist()
    heights = np.linalg.norm(boxes[:, 0] - boxes[:, 3], axis=1).tolist()
    points = -boxes if upside_down else boxes
    extents = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).tolist()
    sizes = zip(extents, widths, heights, strict=True)
    return [_view(index, *size) for index, size in enumerate(sizes)]


def _view(index: int, extent: Sequence[float], width: float, height: float) -> _Box:
    left, top, right, bottom = extent
    vertical = is_vertical(width, height)
    square = not vertical and not is_vertical(height, width)
    return _Box(index, left, top, right, bottom, min(width, height), vertical, square)


def _blocks(boxes: Sequence[_Box]) -> list[list[_Box]]:
    """Vertical boxes beside one another, with the square ones (a lone character) among them."""
    blocks: list[list[_Box]] = []
    bottom = -np.inf
    for box in sorted((box for box in boxes if box.vertical), key=lambda box: box.top):
        if box.top >= bottom:
            blocks.append([])
        blocks[-1].append(box)
        bottom = max(bottom, box.bottom)
    blocks = [block for block in blocks if len(block) > 1]
    squares = [box for box in boxes if box.square]
    return [block + [box for box in squares if _among(box, block)] for block in blocks]


def _among(box: _Box, block: Sequence[_Box]) -> bool:
    return min(other.left for other in block) <= box.x <= max(other.right for other in block) and min(
        other.top for other in block
    ) <= box.y <= max(other.bottom for other in block)


def _columns(block: Iterable[_Box]) -> list[_Box]:
    """Columns from right to left, each from top to bottom."""
    columns = _grouped(block, lambda box: -box.x)
    return [box for column in columns for box in sorted(column, key=lambda box: box.top)]


def _lines(boxes: Iterable[_Box]) -> list[list[_Box]]:
    """Lines from top to bottom, each from left to right."""
    lines = _grouped(boxes, lambda box: box.y)
    return [sorted(line, key=lambda box: box.left) for line in lines]


def _grouped(boxes: Iterable[_Box], position: Callable[[_Box], float]) -> list[list[_Box]]:
    """Boxes by rising position, together while within half a character of the group's mean."""
    groups: list[list[_Box]] = []
    for box in sorted(boxes, key=position):
        if groups:
            mean = sum(map(position, groups[-1])) / len(groups[-1])
            thickness = min(other.thickness for other in (box, *groups[-1]))
        if not groups or position(box) - mean >= thickness / 2:
            groups.append([])
        groups[-1].append(box)
    return groups
