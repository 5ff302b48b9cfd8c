"""Which crops are upside down: PP-OCR's text-line angle classifier as a loaded model.

Only cropped lines reach it, so 0° and 180° are all there is: crops of vertical lines are already
turned by a quarter, and for a page on its side that leaves half of the cases upside down. It is weak on short lines,
and sure of its errors: what it says is weighed in `page`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.session import OpenSession, ParallelSession, Session

from .pixels import to_tensor

# What PP-OCRv2's classifier was trained on; the one that RapidOCR bundles leaves it open.
DEFAULT_SIZE = (48, 192)


@dataclass(frozen=True, eq=False)
class OrientationInput:
    """A crop prepared for the classifier.

    Attributes:
        tensor: float32 (3, H, W), -1…1, 0 (grey) right of the line.
    """

    tensor: NDArray[np.float32]


@dataclass(frozen=True)
class TextOrientation:
    """A loaded classifier. Its graph maps [N, 3, H, W] to [N, 2]: upright, upside down.

    Attributes:
        size: height and width of its input in pixels.
    """

    session: Session
    size: tuple[int, int] = DEFAULT_SIZE

    def prepare(self, line: NDArray[np.uint8]) -> OrientationInput:
        """Resize a crop, uint8 (h, w, 3) RGB, to the classifier's height; long lines are squeezed."""
        height, width = self.size
        used = min(width, math.ceil(height * line.shape[1] / line.shape[0]))
        tensor = np.zeros((3, height, width), np.float32)
        tensor[:, :, :used] = to_tensor(np.asarray(cv2.resize(line, (used, height)), np.uint8))
        return OrientationInput(tensor)

    def bucket(self, item: OrientationInput) -> tuple[int, ...]:
        """One for all."""
        return item.tensor.shape

    def infer(self, items: Sequence[OrientationInput]) -> list[float]:
        """Per crop the probability, 0…1, that it is upside down."""
        name = self.session.inputs[0].name
        if isinstance(self.session, ParallelSession):
            runs = self.session.run_parallel([{name: item.tensor[None]} for item in items])
            probabilities = np.concatenate([run[0] for run in runs])
        else:
            probabilities = self.session.run({name: np.stack([item.tensor for item in items])})[0]
        return [float(probability) for probability in probabilities[:, 1]]


def load_classifier(path: Path, open_session: OpenSession) -> TextOrientation:
    """Load a PP-OCR text-line angle classifier (``.onnx``)."""
    session = open_session(path)
    height, width = session.inputs[0].shape[2:]
    if height is None or width is None:
        return TextOrientation(session)
    return TextOrientation(session, (height, width))
