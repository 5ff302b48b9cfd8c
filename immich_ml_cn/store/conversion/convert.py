"""A checkpoint of Chinese-CLIP → its two towers as ONNX graphs in Immich's layout."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn import memory
from immich_ml_cn.engines.session import OpenSession
from immich_ml_cn.messages import tr
from immich_ml_cn.store.fetch.checksums import record

from .architecture import Architecture
from .errors import CheckpointError
from .graph import GraphBuilder, Precision
from .model_weights import ModelWeights
from .onnx_file import PROTOBUF_LIMIT, Written, write_half, write_onnx
from .towers import KINDS, Kind, build_tower
from .weights import open_weights

STAGING: Final = ".converting"
"""The folder, in the model's, in which the graphs are written; they are renamed when all of them are right."""

_HALF: Final = "half.onnx"
CONTEXT_LENGTH: Final = 52
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_LENGTH_TOLERANCE: Final = 1e-3


class Observer(Protocol):
    """Is called as a conversion goes on."""

    def start(self, file: str, tensors: int, total: int) -> None:
        """A graph with so many tensors, `total` bytes in all, begins."""
        ...

    def advance(self, count: int) -> None:
        """So many more of its bytes are written."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be converted.

    Attributes:
        checkpoint: a file of any layout that `open_weights` and `ModelWeights` know.
        folder: of the model; graphs that it has already stay as they are.
        vocabulary: of the text tower, copied beside it.
        limit: bytes of weights up to which they lie in the graph's own file.
    """

    checkpoint: Path
    folder: Path
    architecture: Architecture
    precisions: tuple[Precision, ...]
    vocabulary: Path
    limit: int = PROTOBUF_LIMIT

    def missing(self) -> tuple[tuple[Kind, Precision], ...]:
        """The graphs that are not there yet."""
        return tuple(
            (kind, precision)
            for precision in self.precisions
            for kind in KINDS
            if not (self.folder / kind / graph_name(precision)).exists()
        )


def convert(request: Request, observer: Observer, open_session: OpenSession) -> tuple[Path, ...]:
    """Write the missing graphs, check them, and give them their names, ``model.onnx`` last. The folder must be locked.

    Args:
        open_session: opens a graph that was written, to check it.

    Returns:
        The new graphs and the files of their weights, relative to the model's folder.

    Raises:
        CheckpointError: the checkpoint is refused, or a graph of it answers nonsense; nothing was put in place.
        OSError, DiskFailed: the disk refuses.
    """
    staging = request.folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    weights = ModelWeights(open_weights(request.checkpoint), request.architecture)
    try:
        written: list[Written] = []
        for kind, precision in request.missing():
            target = staging / kind / graph_name(precision)
            target.parent.mkdir(parents=True, exist_ok=True)
            graph = build_tower(kind, request.architecture, weights, precision)
            observer.start(f"{kind}/{target.name}", len(graph.initializers), graph.size)
            files = write_onnx(graph, target, observer.advance, limit=request.limit)
            outputs = _run(graph, files, _made_up(kind, request.architecture), open_session)
            _check(outputs, request, f"{kind}/{target.name}")
            memory.release()
            written += files
        _describe(request, staging)
        return _put_in_place(request, staging, written)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def graph_name(precision: Precision) -> str:
    """``model.onnx``, ``model_fp16.onnx`` or ``model_int8.onnx``."""
    return "model.onnx" if precision == "fp32" else f"model_{precision}.onnx"


def _made_up(kind: Kind, architecture: Architecture) -> dict[str, NDArray[Any]]:
    """One picture of noise, or two texts of which one is padded."""
    if kind == "textual":
        return {"text": np.array([[1, 2, 0, 0], [1, 3, 4, 2]], np.int32)}
    pixels = architecture.vision.pixels
    return {"image": np.random.default_rng(0).standard_normal((1, 3, pixels, pixels), np.float32)}


def _run(
    graph: GraphBuilder, files: Sequence[Written], feeds: Mapping[str, NDArray[Any]], open_session: OpenSession
) -> Sequence[NDArray[Any]]:
    """What a graph answers. It is run in halves: weights that are mapped count as memory of this process once they are
    used, and those in fp16 are all widened before the first is.

    Args:
        files: that were written of it, the graph's own last.
    """
    path = files[-1].path
    session = open_session(path)
    if graph.middle is None:
        return session.run(feeds)
    del session  # it loads
    memory.release()
    half_path = path.with_name(_HALF)
    outputs: Sequence[NDArray[Any]] = ()
    for half in graph.halves():
        write_half(half, half_path, files)
        outputs = open_session(half_path).run(feeds)
        feeds = {value.name: output for value, output in zip(half.outputs, outputs, strict=True)}
    half_path.unlink()
    return outputs


def _check(outputs: Sequence[NDArray[Any]], request: Request, name: str) -> None:
    """Refuse a graph whose embeddings are not finite or not of length 1."""
    embedding, features = outputs
    lengths = np.linalg.norm(embedding.astype(np.float64), axis=1)
    if not (np.isfinite(features).all() and (abs(lengths - 1) < _LENGTH_TOLERANCE).all()):
        raise CheckpointError(
            tr("{path} is refused: {name} made of it gives no finite embeddings", path=request.checkpoint, name=name)
        )


def _describe(request: Request, staging: Path) -> None:
    """Everything of Immich's layout but the graphs, so that the folder can be served under any name."""
    architecture = request.architecture
    pixels = architecture.vision.pixels
    config = {
        "embed_dim": architecture.dimension,
        "vision_cfg": {"image_size": pixels},
        "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": architecture.text.words},
    }
    transform = {
        "size": [pixels, pixels],
        "mode": "RGB",
        "mean": _MEAN,
        "std": _STD,
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "resize_first": True,
    }
    for kind in KINDS:
        (staging / kind).mkdir(parents=True, exist_ok=True)
    (staging / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (staging / "visual" / "preprocess_cfg.json").write_text(json.dumps(transform, indent=2) + "\n")
    shutil.copyfile(request.vocabulary, staging / "textual" / "vocab.txt")


def _put_in_place(request: Request, staging: Path, written: Sequence[Written]) -> tuple[Path, ...]:
    """Rename what was written, ``model.onnx`` last: where it is, everything is. What is there already stays."""
    folder = request.folder
    files = {file.path.relative_to(staging): file for file in written}
    record(folder, {str(path): (file.size, file.sha256) for path, file in files.items()})
    others = (path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file())
    for path in [*(path for path in others if path not in files), *sorted(files, key=_rank)]:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            (staging / path).replace(target)
    return tuple(files)


def _rank(path: Path) -> int:
    return (path.suffix == ".onnx") + (path.name == graph_name("fp32"))
