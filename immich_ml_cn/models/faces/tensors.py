"""Pixels → network input."""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray


def levels(mean: float, divisor: float) -> NDArray[np.float32]:
    """The network's value of each 8-bit level, ``(level - mean) / divisor``: float32 (256,)."""
    # OpenCV multiplies by the reciprocal; so does insightface, and the last bit of ArcFace's input depends on it.
    return (np.arange(256, dtype=np.float32) - np.float32(mean)) * np.float32(1 / divisor)


def planes(pixels: NDArray[np.uint8], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Look every pixel up in a table of 256 values: uint8 (height, width, 3) → float32 (3, height, width)."""
    return np.stack([cast(NDArray[np.float32], cv2.LUT(plane, table)) for plane in cv2.split(pixels)])
