"""Small ONNX models with the signatures of InsightFace's packs and random weights, and photos to run them on."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from immich_ml_cn.models.images import Picture

# Output names of buffalo_l's det_10g: scores, boxes, landmarks at strides 8, 16, 32.
DET_10G_OUTPUTS = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
# Where the landmarks lie about an anchor's centre, in strides: eyes, nose, corners of the mouth.
_LANDMARKS = (-1.0, -0.8, 1.0, -0.8, 0.0, 0.1, -0.8, 1.0, 0.8, 1.0)


class GraphBuilder:
    """Collects the nodes and random weights of one graph."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{len(self.nodes)}", **attributes))
        return output

    def weight(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def conv(self, x: str, channels: tuple[int, int], stride: int = 1) -> str:
        given, wanted = channels
        kernel = self.random.normal(0, (9 * given) ** -0.5, (wanted, given, 3, 3))
        # Without its mean a kernel answers to edges only, so that different pictures get clearly different answers.
        kernel -= kernel.mean(axis=(2, 3), keepdims=True)
        inputs = [x, self.weight(kernel), self.weight(self.random.normal(0, 0.02, wanted))]
        return self.node("Conv", inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride])

    def batch_norm(self, x: str, channels: int, output: str = "") -> str:
        draw = self.random.uniform
        ranges = ((0.5, 1.5), (-0.02, 0.02), (-0.02, 0.02), (0.5, 1.5))
        statistics = [self.weight(draw(low, high, channels)) for low, high in ranges]
        return self.node("BatchNormalization", [x, *statistics], output)

    def prelu(self, x: str, channels: int) -> str:
        return self.node("PRelu", [x, self.weight(self.random.uniform(0.1, 0.4, (channels, 1, 1)))])

    def save(self, path: Path, image: Sequence[Any], outputs: Mapping[str, Sequence[Any]], **how: Any) -> Path:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        source = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, image)
        graph = helper.make_graph(self.nodes, "faces", [source], values, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, str(path), **how)
        return path


def build_detector(
    path: Path,
    *,
    batch_axis: bool = False,
    strides: Sequence[int] = (8, 16, 32),
    anchors: int = 2,
    landmarks: bool = True,
    size: tuple[int, int] | None = None,
    seed: int = 0,
) -> Path:
    """A detector as the packs have it: outputs flattened to (anchors, columns), or with a batch axis.

    Scores are normalised over each grid, so that about 1 % of any photo's anchors pass 0.7, in overlapping groups.
    """
    build = GraphBuilder(seed)
    x, channels, reached = "input.1", 3, 1
    heads: dict[int, list[str]] = {1: [], 4: [], 10: []}
    for stride in strides:
        while reached < stride:
            x = build.node("Relu", [build.conv(x, (channels, 8), stride=2)])
            channels, reached = 8, reached * 2
        heads[1].append(_head(build, x, (1, anchors), batch_axis, scale=1.0, bias=[-1.9]))
        heads[4].append(_head(build, x, (4, anchors), batch_axis, scale=0.3, bias=[3.0]))
        heads[10].append(_head(build, x, (10, anchors), batch_axis, scale=0.2, bias=_LANDMARKS))
    if not landmarks:
        del heads[10]
    height, width = size[::-1] if size else ("?", "?")
    outputs = {}
    for name, (columns, stride) in zip(
        [name for names in heads.values() for name in names],
        [(columns, stride) for columns in heads for stride in strides],
        strict=True,
    ):
        count = (size[0] if size else 640) // stride * ((size[1] if size else 640) // stride) * anchors
        outputs[name] = ["batch", count, columns] if batch_axis else [count, columns]
    return build.save(path, ["batch" if batch_axis else 1, 3, height, width], outputs)


def _head(
    build: GraphBuilder, x: str, form: tuple[int, int], batch_axis: bool, *, scale: float, bias: Sequence[float]
) -> str:
    columns, anchors = form
    channels = columns * anchors
    x = build.conv(x, (8, channels))
    biases = np.resize(np.asarray(bias), channels)
    x = build.node("InstanceNormalization", [x, build.weight(np.full(channels, scale)), build.weight(biases)])
    # The stock exporter puts the batch behind the grid before it flattens; the batched one leaves it in front.
    x = build.node("Transpose", [x], perm=[0, 2, 3, 1] if batch_axis else [2, 3, 0, 1])
    shape = [0, -1, columns] if batch_axis else [-1, columns]
    x = build.node("Reshape", [x, build.weight(shape, np.int64)])
    return build.node("Sigmoid", [x]) if columns == 1 else x


