"""CLIP's ModifiedResNet as an ONNX graph. Batch norms are folded into the convolutions before them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .architecture import Bottleneck, ResNet
from .graph import GraphBuilder
from .layers import Weights, attention, class_row

_EPSILON = 1e-5
_POOL = "visual.attnpool"


def encode_picture(graph: GraphBuilder, vision: ResNet, weights: Weights, image: str) -> str:
    """Normalised pixels [N, 3, R, R] → what the projection takes, [N, 1, 32 W]: the row of the mean."""
    width = vision.width
    value = image
    for index, (inputs, outputs) in enumerate(((3, width // 2), (width // 2, width // 2), (width // 2, width)), 1):
        convolution = _Convolution(f"visual.conv{index}", f"visual.bn{index}", inputs, outputs, 3)
        value = graph.op("Relu", convolution.add(graph, weights, value, stride=1 if index > 1 else 2))
    value = _average(graph, value)
    for block in vision.blocks():
        value = _bottleneck(graph, weights, block, value)
    return _attention_pool(graph, vision, weights, value)


def _bottleneck(graph: GraphBuilder, weights: Weights, block: Bottleneck, value: str) -> str:
    name, planes = block.name, block.planes
    shortcut = value
    first = _Convolution(f"{name}.conv1", f"{name}.bn1", block.channels, planes, 1)
    second = _Convolution(f"{name}.conv2", f"{name}.bn2", planes, planes, 3)
    third = _Convolution(f"{name}.conv3", f"{name}.bn3", planes, 4 * planes, 1)
    for convolution in (first, second):
        value = graph.op("Relu", convolution.add(graph, weights, value))
    value = third.add(graph, weights, _average(graph, value) if block.stride > 1 else value)
    if block.has_downsampling:
        shortcut = _average(graph, shortcut) if block.stride > 1 else shortcut
        downsampling = _Convolution(f"{name}.downsample.0", f"{name}.downsample.1", block.channels, 4 * planes, 1)
        shortcut = downsampling.add(graph, weights, shortcut)
    return graph.op("Relu", graph.op("Add", value, shortcut))


def _average(graph: GraphBuilder, value: str) -> str:
    """The mean of each 2 x 2 places."""
    return graph.op("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2])


def _attention_pool(graph: GraphBuilder, vision: ResNet, weights: Weights, value: str) -> str:
    """Attention of the mean of all places to all places: [N, C, R / 32, R / 32] → [N, 1, C]."""
    width = 32 * vision.width
    places = graph.op("Reshape", value, graph.constant([0, width, -1], np.int64))
    places = graph.op("Transpose", places, perm=[0, 2, 1])  # (N, L - 1, C)
    mean = graph.op("ReduceMean", places, axes=[1], keepdims=1)
    name = f"{_POOL}.positional_embedding"
    positions = graph.weight(name, (vision.tokens, width), lambda: weights.read(name))
    tokens = graph.op("Add", graph.op("Concat", mean, places, axis=1), positions)

    def part(index: int, kind: str) -> NDArray[Any]:
        return weights.read(f"{_POOL}.{'qkv'[index]}_proj.{kind}")

    return attention(graph, class_row(graph, tokens), tokens, _POOL, width, vision.heads, part)


class _Convolution:
    """A convolution that keeps the size, with the batch norm (Ioffe & Szegedy 2015) after it."""

    def __init__(self, name: str, norm: str, inputs: int, outputs: int, side: int) -> None:
        """
        Args:
            norm: prefix of the batch norm's tensors.
            side: of the kernel, in pixels.
        """
        self._name = name
        self._norm = norm
        self._shape = (outputs, inputs, side, side)

    def add(self, graph: GraphBuilder, weights: Weights, value: str, stride: int = 1) -> str:
        """[N, inputs, H, W] → [N, outputs, H / stride, W / stride]."""
        outputs, _, side, _ = self._shape
        weight = graph.weight(f"{self._name}.weight", self._shape, lambda: self._weight(weights))
        bias = graph.weight(f"{self._name}.bias", (outputs,), lambda: self._bias(weights))
        return graph.op(
            "Conv",
            value,
            weight,
            bias,
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
        )

    def _factor(self, weights: Weights) -> NDArray[np.float64]:
        variance = weights.read(f"{self._norm}.running_var").astype(np.float64)
        return weights.read(f"{self._norm}.weight") / np.sqrt(variance + _EPSILON)

    def _weight(self, weights: Weights) -> NDArray[Any]:
        return weights.read(f"{self._name}.weight") * self._factor(weights)[:, None, None, None]

    def _bias(self, weights: Weights) -> NDArray[Any]:
        mean = weights.read(f"{self._norm}.running_mean")
        return weights.read(f"{self._norm}.bias") - mean * self._factor(weights)
