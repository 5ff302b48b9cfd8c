"""Networks of the real architectures and sizes with random weights, laid out as Immich's cache.

Time does not depend on the weights, so nothing has to be fetched. PP-OCR's are the real ones, from RapidOCR's wheel.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from . import graph as graph_module
from .graph import Graph, tensor

CLIP = "chinese-clip-vit-base-patch16"
FACES = "buffalo_l"
OCR = "PP-OCRv6_small"
TINY = "ViT-B-32__laion400m_e31"
"""A listed CLIP name under which a model of next to no work lies: what remains is HTTP and scheduling."""

DIMENSION = 512
FACES_PER_PHOTO = 8

_DETECTOR_OUTPUTS = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
_STRIDES = (8, 16, 32)
_DETECTOR_SIDE = 640
_LANDMARKS = (-1.0, -0.8, 1.0, -0.8, 0.0, 0.1, -0.8, 1.0, 0.8, 1.0)
_TINY_CONFIG = '{"size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"}'


def default_cache() -> Path:
    """Where the models are kept between runs: a folder for each version of this file."""
    sources = b"".join(Path(str(path)).read_bytes() for path in (__file__, graph_module.__file__))
    return Path(tempfile.gettempdir()) / f"immich-ml-cn-bench-{hashlib.sha256(sources).hexdigest()[:12]}"


def fill(cache: Path, *, int8: bool, say: Callable[[str], None]) -> None:
    """Build what is missing of the models in a cache folder in Immich's layout, about 1 GB.

    Args:
        int8: also quantise the image tower, to ``visual/model_int8.onnx``.
        say: called with what is being built.
    """
    visual = cache / "clip" / CLIP / "visual" / "model.onnx"
    builders: dict[Path, Callable[[Path], None]] = {
        visual: build_visual,
        cache / "clip" / CLIP / "textual" / "model.onnx": build_textual,
        cache / "clip" / TINY / "visual" / "model.onnx": build_tiny,
        cache / "facial-recognition" / FACES / "detection" / "model.onnx": build_detector,
        cache / "facial-recognition" / FACES / "recognition" / "model.onnx": build_recognizer,
    }
    if int8:
        builders[visual.with_name("model_int8.onnx")] = lambda path: quantise(visual, path)
    for path, build in builders.items():
        if not path.exists():
            say(f"building {path.relative_to(cache)}")
            build(path)


def build_visual(
    path: Path,
    *,
    layers: int = 12,
    width: int = 768,
    size: int = 224,
    patch: int = 16,
    batch: int | str = "batch",
    output: str = "unnorm_image_features",
) -> None:
    """CLIP's ViT-B-16 image tower: ``image`` float32 [batch, 3, size, size] → `output` [batch, 512]."""
    graph = Graph(seed=1)
    weights = graph.random(width, 3, patch, patch, scale=(3 * patch * patch) ** -0.5)
    x = graph.op("Conv", "image", weights, kernel_shape=[patch, patch], strides=[patch, patch])
    x = graph.op("Reshape", x, graph.integers(0, width, -1))
    x = graph.op("Transpose", x, perm=[0, 2, 1])  # (N, patches, W)
    first = graph.op("Slice", x, graph.integers(0), graph.integers(1), graph.integers(1))
    token = graph.op("Add", graph.op("Mul", first, graph.constant(0.0)), graph.random(1, 1, width, scale=1.0))
    x = graph.op("Concat", token, x, axis=1)
    x = graph.op("Add", x, graph.random((size // patch) ** 2 + 1, width, scale=0.5))
    x = graph.layer_norm(x, width)
    for _ in range(layers):
        x = graph.op("Add", x, attention(graph, graph.layer_norm(x, width), width))
        x = graph.op("Add", x, feed_forward(graph, graph.layer_norm(x, width), width, quick=True))
    pooled = graph.op("Gather", x, graph.constant(0, np.int64), axis=1)
    project(graph, graph.layer_norm(pooled, width), width, output)
    graph.save(path, [tensor("image", [batch, 3, size, size])], {output: [batch, DIMENSION]})


def build_textual(path: Path, *, layers: int = 12, width: int = 768, vocabulary: int = 21128) -> None:
    """Chinese-CLIP's BERT-base text tower: ``text`` int64 [batch, length] → [batch, 512], masking ``text == 0``."""
    graph = Graph(seed=2)
    ignored = graph.op("Cast", graph.op("Equal", "text", graph.constant(0, np.int64)), to=TensorProto.FLOAT)
    mask = graph.op("Unsqueeze", graph.op("Mul", ignored, graph.constant(-10000.0)), graph.integers(1, 2))
    length = graph.op("Slice", graph.op("Shape", "text"), graph.integers(1), graph.integers(2))
    positions = graph.op("Slice", graph.random(512, width, scale=0.5), graph.integers(0), length, graph.integers(0))
    x = graph.op("Gather", graph.random(vocabulary, width, scale=1.0), "text")
    x = graph.layer_norm(graph.op("Add", x, positions), width)
    for _ in range(layers):
        x = graph.layer_norm(graph.op("Add", x, attention(graph, x, width, mask)), width)
        x = graph.layer_norm(graph.op("Add", x, feed_forward(graph, x, width, quick=False)), width)
    pooled = graph.op("Gather", x, graph.constant(0, np.int64), axis=1)
    project(graph, pooled, width, "unnorm_text_features")
    source = tensor("text", ["batch", "length"], TensorProto.INT64)
    graph.save(path, [source], {"unnorm_text_features": ["batch", DIMENSION]})


def build_tiny(path: Path) -> None:
    """An image tower of next to no work, with its preprocessing file."""
    graph = Graph(seed=3)
    pooled = graph.op("ReduceMean", "image", axes=[2, 3], keepdims=0)
    project(graph, pooled, 3, "embedding")
    graph.save(path, [tensor("image", ["batch", 3, 32, 32])], {"embedding": ["batch", DIMENSION]})
    (path.parent / "preprocess_cfg.json").write_text(_TINY_CONFIG, encoding="utf-8")


def build_detector(path: Path) -> None:
    """SCRFD-10GF with the signature of ``det_10g``: [1, 3, height, width] → nine outputs for 640 x 640.

    It does all of the real network's work, and then finds the same 8 faces in every picture: what the heads say counts
    next to nothing beside constants added to it.
    """
    graph = Graph(seed=4)
    outputs: dict[str, list[int | str]] = {}
    for level, (x, stride) in enumerate(zip(_pyramid(graph, "input.1"), _STRIDES, strict=True)):
        for _ in range(3):
            x = graph.op("Relu", graph.conv(x, 56 if _ == 0 else 80, 80))
        answers = _answers(stride)
        for kind, columns in enumerate((1, 4, 10)):
            name = _DETECTOR_OUTPUTS[3 * kind + level]
            part = answers[:, [0] if kind == 0 else slice(1, 5) if kind == 1 else slice(5, 15)]
            _head(graph, x, columns, part, name)
            outputs[name] = list(part.shape)
    ordered = {name: outputs[name] for name in _DETECTOR_OUTPUTS}
    graph.save(path, [tensor("input.1", [1, 3, "height", "width"])], ordered)


def build_recognizer(path: Path) -> None:
    """IResNet-50 with the signature of ``w600k_r50``: ``input.1`` [1, 3, 112, 112] → ``683`` [1, 512]."""
    graph = Graph(seed=5)
    x = _prelu(graph, graph.conv("input.1", 3, 64), 64)
    channels = 64
    for wanted, blocks in ((64, 3), (128, 4), (256, 14), (512, 3)):
        for block in range(blocks):
            x = _face_block(graph, x, channels, wanted, stride=2 if block == 0 else 1)
            channels = wanted
    x = graph.op("Flatten", _batch_norm(graph, x, 512), axis=1)
    x = graph.op("Gemm", x, graph.random(512, 512 * 49, scale=0.005), graph.random(512, scale=0.02), transB=1)
    _batch_norm(graph, x, 512, "683")
    graph.save(path, [tensor("input.1", [1, 3, 112, 112])], {"683": [1, 512]})


def quantise(source: Path, path: Path) -> None:
    """Write a graph with signed 8-bit weights per channel; activations are quantised as it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    part = path.with_suffix(".part")
    kinds = ["MatMul", "Gemm"]
    quantize_dynamic(source, part, op_types_to_quantize=kinds, per_channel=True, weight_type=QuantType.QInt8)
    part.replace(path)


def attention(graph: Graph, x: str, width: int, mask: str = "") -> str:
    """Self-attention of heads of 64; `mask`, which spreads to (N, heads, L, L), is added to the scores."""
    query, key, value = (_heads(graph, graph.linear(x, width, width), width) for _ in range(3))
    scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[0, 1, 3, 2]))
    scores = graph.op("Mul", scores, graph.constant(0.125))
    if mask:
        scores = graph.op("Add", scores, mask)
    mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
    joined = graph.op("Reshape", graph.op("Transpose", mixed, perm=[0, 2, 1, 3]), graph.integers(0, 0, width))
    return graph.linear(joined, width, width)


def _heads(graph: Graph, x: str, width: int) -> str:
    split = graph.op("Reshape", x, graph.integers(0, 0, width // 64, 64))
    return graph.op("Transpose", split, perm=[0, 2, 1, 3])


def feed_forward(graph: Graph, x: str, width: int, *, quick: bool) -> str:
    """Four times the width and back, with QuickGELU (CLIP) or GELU (BERT) between."""
    hidden = graph.linear(x, width, 4 * width)
    if quick:
        gate = graph.op("Sigmoid", graph.op("Mul", hidden, graph.constant(1.702)))
        return graph.linear(graph.op("Mul", hidden, gate), 4 * width, width)
    erf = graph.op("Erf", graph.op("Div", hidden, graph.constant(2**0.5)))
    gate = graph.op("Mul", graph.op("Add", erf, graph.constant(1.0)), graph.constant(0.5))
    return graph.linear(graph.op("Mul", hidden, gate), 4 * width, width)


def project(graph: Graph, x: str, width: int, name: str) -> None:
    """(N, width) → the embedding, unnormalised."""
    graph.op("MatMul", x, graph.random(width, DIMENSION, scale=width**-0.5), name=name)


def _pyramid(graph: Graph, x: str) -> list[str]:
    """SCRFD-10GF's backbone (ResNet, basic blocks) and path-aggregating neck: 56 channels at strides 8, 16, 32."""
    x = graph.op("Relu", graph.conv(x, 3, 28, stride=2))
    x = graph.op("Relu", graph.conv(x, 28, 28))
    x = graph.op("Relu", graph.conv(x, 28, 56))
    x = graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    levels, channels = [], 56
    for stage, (wanted, blocks) in enumerate(((56, 3), (88, 4), (88, 2), (224, 3))):
        for block in range(blocks):
            x = _basic_block(graph, x, channels, wanted, stride=2 if stage and block == 0 else 1)
            channels = wanted
        levels.append((x, channels))
    laterals = [graph.conv(level, given, 56, size=1) for level, given in levels[1:]]
    for upper in (1, 0):
        grown = graph.op(
            "Resize", laterals[upper + 1], "", graph.constant([1, 1, 2, 2]), mode="nearest", nearest_mode="floor"
        )
        laterals[upper] = graph.op("Add", laterals[upper], grown)
    outs = [graph.conv(lateral, 56, 56) for lateral in laterals]
    for lower in (1, 2):
        outs[lower] = graph.op("Add", outs[lower], graph.conv(outs[lower - 1], 56, 56, stride=2))
    return [outs[0], graph.conv(outs[1], 56, 56), graph.conv(outs[2], 56, 56)]


def _basic_block(graph: Graph, x: str, given: int, wanted: int, *, stride: int) -> str:
    inner = graph.op("Relu", graph.conv(x, given, wanted, stride=stride))
    inner = graph.conv(inner, wanted, wanted, gain=0.3)
    if stride > 1:
        x = graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    if stride > 1 or given != wanted:
        x = graph.conv(x, given, wanted, size=1, gain=1.0)
    return graph.op("Relu", graph.op("Add", x, inner))


def _head(graph: Graph, x: str, columns: int, answers: NDArray[np.float32], name: str) -> None:
    x = graph.op("Mul", graph.conv(x, 80, 2 * columns), graph.constant(1e-6))
    x = graph.op("Transpose", x, perm=[2, 3, 0, 1])
    x = graph.op("Reshape", x, graph.integers(-1, columns))
    x = graph.op("Add", x, graph.constant(answers), name="" if columns == 1 else name)
    if columns == 1:
        graph.op("Sigmoid", x, name=name)


def _answers(stride: int) -> NDArray[np.float32]:
    """What each anchor of a grid says: (anchors, 15) score, four sides, ten landmark offsets.

    Six small faces at stride 8, two large ones at stride 16, in the top left 480 x 480, which every picture covers.
    """
    side = _DETECTOR_SIDE // stride
    answers = np.zeros((side, side, 2, 15), np.float32)
    answers[..., 0] = -6.0
    places = {8: [(y, x) for y in (60, 180) for x in (60, 200, 340)], 16: [(380, 110), (380, 330)], 32: []}
    for y, x in places[stride]:
        answers[y // stride, x // stride, 0] = (2.0 + x / 200, *(3.0,) * 4, *_LANDMARKS)
    return answers.reshape(-1, 15)


def _face_block(graph: Graph, x: str, given: int, wanted: int, *, stride: int) -> str:
    inner = graph.conv(_batch_norm(graph, x, given), given, wanted)
    inner = graph.conv(_prelu(graph, inner, wanted), wanted, wanted, stride=stride, gain=0.3)
    if stride > 1:
        x = graph.conv(x, given, wanted, size=1, stride=stride, gain=1.0)
    return graph.op("Add", inner, x)


def _batch_norm(graph: Graph, x: str, channels: int, name: str = "") -> str:
    ones, zeros = np.ones(channels), np.zeros(channels)
    statistics = [graph.constant(values) for values in (ones, zeros, zeros, ones)]
    return graph.op("BatchNormalization", x, *statistics, name=name)


def _prelu(graph: Graph, x: str, channels: int) -> str:
    return graph.op("PRelu", x, graph.constant(np.full((channels, 1, 1), 0.25)))