def build_constant_detector(path: Path, cell: tuple[int, int], answer: Sequence[float]) -> Path:
    """A detector that finds one face in every picture, at a cell (column, row) of the grid of stride 8.

    Args:
        answer: score, four distances and ten offsets, the latter in strides.
    """
    build = GraphBuilder(0)
    # The answer hangs on the input by a zero, so that the graph has one.
    nothing = build.node("Mul", [build.node("ReduceMean", ["input.1"], keepdims=0), build.weight(0.0)])
    outputs: dict[str, Sequence[Any]] = {}
    spans = (slice(0, 1), slice(1, 5), slice(5, 15))
    for index, name in enumerate(DET_10G_OUTPUTS):
        span, stride = spans[index // 3], (8, 16, 32)[index % 3]
        side = 640 // stride
        values = np.zeros((side * side * 2, span.stop - span.start), dtype=np.float32)
        if stride == 8:
            values[(cell[1] * side + cell[0]) * 2] = answer[span]
        build.node("Add", [build.weight(values), nothing], name)
        outputs[name] = values.shape
    return build.save(path, [1, 3, "?", "?"], outputs)


def build_recognizer(
    path: Path,
    *,
    batch: tuple[Any, Any] = (1, 1),
    flatten: str = "Flatten",
    normalises: bool = False,
    mixes_batch: bool = False,
    output: str = "683",
    seed: int = 1,
    **how: Any,
) -> Path:
    """A shallow IResNet with the signature of w600k_r50: [1, 3, 112, 112] → [1, 512].

    Args:
        batch: declared leading dimensions of input and output.
        flatten: ``Flatten``, or ``Reshape`` to a constant [1, -1].
        normalises: subtract and scale in the graph, as models from MXNet do.
        mixes_batch: subtract the batch's mean from each item, which is right for batches of one only.
    """
    build = GraphBuilder(seed)
    x = "input.1"
    if normalises:
        x = build.node("Sub", [x, build.weight(127.5)])
        x = build.node("Mul", [x, build.weight(1 / 128)])
    x = build.prelu(build.conv(x, (3, 8), stride=2), 8)
    inner = build.prelu(build.conv(build.batch_norm(x, 8), (8, 8)), 8)
    x = build.node("Add", [x, build.conv(inner, (8, 8))])
    x = build.prelu(build.conv(x, (8, 8), stride=2), 8)
    x = build.batch_norm(build.conv(x, (8, 8), stride=4), 8)
    if flatten == "Flatten":
        x = build.node("Flatten", [x], axis=1)
    else:
        x = build.node("Reshape", [x, build.weight([1, -1], np.int64)])
    if mixes_batch:
        x = build.node("Add", [x, build.node("ReduceSum", [x, build.weight([0], np.int64)], keepdims=1)])
    matrix = build.weight(build.random.normal(0, 0.05, (512, 392)))
    x = build.node("Gemm", [x, matrix, build.weight(np.zeros(512))], transB=1)
    build.batch_norm(x, 512, output)
    return build.save(path, [batch[0], 3, 112, 112], {output: [batch[1], 512]}, **how)


def photo_files() -> list[Path]:
    """Photos that come with scikit-image and insightface, wide, tall and square."""
    skimage, insightface = _installed("skimage") / "data", _installed("insightface") / "data" / "images"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
    masks = ("t1.jpg", "mask_blue.jpg", "mask_white.jpg")
    return [skimage / name for name in names] + [insightface / name for name in masks]


def photo(name: str) -> Picture:
    """One of `photo_files` by its name without suffix; ``tall-…`` is it turned on its side."""
    turned = name.startswith("tall-")
    (file,) = [file for file in photo_files() if file.stem == name.removeprefix("tall-")]
    image = Image.open(file).convert("RGB")
    return Picture.of(image.transpose(Image.Transpose.ROTATE_90) if turned else image)


def _installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
