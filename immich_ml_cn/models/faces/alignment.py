"""Turn a face upright: five landmarks → the 112 x 112 crop ArcFace was trained on."""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

CROP_SIZE = 112
"""Width and height of an aligned face in pixels."""

# Where ArcFace's training crops have the eyes, the tip of the nose and the corners of the mouth (Deng et al. 2019,
# published with InsightFace).
_TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)
# OpenCV's warp addresses its source with 16-bit numbers.
_LONGEST_SIDE = 32766


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Least-squares similarity transform (rotation, uniform scale, shift) between two sets of points.

    The method is Umeyama's ("Least-squares estimation of transformation parameters between two point patterns", PAMI
    1991); numbers in braces are its equations. Sums are taken in the precision of the points: with float32 points the
    result is bit-identical to scikit-image's ``SimilarityTransform``, on which insightface builds.

    Args:
        source: (n, 2) points.
        target: (n, 2) points, where they should come to lie.

    Returns:
        (2, 3) matrix that takes (x, y, 1) of `source` near `target`, or None when the points determine none: they all
        coincide, or are not finite.
    """
    with np.errstate(all="ignore"):
        source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
        centred = source - source_mean
        covariance = (target - target_mean).T @ centred / len(source)  # {38}
        if not np.isfinite(covariance).all():
            return None
        left, stretch, right = np.linalg.svd(covariance)
        rank = np.count_nonzero(stretch > stretch.max() * 2 * np.finfo(np.float64).eps)
        if rank == 0:
            return None
        signs = np.array([1.0, -1.0 if np.linalg.det(covariance) < 0 else 1.0])  # {39}
        rotation = np.eye(2)
        if rank == 2:
            rotation[:] = left @ np.diag(signs) @ right  # {40}
        elif np.linalg.det(left) * np.linalg.det(right) > 0:
            rotation[:] = left @ right  # {43}, points on a line
        else:
            rotation[:] = left @ np.diag([1.0, -1.0]) @ right
        scale = 1.0 / centred.var(axis=0).sum() * (stretch @ signs)  # {42}
        shift = target_mean - scale * (rotation @ source_mean)  # {41}
        matrix = np.column_stack((rotation * scale, shift))
    return matrix if np.isfinite(matrix).all() else None


def align(pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Cut out one face, turned upright and scaled to ArcFace's template; what lies outside the picture is black.

    Pixel for pixel what insightface's ``norm_crop`` gives with the same OpenCV.

    Args:
        pixels: uint8 (height, width, 3).
        landmarks: float32 (5, 2): x, y in pixels of left eye, right eye, nose, left and right corner of the mouth, as
            seen in the picture.

    Returns:
        uint8 (112, 112, 3), channels in the order of `pixels`; all black when the landmarks are not finite or all
        coincide.
    """
    matrix = similarity(landmarks, _TEMPLATE)
    if matrix is None:
        return _black()
    if max(pixels.shape[:2]) > _LONGEST_SIDE:
        pixels, matrix = _surroundings(pixels, matrix)
        if not 0 < max(pixels.shape[:2]) <= _LONGEST_SIDE or not pixels.size:
            return _black()
    warped = cv2.warpAffine(pixels, matrix, (CROP_SIZE, CROP_SIZE), borderValue=(0.0, 0.0, 0.0))
    return cast(NDArray[np.uint8], warped)


def _black() -> NDArray[np.uint8]:
    return np.zeros((CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)


def _surroundings(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of a huge picture the crop is taken from, and the transform from there."""
    far = float(CROP_SIZE)
    corners = np.array([[0, 0], [far, 0], [0, far], [far, far]])
    inverse = cv2.invertAffineTransform(matrix)
    reached = corners @ inverse[:, :2].T + inverse[:, 2]
    height, width = pixels.shape[:2]
    left, top = np.clip(np.floor(reached.min(axis=0)) - 2, 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(reached.max(axis=0)) + 2, 0, (width, height)).astype(int)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (left, top)
    return pixels[top:bottom, left:right], moved
