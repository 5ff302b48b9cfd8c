"""PyTorch modules → ONNX files: fp32, fp16 and int8, with weights of over 2 GB beside the graph."""

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from torch_clip import ImageTower, TextTower, cn_clip

OPSET: Final = 17
PROTOBUF_LIMIT: Final = 2_000_000_000
"""Bytes of the largest graph that is kept in one file; protobuf cannot read 2 GiB."""


def export_image_tower(clip: Any, target: Path, *, limit: int = PROTOBUF_LIMIT) -> None:
    """Write ``image`` float32 [batch, 3, R, R] → ``embedding`` (of length 1), ``features``: float32 [batch, D].

    Args:
        clip: a ``cn_clip.clip.model.CLIP`` in evaluation mode.
        target: the file to write; its folder exists.
        limit: bytes above which the weights go to ``<name>.data`` beside it.
    """
    size = clip.visual.input_resolution
    axes = {name: {0: "batch"} for name in ("image", "embedding", "features")}
    _export(ImageTower(clip), torch.zeros(2, 3, size, size), "image", axes, target, limit)


def export_text_tower(clip: Any, target: Path, *, limit: int = PROTOBUF_LIMIT) -> None:
    """Write ``text`` int32 [batch, sequence] → ``embedding`` (of length 1), ``features``: float32 [batch, D].

    For the arguments see `export_image_tower`.
    """
    axes = {"text": {0: "batch", 1: "sequence"}, "embedding": {0: "batch"}, "features": {0: "batch"}}
    _export(TextTower(clip), torch.ones(2, 7, dtype=torch.int32), "text", axes, target, limit)


def to_half(clip: Any) -> None:
    """Round a model to fp16 in place, as cn-clip does for GPUs: layer norms of the ViT stay in fp32."""
    if hasattr(clip.visual, "attnpool"):
        clip.half()  # batch norms too: ONNX Runtime's take one type for input and weights
    else:
        cn_clip().model.convert_weights(clip)
        clip.visual.class_embedding.data = clip.visual.class_embedding.data.half()
        clip.visual.positional_embedding.data = clip.visual.positional_embedding.data.half()


def quantise(source: Path, target: Path, *, limit: int = PROTOBUF_LIMIT) -> None:
    """Write a copy with int8 weights: signed, per channel, of every MatMul and Gemm; activations as they come.

    Dynamic quantisation (Jacob et al. 2017) by ONNX Runtime; convolutions keep their fp32 weights.

    Args:
        source: an fp32 graph.
        target: the file to write.
        limit: bytes of the graph above which the weights go beside it.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantise-") as folder:
        raw = Path(folder, "raw.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_dynamic(
                source,
                raw,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=bytes_of(source) > limit,
            )
        _store(raw, target, limit)


def bytes_of(graph: Path) -> int:
    """Size of a graph and its weights."""
    data = data_file(graph)
    return graph.stat().st_size + (data.stat().st_size if data.exists() else 0)


def data_file(graph: Path) -> Path:
    """Where the weights of a graph lie that are not in the graph itself."""
    return graph.with_name(f"{graph.name}.data")


def _export(
    tower: torch.nn.Module, example: torch.Tensor, name: str, axes: dict[str, dict[int, str]], target: Path, limit: int
) -> None:
    # The exporter restores the wrapper's mode afterwards: without `eval` it would switch dropout back on.
    tower.eval()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        raw = Path(folder, "raw.onnx")
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # about Python conditions that hold for every input
            torch.onnx.export(
                tower,
                (example,),
                str(raw),
                dynamo=False,
                opset_version=OPSET,
                input_names=[name],
                output_names=["embedding", "features"],
                dynamic_axes=axes,
            )
        _store(raw, target, limit)


def _store(raw: Path, target: Path, limit: int) -> None:
    """Move a graph to its place in one file, or in two where it is too large for one."""
    files = [file for file in raw.parent.iterdir() if file.is_file()]
    if len(files) == 1 and raw.stat().st_size <= limit:
        shutil.move(raw, target)
        return
    model = onnx.load(str(raw))
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= limit:
        onnx.save(model, str(target))
        return
    data_file(target).unlink(missing_ok=True)  # onnx appends
    # The graph names the file relative to itself, so the two can be moved together.
    onnx.save(
        model,
        str(target),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data_file(target).name,
        size_threshold=1024,
    )
