"""The order in which a person reads the text boxes of a picture.

The skew of the page is taken out first, so that a row of a receipt at 3 degrees stays a row. Horizontal lines go from
top to bottom and from left to right within a line; where the page has columns of running text, column by column.
Vertical lines (Chinese, Japanese) that stand side by side form a block, read from right to left, and the block takes
its place among the horizontal lines: before a paragraph beside it that begins no higher, as a title is.

RapidOCR puts two boxes into one line when their tops differ by less than 10 px, whatever the size of the picture, so
that small print runs together and headlines fall apart. Here the text's own height is the measure.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .columns import sections
from .layout import Box, Line, grouped, median, text_lines, upright_boxes

# Of lines of one paragraph, from one to the next, in units of their thickness.
PARAGRAPH_PITCH = 2.0


def reading_order(
    boxes: NDArray[np.float32], upside_down: bool = False, texts: Sequence[str] | None = None
) -> NDArray[np.intp]:
    """The permutation that sorts boxes into reading order.

    Args:
        boxes: float32 (N, 4, 2), pixels, corners top-left, top-right, bottom-right, bottom-left.
        upside_down: the page is read from its other end: it was photographed the wrong way round,
            or on its side so that its lines have to be turned after cropping.
        texts: what the boxes say, where that is known: two columns of numbers are a table.

    Returns:
        intp (N,), so that ``boxes[order]`` is sorted.
    """
    if len(boxes) == 0:
        return np.zeros(0, np.intp)
    views = upright_boxes(boxes, upside_down=upside_down, texts=texts)
    blocks = _blocks(views)
    in_blocks = {box.index for block in blocks for box in block}
    lines = list(_lines([box for box in views if box.index not in in_blocks]))
    for block in sorted(blocks, key=_top, reverse=True):
        lines.insert(_place(block, lines), _right_to_left(block))
    return np.array([box.index for line in lines for box in line], np.intp)


def _lines(boxes: Sequence[Box]) -> Iterator[Line]:
    """Horizontal lines in the order they are read."""
    for section in sections(boxes):
        for column in section.columns:
            if len(section.columns) > 1:
                yield from _lines(column)
            else:
                yield from text_lines(column)


def _blocks(boxes: Sequence[Box]) -> list[list[Box]]:
    """Vertical boxes beside one another, with the square ones (a lone character) among them."""
    blocks: list[list[Box]] = []
    bottom = -np.inf
    for box in sorted((box for box in boxes if box.vertical), key=lambda box: box.top):
        if box.top >= bottom:
            blocks.append([])
        blocks[-1].append(box)
        bottom = max(bottom, box.bottom)
    blocks = [block for block in blocks if not _is_part_of_a_line(block, boxes)]
    squares = [box for box in boxes if box.square]
    return [block + [box for box in squares if _among(box, block)] for block in blocks]


def _is_part_of_a_line(block: Sequence[Box], boxes: Sequence[Box]) -> bool:
    """Whether these are narrow characters, a 1 or an I, no higher than the horizontal text around them."""
    highest = max(box.bottom - box.top for box in block)
    horizontal = [box.thickness for box in boxes if not box.vertical]
    return bool(horizontal) and highest < 1.5 * median(horizontal)


def _among(box: Box, block: Sequence[Box]) -> bool:
    return min(other.left for other in block) <= box.x <= max(other.right for other in block) and min(
        other.top for other in block
    ) <= box.y <= max(other.bottom for other in block)


def _right_to_left(block: Iterable[Box]) -> list[Box]:
    """Columns of vertical writing from right to left, each from top to bottom."""
    columns = grouped(block, lambda box: -box.x)
    return [box for column in columns for box in sorted(column, key=lambda box: box.top)]


def _place(block: Sequence[Box], lines: Sequence[Line]) -> int:
    """The index of the line that a block of vertical writing is read before."""
    top, thickness = _top(block), max(box.thickness for box in block)
    place = next((index for index, line in enumerate(lines) if top <= line[0].y), len(lines))
    first = last = place
    while 0 < first < len(lines) and _continues(lines[first - 1], lines[first]):
        first -= 1
    while 0 < last < len(lines) and _continues(lines[last - 1], lines[last]):
        last += 1
    if first == place:
        return place
    # It stands beside a paragraph: a title before it, anything else after it.
    return first if thickness > 1.3 * lines[first][0].thickness else last


def _continues(above: Line, below: Line) -> bool:
    """Whether a line belongs to the same paragraph as the one above it."""
    pitch = below[0].y - above[0].y
    overlap = min(above[-1].right, below[-1].right) - max(above[0].left, below[0].left)
    return 0 < pitch <= PARAGRAPH_PITCH * above[0].thickness and overlap > 0


def _top(block: Iterable[Box]) -> float:
    return min(box.top for box in block)
