"""Ready-made conversions of Chinese-CLIP with both towers in one graph: split into Immich's layout when they arrive."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from immich_ml_cn import memory
from immich_ml_cn.engines.graphs import edit_process
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr

from .fetch.checksums import record
from .fetch.failure import writing

logger = logging.getLogger(__name__)

JOINT: Final = "onnx/model.onnx"
"""Where the joint graph lies in a model's folder, as on Hugging Face."""

_TOWERS: Final[Mapping[str, str]] = {"visual": "image_embeds", "textual": "text_embeds"}
_STAGED: Final = ".split.onnx"


def split_joint(folder: Path, load: Callable[[Path], object]) -> tuple[Path, ...]:
    """Make ``visual/model.onnx`` and ``textual/model.onnx`` of the joint graph in a model's folder.

    They get their names once both could be loaded; then the joint graph is deleted. A tower that is there already stays
    as it is. Call it with the folder locked.

    Args:
        folder: the model's folder.
        load: loads a graph, or raises.

    Returns:
        The new files.

    Raises:
        Unavailable: the graph is no joint CLIP, a tower cannot be loaded, or the disk refuses; the joint graph is kept.
    """
    joint = folder / JOINT
    targets = {component: folder / component / "model.onnx" for component in _TOWERS}
    wanted = {component: target for component, target in targets.items() if not target.exists()}
    logger.info("splitting %s into its two towers", joint)
    with writing(joint):
        _require_towers(joint)
        try:
            for component, target in wanted.items():
                _write_tower(joint, _TOWERS[component], target.with_name(_STAGED))
                load(target.with_name(_STAGED))
        except BaseException:
            for target in targets.values():
                target.with_name(_STAGED).unlink(missing_ok=True)
            raise
        _put_in_place(folder, wanted)
        joint.unlink()
    memory.release()
    return tuple(wanted.values())


def _require_towers(joint: Path) -> None:
    outputs = edit_process.outputs_of(joint)
    if not set(_TOWERS.values()) <= set(outputs):
        raise Unavailable(
            tr(
                "{path} is no CLIP with both towers in one graph: expected the outputs image_embeds and text_embeds, "
                "it has {outputs}",
                path=joint,
                outputs=", ".join(outputs) or "none",
            )
        )


def _write_tower(joint: Path, output: str, target: Path) -> None:
    try:
        graph = edit_process.part_for(joint, output)
    except ValueError as error:
        raise Unavailable(str(error)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(graph)


def _put_in_place(folder: Path, targets: Mapping[str, Path]) -> None:
    towers = {}
    for target in targets.values():
        staged = target.with_name(_STAGED)
        with staged.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        towers[str(target.relative_to(folder))] = (staged.stat().st_size, digest)
    record(folder, towers)
    for target in targets.values():
        target.with_name(_STAGED).replace(target)
