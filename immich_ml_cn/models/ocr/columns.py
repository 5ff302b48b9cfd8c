"""Columns of text on a page: a recursive X-Y cut (Nagy and Seth, "Hierarchical representation of optically scanned
documents", ICPR 1984) with guards.

A page is cut at a gutter, an empty strip from top to bottom between two columns, and each column is read to its end.
But tables, receipts and forms have empty strips too, and are read row by row. So a gutter counts only between two
columns of running text: long lines, one close below the other, side by side. Where such lines stand at the same heights
on both sides, as in a table, they have to fill their column as well, or be broken amid sentences, or be a list whose
items are numbered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .layout import Box, Line, median, text_lines

# In units of the text's thickness, which is about 1.4 times its font size.
MIN_GUTTER = 0.25
MIN_LINE_LENGTH = 3.5
MIN_FULL_LINE_LENGTH = 4.0
MIN_SENTENCE_LENGTH = 6.0
MAX_PITCH = 1.75
MAX_JUMP = 3.5
# Of lines.
MIN_LINES = 2
MIN_TOGETHER = 6
MIN_FILLED = 0.7
MIN_CONTINUED = 0.5
MAX_NUMERIC = 0.3
MIN_LISTED = 0.5


@dataclass(frozen=True)
class Section:
    """Bands of a page that are read before those below them, in columns from left to right."""

    columns: tuple[tuple[Box, ...], ...]


def sections(boxes: Sequence[Box]) -> list[Section]:
    """Cut horizontal text into what is read one after the other.

    Returns:
        From top to bottom; a section of one column is to be read line by line, each of several columns is to be cut
        again.
    """
    found: list[Section] = []
    bands = _bands(boxes)
    plain: list[Box] = []
    start = 0
    while start < len(bands):
        end, columns = _columns_from(bands, start)
        if columns:
            if plain:
                found.append(Section((tuple(plain),)))
                plain = []
            found.append(Section(columns))
        else:
            if len(bands[start]) == 1:  # a heading, perhaps of columns that begin below it
                end = start + 1
            plain += [box for band in bands[start:end] for box in band]
        start = end
    if plain:
        found.append(Section((tuple(plain),)))
    return found


def _bands(boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes whose heights overlap, directly or through others, from top to bottom.

    A box counts with the middle half of its thickness: those of close lines overlap a little.
    """
    bands: list[list[Box]] = []
    bottom = -float("inf")
    for box in sorted(boxes, key=lambda box: box.y):
        if box.y - box.thickness / 4 >= bottom:
            bands.append([])
        bands[-1].append(box)
        bottom = max(bottom, box.y + box.thickness / 4)
    return bands


def _columns_from(bands: Sequence[Sequence[Box]], start: int) -> tuple[int, tuple[tuple[Box, ...], ...]]:
    """The columns that begin with a band, if any, and the index of the band below what has the same gutter."""
    covered = _merged(bands[start])
    end = start + 1
    while end < len(bands) and _follows(bands, start, end):
        wider = _merged(bands[end], covered)
        if len(wider) == 1:
            break
        covered = wider
        end += 1
    boxes = [box for band in bands[start:end] for box in band]
    columns = _split(boxes, covered)
    return end, columns if len(columns) > 1 else ()


def _follows(bands: Sequence[Sequence[Box]], start: int, end: int) -> bool:
    """Whether a band is so close below that it may belong to the same columns."""
    above = [box for band in bands[start:end] for box in band]
    gap = min(box.y for box in bands[end]) - max(box.y for box in above)
    return gap <= MAX_JUMP * median([box.thickness for box in (*above, *bands[end])])


def _merged(boxes: Sequence[Box], covered: Sequence[tuple[float, float]] = ()) -> list[tuple[float, float]]:
    """What boxes cover of the x axis, with what is covered already; gaps too narrow for a gutter are closed."""
    closed = MIN_GUTTER * median([box.thickness for box in boxes])
    merged: list[tuple[float, float]] = []
    for left, right in sorted([*covered, *((box.left, box.right) for box in boxes)]):
        if merged and left - merged[-1][1] < closed:
            merged[-1] = merged[-1][0], max(merged[-1][1], right)
        else:
            merged.append((left, right))
    return merged


