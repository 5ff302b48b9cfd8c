"""Text boxes → upright pictures of one line each."""

import cv2
import numpy as np
from numpy.typing import NDArray

# A box this many times as high as wide holds a vertical line.
VERTICAL_RATIO = 1.5


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
    width = max(1, int(max(_length(box[0], box[1]), _length(box[2], box[3]))))
    height = max(1, int(max(_length(box[0], box[3]), _length(box[1], box[2]))))
    line = _straightened(image, box, width, height)
    return np.ascontiguousarray(np.rot90(line)) if is_vertical(width, height) else line


def is_vertical(width: float, height: float) -> bool:
    """Whether a box of this size is read as a vertical line."""
    return height >= VERTICAL_RATIO * width


def turned(line: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same line (h, w, 3) turned by 180°."""
    return np.ascontiguousarray(line[::-1, ::-1])


def _length(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(a - b))


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
