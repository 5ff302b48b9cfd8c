"""Text boxes → upright pictures of one line each."""

import cv2
import numpy as np
from numpy.typing import NDArray

# A box this many times as high as wide holds a vertical line.
VERTICAL_RATIO = 1.5
# OpenCV's warp addresses its source with 16-bit numbers.
_LONGEST_SIDE = 32766
# Pixels around a box that its cubic interpolation looks at.
_REACH = 2


def crop_line(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Cut one box out of a picture and straighten it by a perspective transform.

    Args:
        image: uint8 (H, W, 3).
        box: float32 (4, 2), pixels, corners top-left, top-right, bottom-right, bottom-left.

    Returns:
        uint8 (h, w, 3), channels as in `image`; h and w are the box's longer sides. A crop at
        least 1.5 times as high as wide is turned a quarter counter-clockwise, as PP-OCR does:
        the recogniser reads horizontal lines only.
    """
    if max(image.shape) > _LONGEST_SIDE:
        image, box = _cut_out(image, box)
    widths, heights = box_sizes(box[None])
    line = _straightened(image, box, int(widths[0]), int(heights[0]))
    return np.ascontiguousarray(np.rot90(line)) if is_vertical(widths, heights)[0] else line


def with_margin(line: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A crop with an eighth of its height around it, of the colours at its edges."""
    margin = max(1, line.shape[0] // 8)
    return np.pad(line, ((margin, margin), (margin, margin), (0, 0)), mode="edge")


def box_sizes(boxes: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Widths and heights, int64 (N,), at least 1, of boxes (N, 4, 2): the longer of opposite sides in whole pixels."""
    sides = np.linalg.norm(boxes - np.roll(boxes, -1, axis=1), axis=2)  # top, right, bottom, left
    whole = np.maximum(1, np.maximum(sides[:, :2], sides[:, 2:]).astype(np.int64))
    return whole[:, 0], whole[:, 1]


def is_vertical(widths: NDArray[np.int64], heights: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether boxes of these sizes, (N,) each, are read as vertical lines."""
    return np.asarray(heights >= VERTICAL_RATIO * widths, np.bool_)


def _cut_out(image: NDArray[np.uint8], box: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What of a picture lies around a box, and the box in it; of one too long for a warp, every second pixel or so."""
    left, top = np.maximum(np.floor(box.min(axis=0)) - _REACH, 0).astype(int)
    right, bottom = np.ceil(box.max(axis=0)).astype(int) + _REACH + 1
    part = image[top:bottom, left:right]
    step = -(-max(part.shape) // _LONGEST_SIDE)
    return part[::step, ::step], ((box - [left, top]) / step).astype(np.float32)


def _straightened(image: NDArray[np.uint8], box: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    if np.array_equal(box - box[0], target):
        # Not slanted: the transform would copy pixel by pixel.
        x, y = int(box[0, 0]), int(box[0, 1])
        return image[y : y + height, x : x + width]
    transform = cv2.getPerspectiveTransform(box, target)
    line = cv2.warpPerspective(
        image, transform, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(line, np.uint8)
