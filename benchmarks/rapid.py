"""RapidOCR in a loop: the same weights, the same detection size, no server around it."""

import io
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image

MAX_RESOLUTION = 736


class RapidLoop:
    """RapidOCR 3 on some pictures, one engine for each detection size."""

    def __init__(self, images: Sequence[bytes]) -> None:
        sides = [_longer_side(image) for image in images]
        engines = {side: _engine(side) for side in sides}
        self._work = [(engines[side], image) for side, image in zip(sides, images, strict=True)]
        self.rate(1)  # loads the models

    def rate(self, repeats: int) -> float:
        """Pictures per second, decoding included."""
        started = time.perf_counter()
        for _ in range(repeats):
            for engine, image in self._work:
                engine(image)
        return repeats * len(self._work) / (time.perf_counter() - started)


def _engine(longer_side: int) -> Any:
    from rapidocr import RapidOCR

    options = {
        "Global.log_level": "error",
        "Global.max_side_len": 100_000,
        "Det.limit_type": "max",
        "Det.limit_side_len": longer_side,
    }
    return RapidOCR(params=options)


def _longer_side(image: bytes) -> int:
    """Of the picture at the size at which it is searched for text, in pixels."""
    width, height = Image.open(io.BytesIO(image)).size
    ratio = min(1.0, MAX_RESOLUTION / min(width, height))
    return int(max(width, height) * ratio)
