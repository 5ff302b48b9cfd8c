"""Where text is: a DB detector (PP-OCR's, any version) as a loaded model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.session import OpenSession, Session
from immich_ml_cn.models.images import Picture
from immich_ml_cn.models.results import ReadText, TextBoxes

from . import large
from .boxes import find_boxes, order_corners
from .pixels import opaque_rgb, to_tensor
from .reading_order import reading_order
from .turned import Turn, steep_angle, turn_upright

# The network halves its input five times.
STRIDE = 32
# Bounds of what the detector is fed, so that memory is bounded (about 160 MB per million pixels
# with PP-OCRv6_small on CPU). 2048² is what RapidOCR's default of 2000 px on the long side allows;
# the long side may be longer than that when the short one is shorter: with Immich's 736 px a
# screenshot 5.5 times as high as wide is still read at full detection size.
MAX_LONG_SIDE = 4096
MAX_PIXELS = 2048 * 2048


@dataclass(frozen=True, eq=False)
class DetectionInput:
    """A picture prepared for the detector.

    Attributes:
        image: uint8 (height, width, 3), RGB, opaque: the whole picture, which lines are cropped
            from.
        tensor: float32 (3, H, W), BGR, -1…1; H and W are multiples of 32.
        left: pixels of canvas added to the left of `image` before it was resized, 0 if none.
        top: likewise above it. The canvas is symmetric.
    """

    image: NDArray[np.uint8]
    tensor: NDArray[np.float32]
    left: int = 0
    top: int = 0

    @property
    def width(self) -> int:
        """Width of the picture in pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Height of the picture in pixels."""
        return int(self.image.shape[0])


@dataclass(frozen=True)
class TextDetector:
    """A loaded detector. Its graph maps [N, 3, H, W] to [N, 1, H, W]."""

    session: Session

    def prepare(self, picture: Picture, max_resolution: int) -> DetectionInput:
        """Resize and normalise a picture; for the CPU pool.

        Args:
            max_resolution: see `detection_size`.
        """
        image = opaque_rgb(picture)
        height, width = image.shape[:2]
        left, top = canvas_margins(width, height)
        canvas = image
        if left or top:
            border = top, top, left, left
            canvas = _uint8(cv2.copyMakeBorder(image, *border, cv2.BORDER_REPLICATE))
        size = detection_size(width + 2 * left, height + 2 * top, max_resolution)
        tensor = to_tensor(_uint8(cv2.resize(canvas, size[::-1])))
        return DetectionInput(image, tensor, left, top)

    def bucket(self, item: DetectionInput) -> tuple[int, int]:
        """Height and width of the tensor."""
        return item.tensor.shape[1], item.tensor.shape[2]

    def infer(self, items: Sequence[DetectionInput]) -> list[NDArray[np.float32]]:
        """One probability map, float32 (H, W), 0…1, per item of the same bucket."""
        batch = np.stack([item.tensor for item in items])
        maps = self.session.run({self.session.inputs[0].name: batch})[0]
        return list(maps[:, 0])

    def boxes(self, item: DetectionInput, probability: NDArray[np.float32], min_score: float) -> TextBoxes:
        """The text boxes in one of `infer`'s maps; for the CPU pool.

        Args:
            item: what the map was inferred from.
            probability: float32 (H, W), 0…1.
            min_score: boxes with a mean probability below it are dropped.
        """
        canvas = item.width + 2 * item.left, item.height + 2 * item.top
        boxes, scores = find_boxes(probability, min_score, *canvas)
        return _in_order(*_inside(boxes - np.array([item.left, item.top], np.float32), scores, item))

    def second_look(self, item: DetectionInput, found: TextBoxes, read: ReadText) -> Turn | None:
        """The turn in which a picture is to be searched once more, by what was found and read; mostly none."""
        angle = steep_angle(found, read)
        return None if angle is None else turn_upright(item.width, item.height, angle)

    def prepare_turned(self, item: DetectionInput, turn: Turn) -> DetectionInput:
        """The same picture turned, in about the same resolution; for the CPU pool."""
        resized = cv2.resize(item.image, item.tensor.shape[:0:-1])
        scale = np.array(item.tensor.shape[:0:-1]) / [item.width, item.height]
        ratio = math.sqrt(min(scale.prod(), MAX_PIXELS / (turn.width * turn.height)))
        width, height = _rounded(turn.width * ratio), _rounded(turn.height * ratio)
        matrix = turn.matrix * [[width / turn.width], [height / turn.height]] / [*scale, 1]
        turned = cv2.warpAffine(resized, matrix, (width, height), borderValue=resized.mean(axis=(0, 1)).tolist())
        return DetectionInput(item.image, to_tensor(_uint8(turned)))

    def turned_boxes(
        self, item: DetectionInput, probability: NDArray[np.float32], min_score: float, turn: Turn
    ) -> TextBoxes:
        """The text boxes, in the picture as it is, in one of `infer`'s maps of it turned; for the CPU pool."""
        boxes, scores = find_boxes(probability, min_score, turn.width, turn.height)
        limit = np.array([item.width - 1, item.height - 1], np.float32)
        return _in_order(order_corners(np.clip(turn.back(boxes).round(), 0, limit)), scores)

    def may_miss_large(self, count: int, probability: NDArray[np.float32]) -> bool:
        """Whether large characters may have been missed, by the number of boxes that were found in one of `infer`'s
        maps."""
        return large.may_be_missing(count, probability)

    def prepare_smaller(self, item: DetectionInput) -> DetectionInput:
        """The same picture with its shorter side 128 px, to be searched for large characters; for the CPU pool."""
        height, width = detection_size(item.width, item.height, large.SHORT_SIDE)
        resized = cv2.resize(item.image, (width, height), interpolation=cv2.INTER_AREA)
        return DetectionInput(item.image, to_tensor(_uint8(resized)))

    def large_boxes(self, item: DetectionInput, probability: NDArray[np.float32], min_score: float) -> TextBoxes:
        """The large characters in one of `infer`'s maps of a smaller picture; for the CPU pool."""
        return TextBoxes(*large.find_large_boxes(probability, min_score, item.width, item.height))