def _split(boxes: Sequence[Box], covered: Sequence[tuple[float, float]]) -> tuple[tuple[Box, ...], ...]:
    """Boxes by the strips they stand in, those joined again that are no columns beside each other."""
    strips = [[box for box in boxes if left <= box.x <= right] for left, right in covered]
    columns = [strips[0]]
    for previous, strip in pairwise(strips):
        if _are_columns(text_lines(previous), text_lines(strip)):
            columns.append(strip)
        else:
            columns[-1] = columns[-1] + strip
    return tuple(tuple(column) for column in columns)


def _are_columns(left: Sequence[Line], right: Sequence[Line]) -> bool:
    """Whether two strips hold running text that is read one strip after the other."""
    fewer, more = sorted((left, right), key=len)
    if len(fewer) < MIN_LINES or len(left) + len(right) < MIN_TOGETHER or _is_numeric(left) or _is_numeric(right):
        return False
    if min(_typical_length(left), _typical_length(right)) < MIN_LINE_LENGTH:
        return False
    if max(_pitch(left), _pitch(right)) > MAX_PITCH or _share_beside(fewer, more, 0.75) < 0.5:
        return False
    if _share_beside(fewer, more, 0.2) < 0.6:
        return True
    return all(_is_filled(lines) or _is_continued(lines) or _is_list(lines) for lines in (left, right))


def _typical_length(lines: Sequence[Line]) -> float:
    """Of the lines, in units of their thickness."""
    return median([_width(line) / line[0].thickness for line in lines])


def _pitch(lines: Sequence[Line]) -> float:
    """From one line to the next, in units of their thickness."""
    return median([(below[0].y - above[0].y) / above[0].thickness for above, below in pairwise(lines)])


def _share_beside(lines: Sequence[Line], others: Sequence[Line], distance: float) -> float:
    """Of the lines, those that have one of the others beside them, within a distance in units of their thickness."""
    heights = [other[0].y for other in others]
    beside = [line for line in lines if min(abs(line[0].y - y) for y in heights) <= distance * line[0].thickness]
    return len(beside) / len(lines)


def _is_numeric(lines: Sequence[Line]) -> bool:
    """Whether these are numbers: prices, dates, marks; a column of a table."""
    return sum(all(box.numeric for box in line) for line in lines) > MAX_NUMERIC * len(lines)


def _is_filled(lines: Sequence[Line]) -> bool:
    """Whether long lines reach from one edge of their column to the other, as running text does."""
    full = [line for line in _reaching(lines, 0.85) if len(line) == 1]
    return len(full) >= MIN_FILLED * len(lines) and _typical_length(lines) >= MIN_FULL_LINE_LENGTH


def _is_continued(lines: Sequence[Line]) -> bool:
    """Whether these are long lines that go on from one another, as words do that end where the next has no place."""
    continued = [line for line in lines if line[0].continues]
    return (
        len(continued) >= MIN_CONTINUED * len(lines)
        and len(_reaching(lines, 0.6)) >= MIN_FILLED * len(lines)
        and _typical_length(lines) >= MIN_SENTENCE_LENGTH
    )


def _is_list(lines: Sequence[Line]) -> bool:
    """Whether most of these are items of a list, numbered from one line to the next."""
    numbers = [line[0].number for line in lines]
    return sum(above + 1 == below for above, below in pairwise(numbers) if above) >= MIN_LISTED * len(lines)


def _reaching(lines: Sequence[Line], share: float) -> list[Line]:
    """The lines that are at least so long, as a share of their column's width."""
    left, right = min(line[0].left for line in lines), max(line[-1].right for line in lines)
    return [line for line in lines if _width(line) >= share * (right - left)]


def _width(line: Line) -> float:
    return line[-1].right - line[0].left
