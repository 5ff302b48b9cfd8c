"""Which of a tower's graphs is opened: ``model.onnx`` in fp32, or a variant beside it."""

import logging
from pathlib import Path
from typing import Final

FULL: Final = "model.onnx"

logger = logging.getLogger(__name__)


def choose_graph(folder: Path, precision: str, *, on_gpu: bool) -> Path:
    """The graph of the wanted precision, else the one in fp32; the log says which.

    Args:
        folder: of one tower, ``<cache>/clip/<name>/visual``; variants in it are ``model_fp16.onnx`` and
            ``model_int8.onnx``.
        precision: ``fp32``, ``fp16``, ``int8`` or ``auto``: fp16 on a GPU where there is such a variant, else fp32.
    """
    wanted = ("fp16" if on_gpu else "fp32") if precision == "auto" else precision
    name = f"{folder.parent.name}/{folder.name}"
    if wanted != "fp32":
        variant = folder / f"model_{wanted}.onnx"
        if variant.is_file():
            logger.info("%s in %s: %s", name, wanted, variant.name)
            return variant
        if precision != "auto":
            logger.warning(
                "%s has no %s, so it runs in fp32; of a Chinese-CLIP `immich-ml-cn models fetch %s --%s` makes one",
                name,
                variant.name,
                folder.parent.name,
                wanted,
            )
    return folder / FULL
