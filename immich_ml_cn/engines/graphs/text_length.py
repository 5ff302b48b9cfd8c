"""Text towers of a fixed length, made to take texts of any length up to it.

In OpenCLIP's text transformer a token sees only those before it, and the embedding is the hidden state at the end of
the text: what follows changes nothing. Its exports compute all 77 positions all the same, for a query of ten.
"""

import io
import math
from pathlib import Path
from typing import Any, Final

from .metadata import fields, spans
from .model_files import constants_of, ends_of, load_model, note, serialised

MAX_LENGTH: Final = "immich-ml-cn.max-length"
"""Key of an edited graph's metadata: the length that the graph in the file is for."""

MAX_BYTES: Final = 1 << 30
"""Larger graphs stay as they are: an edit needs several times their size in memory."""

_MASKED: Final = -1e4
_SHAPED: Final = ("Reshape", "Expand")
_SMALL: Final = 16
"""Numbers that a shape has at most."""
# Numbers of fields, by onnx.proto.
_GRAPH, _NODE, _INPUT = 7, 1, 11
_TYPE, _TENSOR, _SHAPE = 2, 1, 2
_DIM_VALUE: Final = b"\x08"


def looks_fixed(path: Path) -> bool:
    """Whether `with_any_length` is worth a try: the input's second axis has a fixed size, and there is an arg-max.

    Weights are not read: it takes milliseconds.

    Raises:
        ValueError: the file is no ONNX graph.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        end = path.stat().st_size
        graph = next((span for span in spans(file, 0, end) if span[0] == _GRAPH), None)
        if graph is None:
            raise ValueError("an ONNX file without a graph")
        _, start, size = graph
        parts = list(fields(file, (_NODE, _INPUT), start, start + size))
    inputs = [part for number, part in parts if number == _INPUT]
    pools = any(b"ArgMax" in part for number, part in parts if number == _NODE)
    return pools and bool(inputs) and _has_fixed_length(inputs[0])


def with_any_length(path: Path) -> bytes:
    """Free a text tower of its fixed length.

    The second axis of its input becomes dynamic. What is stored for each position, such as position embeddings and the
    causal mask, is cut to the length of the text, and a target shape that names the length takes it from its input.
    With as many tokens as before, the graph computes what it did. Whether fewer give the same embedding, runs can tell:
    compare some before relying on it.

    Args:
        path: the graph; it may keep its weights in side files. It is not written to.

    Returns:
        The edited graph, weights included; its metadata has `MAX_LENGTH`.

    Raises:
        DamagedModel: the file is no ONNX graph.
        ValueError: it is too large, or not of that form: a token may see those after it, the embedding is not taken at
            the largest token or at one of a value, or a use of the length is not understood.
        OSError: it cannot be read.
    """
    model = load_model(path, weights=True)
    graph = model.graph
    text = _text_of(graph)
    size = text.type.tensor_type.shape.dim[1].dim_value
    constants = constants_of(graph)
    if not _pools_at_end(graph, text.name):
        raise ValueError(f"{path} does not take its embedding at the end of the text")
    if not _is_causal(graph, constants, size):
        raise ValueError(f"{path} has tokens that may see those after them")
    text.type.tensor_type.shape.dim[1].dim_param = "length"
    del graph.value_info[:]
    edit = _LengthEdit(graph, constants, text.name, size)
    edit.free_shapes()
    edit.cut_constants()
    edit.insert()
    note(model, MAX_LENGTH, size)
    return serialised(model, path)


class _LengthEdit:
    """The edit of one graph: new nodes and constants, to be inserted at its beginning."""

    def __init__(self, graph: Any, constants: dict[str, Any], text: str, size: int) -> None:
        from onnx import helper

        self._graph = graph
        self._constants = constants
        self._size = size
        self._nodes = [helper.make_node("Shape", [text], ["length/shape"])]
        one = self._add([1], "length/axis")
        self._nodes.append(helper.make_node("Gather", ["length/shape", one], ["length"], axis=0))

    def free_shapes(self) -> None:
        """Let target shapes that name the length take it from what is left of the input's size.

        Raises:
            ValueError: one names it twice, or beside another size that is left open.
        """
        for node in self._graph.node:
            target = self._constants.get(node.input[1]) if node.op_type in _SHAPED else None
            sizes = [] if target is None else _integers(target)
            if self._size not in sizes:
                continue
            if node.op_type != "Reshape" or sizes.count(self._size) > 1 or -1 in sizes:
                raise ValueError(f"{node.op_type} to {sizes} is not understood")
            freed = [-1 if size == self._size else size for size in sizes]
            node.input[1] = self._add(freed, f"{node.output[0]}/shape")

    def cut_constants(self) -> None:
        """Cut what is stored for each position to the length of the text.

        Raises:
            ValueError: a whole number in use may be the length.
        """
        cut: dict[str, str] = {}
        for node in self._graph.node:
            for index, name in enumerate(node.input):
                tensor = self._constants.get(name)
                if tensor is None:
                    continue
                if self._size in _integers(tensor):
                    raise ValueError(f"{node.op_type} of {name} is not understood")
                if self._size in tensor.dims:
                    cut[name] = cut.get(name) or self._cut(name, tensor)
                    node.input[index] = cut[name]

    def insert(self) -> None:
        """Put the new nodes before the old ones, which read from them; nodes of constants stand before both."""
        old = list(self._graph.node)
        del self._graph.node[:]
        constants = [node for node in old if node.op_type == "Constant"]
        self._graph.node.extend([*constants, *self._nodes, *(node for node in old if node.op_type != "Constant")])

    def _cut(self, name: str, tensor: Any) -> str:
        from onnx import helper

        for axis in (axis for axis, size in enumerate(tensor.dims) if size == self._size):
            shorter = f"{name}/cut{axis}"
            begin, along = self._add([0], f"{shorter}/begin"), self._add([axis], f"{shorter}/axis")
            self._nodes.append(helper.make_node("Slice", [name, begin, "length", along], [shorter]))
            name = shorter
        return name

    def _add(self, values: list[int], name: str) -> str:
        import numpy as np
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name


def _text_of(graph: Any) -> Any:
    """The one input, int32 or int64 [batch, length] of a fixed length.

    Raises:
        ValueError: there is another.
    """
    outputs = {value.name for value in graph.output}
    inputs = [value for value in ends_of(graph) if value.name not in outputs]
    dims = inputs[0].type.tensor_type.shape.dim if len(inputs) == 1 else []
    if len(dims) != 2 or not dims[1].dim_value:
        raise ValueError("it has other inputs than one [batch, length] of a fixed length")
    return inputs[0]


def _pools_at_end(graph: Any, text: str) -> bool:
    """Whether the tokens are only looked up, and searched once for the largest or for one of a value."""
    tokens, found = {text}, []
    for node in graph.node:
        if tokens.isdisjoint(node.input):
            continue
        if node.op_type in ("Cast", "Equal"):
            tokens.update(node.output)
        elif node.op_type == "ArgMax":
            found.append(node)
        elif node.op_type not in ("Gather", "Shape"):
            return False
    return len(found) == 1


def _is_causal(graph: Any, constants: dict[str, Any], size: int) -> bool:
    """Whether every attention is masked so that a token sees only those before it."""
    made = {output: node for node in graph.node for output in node.output}
    attentions = [node for node in graph.node if node.op_type in ("Softmax", "Attention")]
    return bool(attentions) and all(
        _has_causal_attribute(node)
        if node.op_type == "Attention"
        else _adds_causal_mask(made.get(node.input[0]), constants, size)
        for node in attentions
    )


def _has_causal_attribute(attention: Any) -> bool:
    return any(attribute.name == "is_causal" and attribute.i == 1 for attribute in attention.attribute)


def _adds_causal_mask(node: Any, constants: dict[str, Any], size: int) -> bool:
    import numpy as np
    from onnx import numpy_helper

    if node is None or node.op_type != "Add":
        return False
    masks = [constants[name] for name in node.input if name in constants]
    if len(masks) != 1 or list(masks[0].dims[-2:]) != [size, size]:
        return False
    above = numpy_helper.to_array(masks[0])[..., *np.triu_indices(size, 1)]
    return bool((above <= _MASKED).all())


def _integers(tensor: Any) -> list[int]:
    """The values of a small tensor of whole numbers, [] of any other."""
    from onnx import TensorProto, numpy_helper

    whole = tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
    return numpy_helper.to_array(tensor).ravel().tolist() if whole and math.prod(tensor.dims) <= _SMALL else []


def _has_fixed_length(value: bytes) -> bool:
    """Whether an input, as it is in the file, has a second axis of a fixed size."""
    data = value
    for number in (_TYPE, _TENSOR, _SHAPE):
        data = next(iter(_parts(data, number)), b"")
    dims = _parts(data, 1)
    return len(dims) == 2 and dims[1].startswith(_DIM_VALUE)


def _parts(data: bytes, number: int) -> list[bytes]:
    return [part for _, part in fields(io.BytesIO(data), (number,), 0, len(data))]
