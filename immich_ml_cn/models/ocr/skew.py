"""The angle at which a page was photographed, from the directions of its text boxes."""

from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

QUARTER: Final = np.pi / 2
# How much longer than thick boxes are together, in units of their thickness, below which their neighbours are asked.
_LITTLE: Final = 0.4
# Boxes that then have to be there, and the length of the mean of their neighbours' directions, four times the angle.
_ENOUGH: Final = 8
_AGREED: Final = 0.8
_Angle = TypeVar("_Angle", float, NDArray[np.float64])


def page_skew(boxes: NDArray[Any]) -> float:
    """The weighted median direction of the long boxes, in radians, -π/4…π/4.

    A quarter turn more or less is the same skew: lines and columns of one page agree. A box counts by how much longer
    than thick it is, so that lone characters, whose rectangle may lie at any angle, do not count. On a page of little
    else, a calendar, it is the direction from each to its nearest neighbour, if those agree (O'Gorman, "The document
    spectrum for page layout analysis", PAMI 1993). Positive is clockwise in a picture, whose y axis points down.

    Args:
        boxes: (N, 4, 2), pixels, corners in turn from any of them.

    Returns:
        0.0 when nothing tells.
    """
    edges = boxes[:, 1:3].astype(np.float64) - boxes[:, 0:2]
    lengths = np.hypot(edges[..., 0], edges[..., 1])
    longest = np.argmax(lengths, axis=1)
    rows = np.arange(len(boxes))
    weights = lengths[rows, longest] - lengths[rows, 1 - longest]
    if len(boxes) >= _ENOUGH and weights.sum() < _LITTLE * lengths.min(axis=1).sum():
        towards = _to_nearest(boxes.mean(axis=1))
        angles = np.arctan2(towards[:, 1], towards[:, 0])
        if np.abs(np.exp(4j * angles).mean()) >= _AGREED:
            return _median_angle(angles, np.ones(len(boxes)))
    if not weights.sum() > 0:
        return 0.0
    along = edges[rows, longest]
    return _median_angle(np.arctan2(along[:, 1], along[:, 0]), weights)


def page_angle(boxes: NDArray[Any]) -> float:
    """By how much a page is turned, in radians, as `page_skew` says but for whole quarters.

    About 45 degrees it takes but one box more to see the same page a quarter further. What counts is what was seen
    when the corners were put in order.

    Args:
        boxes: (N, 4, 2), pixels, corners top-left, top-right, bottom-right, bottom-left in the directions of the page.
    """
    skew = page_skew(boxes)
    x, y = (boxes[:, 1] - boxes[:, 0]).sum(axis=0)
    return skew + QUARTER * round((float(np.arctan2(y, x)) - skew) / QUARTER)


def rotated(points: NDArray[Any], angle: float) -> NDArray[np.float64]:
    """Points (…, 2) turned by so many radians about the origin, clockwise in a picture."""
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.asarray(points.astype(np.float64) @ np.array([[cosine, sine], [-sine, cosine]]), np.float64)


def _to_nearest(points: NDArray[Any]) -> NDArray[np.float64]:
    """From each of the points, (N, 2), to the one nearest to it."""
    towards = points[None] - points[:, None]
    distances = np.hypot(towards[..., 0], towards[..., 1])
    np.fill_diagonal(distances, np.inf)
    return np.asarray(towards[np.arange(len(points)), distances.argmin(axis=1)], np.float64)


def _median_angle(angles: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    # Angles a quarter apart are one: four times the angle is on a circle, whose mean is where the median is looked for.
    mean = float(np.angle(np.sum(weights * np.exp(4j * angles)))) / 4
    return _wrapped(mean + _weighted_median(_wrapped(angles - mean), weights))


def _wrapped(angle: _Angle) -> _Angle:
    """To -π/4…π/4, by quarter turns."""
    return (angle + QUARTER / 2) % QUARTER - QUARTER / 2


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
