"""Text boxes as the reading order sees them: upright, in the directions in which their page is read."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .crops import box_sizes, is_vertical
from .skew import page_angle, rotated

_ITEM: Final = re.compile("([1-9][0-9]?)[.、．)）](?![0-9])")


@dataclass(frozen=True, slots=True)
class Box:
    """The extent of one box on a page turned upright, in pixels, and its place in the input.

    Attributes:
        thickness: its shorter side, about 1.4 times the font size.
        vertical: its text stands upright, from top to bottom.
        square: a lone character, or two.
        numeric: most of its text is digits, as far as it is known.
        continues: its text begins with a small letter, likewise: it goes on from the line above.
        number: that its text begins with, likewise, as an item of a list does; 0 if none.
    """

    index: int
    left: float
    top: float
    right: float
    bottom: float
    thickness: float
    vertical: bool
    square: bool
    numeric: bool = False
    continues: bool = False
    number: int = 0

    @property
    def x(self) -> float:
        """Its middle."""
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        """Its middle."""
        return (self.top + self.bottom) / 2

    @property
    def width(self) -> float:
        return self.right - self.left


Line = list[Box]
"""Boxes beside one another, from left to right."""


def upright_boxes(boxes: NDArray[Any], *, upside_down: bool = False, texts: Sequence[str] | None = None) -> list[Box]:
    """Boxes (N, 4, 2), corners in turn from top-left, on the page as it is read.

    The page's skew is taken out first. A page all of whose lines stand upright, be it vertical writing or a page
    photographed on its side, is turned by a quarter, its right edge up: then its lines are horizontal ones, and come
    one below the other in the order in which they are read.
    """
    widths, heights = box_sizes(boxes)
    vertical, horizontal = is_vertical(widths, heights), is_vertical(heights, widths)
    points = rotated(boxes, -page_angle(boxes))
    if upside_down:
        points = -points
    if vertical.any() and not horizontal.any():
        points = np.stack([points[..., 1], -points[..., 0]], axis=-1)
        vertical, horizontal = horizontal, vertical
    extents = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).tolist()
    thicknesses = np.minimum(widths, heights).tolist()
    texts = texts or [""] * len(boxes)
    kinds = zip(vertical.tolist(), (~(vertical | horizontal)).tolist(), strict=True)
    rows = zip(extents, thicknesses, kinds, texts, strict=True)
    return [
        Box(
            *(index, left, top, right, bottom, thickness, stands, square, _is_numeric(text)),
            continues=text[:1].islower(),
            number=_item_number(text),
        )
        for index, ((left, top, right, bottom), thickness, (stands, square), text) in enumerate(rows)
    ]


def text_lines(boxes: Iterable[Box]) -> list[Line]:
    """Lines from top to bottom, each from left to right."""
    return [sorted(line, key=lambda box: box.left) for line in grouped(boxes, lambda box: box.y)]


def grouped(boxes: Iterable[Box], position: Callable[[Box], float]) -> list[list[Box]]:
    """Boxes by rising position, together while within half a character of the group's mean."""
    groups: list[list[Box]] = []
    for box in sorted(boxes, key=position):
        if groups:
            mean = sum(map(position, groups[-1])) / len(groups[-1])
            thickness = min(other.thickness for other in (box, *groups[-1]))
        if not groups or position(box) - mean >= thickness / 2:
            groups.append([])
        groups[-1].append(box)
    return groups


def _is_numeric(text: str) -> bool:
    return 0 < len(text) <= 2 * sum(character.isdigit() for character in text)


def _item_number(text: str) -> int:
    found = _ITEM.match(text)
    return int(found[1]) if found else 0


def median(values: Sequence[float]) -> float:
    """The middle one; of two, the greater."""
    return sorted(values)[len(values) // 2]
