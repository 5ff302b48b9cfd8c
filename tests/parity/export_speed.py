"""How fast our graphs are beside PyTorch's own export of the same weights, in turns, on both engines.

    PYTHONPATH=tests .venv-parity/bin/python tests/parity/export_speed.py FOLDER [MODEL …]

`scripts/parity-env` makes the environment. FOLDER keeps the graphs, 2 GB for ViT-B-16, so that a second run only
measures. Prints a table: the time of the export by ours, so that more than 1 is faster.
"""

import logging
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import cn_clip_models
import numpy as np
import small_clip
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from immich_ml_cn.engines import CpuEngine, Engine, OpenVinoEngine
from immich_ml_cn.engines.session import Session
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.clip_names import DIRECT_NAMES
from immich_ml_cn.store.checkpoints import VOCABULARY
from immich_ml_cn.store.conversion.architecture import ARCHITECTURES
from immich_ml_cn.store.conversion.convert import Request, graph_name
from immich_ml_cn.store.conversion.graph import Precision
from immich_ml_cn.store.conversion.process import convert_in_child
from immich_ml_cn.store.conversion.towers import KINDS, Kind
from immich_ml_cn.store.fetch import NullProgress

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "int8")
"""What runs on CPUs."""
TOKENS: Final = (8, 52)
WARM_UP: Final = 3
SECONDS: Final = 6.0
MIN_TURNS: Final = 15

Feeds = dict[str, NDArray[Any]]


def main(folder: Path, models: Sequence[str]) -> None:
    """Make the graphs that are missing, and measure all of them."""
    for model in models:
        make(folder / model, model)
    settings = Settings(cache_folder=folder)
    engines: tuple[Engine, ...] = (CpuEngine(settings), OpenVinoEngine(settings, keep_compiled=False))
    print("| model | engine | precision | input | export ms | ours ms | export / ours |\n|---|---|---|---|--:|--:|--:|")
    for model in models:
        for engine in engines:
            for precision in PRECISIONS:
                for said, theirs, ours in measured(folder / model, engine, precision):
                    row = f"{model} | {engine.provider} | {precision} | {said} | {1e3 * theirs:.1f} | {1e3 * ours:.1f}"
                    print(f"| {row} | {theirs / ours:.3f} |", flush=True)


def make(folder: Path, model: str) -> None:
    """Write both forms of one model with random weights: ``export`` and ``ours``, in Immich's layout."""
    if (folder / "ours" / "textual" / "model_int8.onnx").exists():
        return
    architecture = cn_clip_models.TorchArchitecture.official(model)
    checkpoint = folder / "random.pt"
    cn_clip_models.save_checkpoint(small_clip.trained(architecture), checkpoint)
    export(cn_clip_models.load_model(architecture, cn_clip_models.read_checkpoint(checkpoint)), folder / "export")
    ours = folder / "ours"
    ours.mkdir(exist_ok=True)
    request = Request(checkpoint, ours, ARCHITECTURES[DIRECT_NAMES[model]], PRECISIONS, VOCABULARY)
    convert_in_child(request, model, NullProgress(), threading.Event())
    checkpoint.unlink()


def export(clip: Any, folder: Path) -> None:
    """What PyTorch makes of a model, and ONNX Runtime's quantiser of that."""
    side = clip.visual.input_resolution
    examples: dict[Kind, tuple[str, torch.Tensor, dict[int, str]]] = {
        "visual": ("image", torch.zeros(2, 3, side, side), {0: "batch"}),
        "textual": ("text", torch.ones(2, 7, dtype=torch.int32), {0: "batch", 1: "sequence"}),
    }
    outputs = ["embedding", "features"]
    for kind, (name, example, dynamic) in examples.items():
        path = folder / kind / graph_name("fp32")
        path.parent.mkdir(parents=True, exist_ok=True)
        axes = {name: dynamic, **{output: {0: "batch"} for output in outputs}}
        small_clip.export(Tower(clip, kind), (example,), path, [name], outputs, axes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_dynamic(
                path,
                path.with_name(graph_name("int8")),
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )


class Tower(torch.nn.Module):  # type: ignore[misc]
    """One tower with the inputs and outputs of ours."""

    def __init__(self, clip: Any, kind: Kind) -> None:
        super().__init__()
        self.clip = clip
        self.kind = kind

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.clip.encode_image(inputs) if self.kind == "visual" else self.clip.encode_text(inputs.long())
        return features / features.norm(dim=-1, keepdim=True), features


def measured(folder: Path, engine: Engine, precision: Precision) -> Iterator[tuple[str, float, float]]:
    """(input, median seconds of the export, of ours)."""
    for kind in KINDS:
        theirs, ours = (
            engine.open(folder / form / kind / graph_name(precision), "interactive", 0) for form in ("export", "ours")
        )
        for said, feeds in inputs(kind, theirs):
            assert cosine(theirs.run(feeds)[0], ours.run(feeds)[0]) > 0.99
            yield said, *in_turns(partial(theirs.run, feeds), partial(ours.run, feeds))


def inputs(kind: Kind, session: Session) -> Iterator[tuple[str, Feeds]]:
    """One picture, and texts of several lengths."""
    random = np.random.default_rng(0)
    if kind == "visual":
        side = session.inputs[0].shape[-1]
        assert side is not None
        yield "image", {"image": random.standard_normal((1, 3, side, side), np.float32)}
        return
    for length in TOKENS:
        yield f"text, {length} tokens", {"text": random.integers(100, 20_000, (1, length)).astype(np.int32)}


def in_turns(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """The median seconds of each, measured alternately for `SECONDS`."""
    for _ in range(WARM_UP):
        one(), other()
    took: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(took[0]) < MIN_TURNS:
        for run, times in zip((one, other), took, strict=True):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
    return statistics.median(took[0]), statistics.median(took[1])


def cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Of two embeddings of length 1."""
    return float((one[0] * other[0]).sum())


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # the quantiser has much to say
    main(Path(sys.argv[1]).absolute(), sys.argv[2:] or ["ViT-B-16"])