def load_detector(path: Path, open_session: OpenSession) -> TextDetector:
    """Load a PP-OCR detector (``.onnx``)."""
    return TextDetector(open_session(path))


def detection_size(width: int, height: int, max_resolution: int) -> tuple[int, int]:
    """The size, (height, width), at which a picture is searched for text.

    The shorter side is scaled down to `max_resolution`, never up, as Immich's own service does, so
    that a long screenshot keeps its detail; beyond that, which is ours, the longer side to at most
    4096 px and the area to at most 2048² px. Both sides are then rounded to multiples of 32, at
    least 32.

    The same size from RapidOCR: ``Det.limit_type=max`` with ``Det.limit_side_len`` = the longer
    side after scaling.
    """
    ratio = min(
        1.0,
        max(max_resolution, STRIDE) / min(width, height),
        MAX_LONG_SIDE / max(width, height),
        math.sqrt(MAX_PIXELS / (width * height)),
    )
    return _rounded(height * ratio), _rounded(width * ratio)


def canvas_margins(width: int, height: int) -> tuple[int, int]:
    """How many pixels, (left, top), a picture gets on both ends of a side under 32 px, of its
    border's colour; smaller than that the detector takes nothing."""
    return max(0, math.ceil((STRIDE - width) / 2)), max(0, math.ceil((STRIDE - height) / 2))


def _uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(image, np.uint8)


def _rounded(side: float) -> int:
    return max(STRIDE, round(int(side) / STRIDE) * STRIDE)


def _in_order(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> TextBoxes:
    order = reading_order(boxes)
    return TextBoxes(boxes[order], scores[order])


def _inside(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], item: DetectionInput
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut what was found on a canvas to the picture; what lies in the margin only is dropped."""
    if not (item.left or item.top):
        return boxes, scores
    limit = np.array([item.width - 1, item.height - 1], np.float32)
    boxes = np.clip(boxes, 0, limit)
    kept = np.all(np.ptp(boxes, axis=1) >= 1, axis=1)
    return boxes[kept], scores[kept]
