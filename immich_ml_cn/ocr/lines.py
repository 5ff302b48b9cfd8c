"""All lines of one picture: cut out, and turned the right way up."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.images import Picture

from .crops import crop_line, turned
from .orientation import is_page_upside_down, upside_down_lines
from .pixels import opaque_bgr


def cut_lines(picture: Picture, boxes: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
    """The lines as uint8 (h, w, 3) BGR, straightened.

    Args:
        boxes: float32 (N, 4, 2), pixels, from the top left clockwise.
    """
    image = opaque_bgr(picture)
    return [crop_line(image, box) for box in boxes]


def turn_lines(
    lines: Sequence[NDArray[np.uint8]], probabilities: Sequence[float]
) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Turn the lines that are upside down by 180°.

    Args:
        lines: uint8 (h, w, 3) each.
        probabilities: per line, 0…1, that it is upside down.

    Returns:
        The upright lines, and the order in which to read them: from the end on a page that is upside down.
    """
    flipped = upside_down_lines(probabilities)
    upright = [turned(line) if flip else line for line, flip in zip(lines, flipped, strict=True)]
    order = list(range(len(lines)))
    return upright, order[::-1] if is_page_upside_down(flipped) else order
