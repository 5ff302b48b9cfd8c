"""All lines of one picture, turned the right way up."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .crops import turned
from .orientation import is_page_upside_down, upside_down_lines
from .reading_order import reading_order


def turn_lines(
    lines: Sequence[NDArray[np.uint8]], probabilities: Sequence[float], boxes: NDArray[np.float32]
) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Turn the lines that are upside down by 180°.

    Args:
        lines: uint8 (h, w, 3) each, in reading order.
        probabilities: per line, 0…1, that it is upside down.
        boxes: float32 (N, 4, 2), where the lines are.

    Returns:
        The upright lines, and the order in which to read them: another one on a page that is upside down.
    """
    flipped = upside_down_lines(probabilities)
    upright = [turned(line) if flip else line for line, flip in zip(lines, flipped, strict=True)]
    if is_page_upside_down(flipped):
        return upright, [int(index) for index in reading_order(boxes, upside_down=True)]
    return upright, list(range(len(lines)))
