"""Checks a CLIP tower that somebody else converted, once, when it arrives: does it answer like an encoder?"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines import Engine
from immich_ml_cn.engines.session import Session, TensorInfo
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.sources.clip_names import CHINESE_CLIP_DIMENSIONS, CHINESE_CLIP_PIXELS

_CONTEXT_LENGTH: Final = 52
_TOLERANCE: Final = 1e-3


def check_tower(engine: Engine, model: str, tower: str, graph: Path) -> None:
    """Load one tower of a Chinese-CLIP and run it on a dummy item.

    Args:
        tower: ``visual`` or ``textual``.

    Raises:
        Unavailable: it cannot be loaded or run, or does not answer with one finite embedding of the model's dimension
            that can be normalised.
    """
    try:
        session = engine.open(graph, "bulk", 0)
        outputs = session.run(_dummy_item(session, tower, CHINESE_CLIP_PIXELS[model]))
    except Unavailable:
        raise
    except Exception as error:  # the engines have several of their own
        raise Unavailable(tr("the {tower} tower cannot be run: {reason}", tower=tower, reason=error)) from error
    dimension = CHINESE_CLIP_DIMENSIONS[model]
    if not any(_is_embedding(output, dimension) for output in outputs):
        raise Unavailable(
            tr("the {tower} tower gives no finite embedding of {dimension} numbers", tower=tower, dimension=dimension)
        )


def _dummy_item(session: Session, tower: str, pixels: int) -> dict[str, NDArray[Any]]:
    """A ramp of grey as the picture, or a text of ten tokens."""
    if tower == "visual":
        ramp = np.linspace(-1, 1, 3 * pixels * pixels, dtype=np.float32).reshape(1, 3, pixels, pixels)
        return {info.name: ramp.astype(info.dtype) for info in session.inputs}
    return {info.name: _text(info) for info in session.inputs}


def _text(info: TensorInfo) -> NDArray[Any]:
    """Ids, or the mask over them: (1, length)."""
    length = info.shape[1] or _CONTEXT_LENGTH
    values = np.zeros((1, length), info.dtype)
    values[0, :10] = 1 if "mask" in info.name else range(1, 11)  # of any vocabulary
    return values


def _is_embedding(output: NDArray[Any], dimension: int) -> bool:
    """True for one finite vector of floats whose length is 1 once it is normalised."""
    if output.shape != (1, dimension) or output.dtype.kind != "f":
        return False
    vector = output.astype(np.float64)[0]
    length = float(np.linalg.norm(vector))
    if not np.isfinite(vector).all() or length <= 0:
        return False
    return abs(float(np.linalg.norm(vector / length)) - 1) < _TOLERANCE
