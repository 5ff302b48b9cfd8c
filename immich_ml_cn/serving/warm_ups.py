"""First runs of models that are loaded before anybody asks: the first run of a session, and of a shape, takes longest.

ArcFace and text towers of a fixed length are run when they are loaded, to see what they can do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from .spec import Loaded

if TYPE_CHECKING:
    from immich_ml_cn.models.clip import TextualEncoder, VisualEncoder
    from immich_ml_cn.models.faces import FaceDetector
    from immich_ml_cn.models.images import Picture
    from immich_ml_cn.models.ocr import TextDetector, TextOrientation, TextRecognizer

PREVIEW_SIZE: Final = (2160, 1440)
"""Width and height in pixels of Immich's previews of 3:2: the memory for them is taken from the system as well."""

LINE_SIZE: Final = (48, 320)
LINES: Final = 2
"""Enough for a CPU to run them in parallel."""


async def encode_picture(loaded: "Loaded[VisualEncoder]") -> None:
    """Embed a black picture."""
    await loaded.batcher.submit(await asyncio.to_thread(loaded.model.prepare, _black_preview()))


async def encode_text(loaded: "Loaded[TextualEncoder]") -> None:
    """Embed a word."""
    await loaded.batcher.submit(await asyncio.to_thread(loaded.model.tokenize, "a"))


async def detect_faces(loaded: "Loaded[FaceDetector]") -> None:
    """Look for faces in a black picture."""
    await loaded.batcher.submit(await asyncio.to_thread(loaded.model.prepare, _black_preview()))


def detect_text(side: int) -> "Callable[[Loaded[TextDetector]], Awaitable[None]]":
    """Looks for text in a black picture whose shorter side is scaled to `side` pixels."""

    async def warm_up(loaded: "Loaded[TextDetector]") -> None:
        await loaded.batcher.submit(await asyncio.to_thread(loaded.model.prepare, _black_preview(), side))

    return warm_up


async def read_lines(loaded: "Loaded[TextRecognizer]") -> None:
    """Read black lines."""
    paths = await loaded.batcher.submit_all([loaded.model.prepare(_black_line()) for _ in range(LINES)])
    await asyncio.to_thread(loaded.model.decode, paths[0])


async def turn_lines(loaded: "Loaded[TextOrientation]") -> None:
    """Tell whether black lines are upside down."""
    await loaded.batcher.submit_all([loaded.model.prepare(_black_line()) for _ in range(LINES)])


def _black_preview() -> "Picture":
    from PIL import Image

    from immich_ml_cn.models.images import Picture

    return Picture.of(Image.new("RGB", PREVIEW_SIZE))


def _black_line() -> NDArray[np.uint8]:
    return np.zeros((*LINE_SIZE, 3), np.uint8)
