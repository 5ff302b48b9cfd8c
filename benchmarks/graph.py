"""A growing ONNX graph with random weights: what `models` builds its networks from."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9


class Graph:
    """`op` adds a node and answers the name of its output; weights are the same in every run."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node of one output."""
        output = name or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a weight of given values."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def integers(self, *values: int) -> str:
        """Add an int64 vector: a shape, axes, indices."""
        return self.constant(values, np.int64)

    def random(self, *shape: int, scale: float) -> str:
        """Add a weight of normally distributed values with standard deviation `scale`."""
        values: NDArray[np.float32] = self._random.standard_normal(shape, np.float32) * np.float32(scale)
        return self.constant(values)

    def linear(self, x: str, given: int, wanted: int) -> str:
        """(…, given) → (…, wanted), with a bias."""
        product = self.op("MatMul", x, self.random(given, wanted, scale=given**-0.5))
        return self.op("Add", product, self.random(wanted, scale=0.02))

    def layer_norm(self, x: str, width: int) -> str:
        """Normalise the last axis."""
        return self.op("LayerNormalization", x, self.constant(np.ones(width)), self.constant(np.zeros(width)), axis=-1)

    def conv(self, x: str, given: int, wanted: int, *, size: int = 3, stride: int = 1, gain: float = 1.4) -> str:
        """A convolution with a bias, as batch normalisation leaves it when it is folded in.

        Args:
            gain: of the weights; 1.4 keeps the variance through a ReLU.
        """
        scale = gain * (given * size * size) ** -0.5
        inputs = self.random(wanted, given, size, size, scale=scale), self.random(wanted, scale=0.02)
        pads = [size // 2] * 4
        return self.op("Conv", x, *inputs, kernel_shape=[size, size], strides=[stride, stride], pads=pads)

    def save(self, path: Path, inputs: Sequence[Any], outputs: Mapping[str, Sequence[int | str]]) -> None:
        """Write the graph; the file appears whole or not at all.

        Args:
            inputs: see `tensor`.
            outputs: name → shape of the float32 outputs.
        """
        ends = [tensor(name, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(self._nodes, "benchmark", list(inputs), ends, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        onnx.save(model, str(part))
        part.replace(path)


def tensor(name: str, shape: Sequence[int | str], element: int = TensorProto.FLOAT) -> Any:
    """An input or output; an axis named by a string is dynamic."""
    return helper.make_tensor_value_info(name, element, shape)
