"""An ONNX graph while it is written: its nodes, and its weights, which are computed as they go to the file."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
"""fp32; fp16 throughout but for inputs and outputs, for GPUs; int8 in matrix products, for CPUs."""

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)

Load: TypeAlias = Callable[[], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Initializer:
    """A weight of the graph.

    Attributes:
        load: computes its numbers, of this shape and dtype; called once for each time it is written.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Load

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of the graph; an axis that is a name may have any length."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


@dataclass
class GraphBuilder:
    """A growing graph. Methods that add a node answer the name of its output.

    Attributes:
        precision: of its weights and of what is computed.
        middle: what all nodes behind it depend on, and on nothing else that nodes before it compute; see `halves`.
    """

    precision: Precision
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Initializer] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    middle: Value | None = None
    _constants: dict[tuple[str, bytes], str] = field(default_factory=dict)
    _quantized: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Of all weights, in bytes."""
        return sum(initializer.size for initializer in self.initializers)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What floats are computed in."""
        return np.dtype(np.float16 if self.precision == "fp16" else np.float32)

    def halves(self) -> "tuple[GraphBuilder, ...]":
        """The graph up to `middle` and from there on, or the graph itself where it has none."""
        if self.middle is None:
            return (self,)
        after = 1 + next(index for index, node in enumerate(self.nodes) if self.middle.name in node.output)
        return (
            self._part(self.nodes[:after], self.inputs, [self.middle]),
            self._part(self.nodes[after:], [self.middle], self.outputs),
        )

    def _part(self, nodes: list[Any], inputs: list[Value], outputs: list[Value]) -> "GraphBuilder":
        needed = {name for node in nodes for name in node.input}
        initializers = [initializer for initializer in self.initializers if initializer.name in needed]
        return GraphBuilder(self.precision, nodes, initializers, inputs, outputs)

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output.

        Args:
            output: its name; by default one that is free.
        """
        return self.ops(kind, inputs, (output or f"{kind}_{len(self.nodes)}",), **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs of these names."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **attributes))
        return tuple(outputs)

    def cast(self, value: str, dtype: np.dtype[Any]) -> str:
        """The same numbers in another dtype."""
        from onnx import helper

        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(dtype))

    def weight(self, name: str, shape: tuple[int, ...], load: Load, dtype: np.dtype[Any] | None = None) -> str:
        """Add a weight; its name.

        Args:
            load: computes it, in any dtype that can be cast to `dtype`.
            dtype: by default what floats are computed in.
        """
        kept = dtype or self.dtype
        self.initializers.append(Initializer(name, shape, kept, lambda: load().astype(kept, copy=False)))
        return name

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A small constant: equal ones share a name."""
        array = np.asarray(value, dtype or self.dtype)
        key = (f"{array.dtype}{array.shape}", array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = self.weight(name, array.shape, lambda: array, array.dtype)
        return self._constants[key]

    def linear(self, value: str, name: str, shape: tuple[int, int], load: Load, bias: Load | None) -> str:
        """``value @ weight + bias``, in int8 where the graph is.

        Args:
            value: [..., inputs].
            name: of the weights, ``<name>.weight`` and ``<name>.bias``.
            shape: (inputs, outputs) of the weight that `load` computes.
            bias: computes (outputs,); None for none.
        """
        if self.precision == "int8":
            product = self._int8_product(value, name, shape, load)
        else:
            product = self.op("MatMul", value, self.weight(f"{name}.weight", shape, load))
        if bias is None:
            return product
        return self.op("Add", product, self.weight(f"{name}.bias", shape[1:], bias))

    def _int8_product(self, value: str, name: str, shape: tuple[int, int], load: Load) -> str:
        """Dynamic quantisation (Jacob et al. 2017): activations to uint8 as they come, weights to int8 per column.

        The nodes are those that ONNX Runtime's quantiser writes, which both engines recognise.
        """
        if value not in self._quantized:
            names = [f"{value}_{part}" for part in ("quantized", "scale", "zero_point")]
            quantized, scale, zero = self.ops("DynamicQuantizeLinear", [value], names)
            self._quantized[value] = quantized, scale, zero
        quantized, scale, zero = self._quantized[value]
        weight = self.weight(f"{name}.weight_quantized", shape, lambda: quantize(load())[0], np.dtype(np.int8))
        scales = self.weight(f"{name}.weight_scale", shape[1:], lambda: quantize(load())[1])
        weight_zero = self.constant(np.zeros(shape[1], np.int8), np.int8)
        product = self.op("MatMulInteger", quantized, weight, zero, weight_zero)
        return self.op("Mul", self.cast(product, self.dtype), self.op("Mul", scale, scales))


def quantize(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix (inputs, outputs) in int8, symmetric, and the scale of each of its columns, float32 (outputs,)."""
    largest = np.abs(weight).max(axis=0).astype(np.float32)
    scale = np.where(largest > 0, largest, 127).astype(np.float32) / np.float32(127)
    return np.rint(weight / scale).clip(-127, 127).astype(np.int8), scale
