"""Parts of graphs that OpenVINO's CPU computes slowly, in a form that it computes fast; the answers stay the same.

Both are found by their form, in whatever graph; what has another form is left as it is.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SHAPING: Final = frozenset({"Convert", "Identity", "Reshape", "Squeeze", "Unsqueeze"})

_SIDE: Final = 2
"""Height and width of what one step of upsampling makes of a pixel."""


def rewrite(model: Any, opset: Any) -> None:
    """Change a graph in place.

    Args:
        model: an ``openvino.Model``, not compiled yet.
        opset: the module ``openvino.opset13`` or a later one.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "TopK":
            _find_best_by_comparing(node, opset)
        elif kind == "Sigmoid":
            _upsample_last(node, opset)


def _find_best_by_comparing(node: Any, opset: Any) -> None:
    """The index of the largest of many, which is an ArgMax in ONNX: of 18,710 classes, TopK takes an eighth of the
    recogniser's time in f32 and a fifth in bf16. The first of equals, as in ONNX."""
    values, shape_of_values = node.input_value(0), node.get_input_partial_shape(0)
    axis = node.get_attributes()["axis"]
    if not _is_arg_max(node) or shape_of_values.rank.is_dynamic or shape_of_values[axis].is_dynamic:
        return
    last = shape_of_values[axis].get_length() - 1
    shape = np.ones(shape_of_values.rank.get_length(), np.int64)
    shape[axis] = -1
    # Not as integers: of those OpenVINO 2026.4 finds the largest wrongly, at (2, 1, 16) along the last axis.
    from_the_end = opset.constant(np.arange(last, -1, -1, dtype=np.float32).reshape(shape))
    along = opset.constant(np.array([axis], np.int64))
    is_best = opset.equal(values, opset.reduce_max(values, along, keep_dims=True))
    found = opset.reduce_max(opset.select(is_best, from_the_end, opset.constant(np.float32(0))), along, keep_dims=True)
    index = opset.subtract(opset.constant(np.float32(last)), found)
    kind = node.output(1).get_element_type().to_string()
    node.output(1).replace(opset.convert(index, kind).output(0))


def _is_arg_max(node: Any) -> bool:
    count = _maker(node.input_value(1))
    return bool(
        node.get_attributes()["mode"] == "max"
        and count.get_type_name() == "Constant"
        and int(count.data.reshape(-1)[0]) == 1
        and node.input_value(0).get_element_type().is_real()
        and not node.output(0).get_target_inputs()
        and _is_answer(node.output(1))
    )


def _is_answer(output: Any) -> bool:
    """True if `output` is only passed on to the results: only what comes after the last matrix product keeps f32
    among bf16, and an index of five digits needs it."""
    users = [used.get_node() for used in output.get_target_inputs()]
    return all(
        user.get_type_name() == "Result" or (user.get_type_name() in _SHAPING and _is_answer(user.output(0)))
        for user in users
    )


@dataclass(frozen=True, slots=True)
class _Upsampling:
    """A transposed convolution that makes 2 x 2 pixels of each, and what is done to each of its channels.

    Attributes:
        source: what it reads, an output of a node.
        weights: float32 (channels in, channels out, 2, 2).
        bias: float32 (channels out,).
    """

    source: Any
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def _upsample_last(node: Any, opset: Any) -> None:
    """The end of a text detector (DB): two steps of upsampling, of which each pixel depends on one pixel alone.

    So both can be done by convolutions of 1 x 1 at a sixteenth of the pixels, and the 4 x 4 pixels that each gives be
    laid out at the end. With shapes that are not fixed, OpenVINO computes what follows a transposed convolution apart
    from it, and a sigmoid of one channel number by number.
    """
    second = _upsampling(node.input_value(0))
    if second is None or second.weights.shape[1] != 1:
        return
    between = _maker(second.source)
    first = _upsampling(between.input_value(0)) if between.get_type_name() == "Relu" else None
    if first is None:
        return
    weights, bias = _inner(first)
    hidden = opset.relu(_pointwise(first.source, weights, bias, opset))
    weights, bias = _outer(second)
    pixels = opset.sigmoid(_pointwise(hidden.output(0), weights, bias, opset))
    node.output(0).replace(opset.depth_to_space(pixels, "blocks_first", _SIDE * _SIDE).output(0))


def _upsampling(output: Any) -> _Upsampling | None:
    """The step that ends in `output`, None where that is something else."""
    node, bias = _maker(output), None
    if node.get_type_name() == "Add":
        bias = _per_channel(node.input_value(1))
        node = _maker(node.input_value(0))
        if bias is None:
            return None
    if node.get_type_name() != "ConvolutionBackpropData" or node.get_input_size() != 2 or not _doubles(node):
        return None
    kernel = _maker(node.input_value(1))
    if kernel.get_type_name() != "Constant" or kernel.data.dtype != np.float32 or kernel.data.shape[2:] != (2, 2):
        return None
    weights = np.array(kernel.data)
    channels = weights.shape[1]
    if bias is None:
        bias = np.zeros(channels, np.float32)
    return _Upsampling(node.input_value(0), weights, bias) if bias.shape == (channels,) else None


def _maker(output: Any) -> Any:
    """The node that computes what `output` is; Paddle's exports are full of identities."""
    node = output.get_node()
    while node.get_type_name() == "Identity":
        node = node.input_value(0).get_node()
    return node


def _doubles(node: Any) -> bool:
    found = node.get_attributes()
    wanted = {"strides": 2, "dilations": 1, "pads_begin": 0, "pads_end": 0, "output_padding": 0}
    plain = all(list(found[name]) == [value, value] for name, value in wanted.items())
    return plain and found["auto_pad"] in ("explicit", "notset", "valid")


def _per_channel(output: Any) -> NDArray[np.float32] | None:
    """The numbers of a constant (1, channels, 1, 1)."""
    node = _maker(output)
    if node.get_type_name() != "Constant" or node.data.dtype != np.float32:
        return None
    shape = node.data.shape
    return np.array(node.data.reshape(-1)) if len(shape) == 4 and node.data.size == shape[1] else None


def _inner(step: _Upsampling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (4 · out, in, 1, 1) and bias of the convolution that gives the 2 x 2 pixels one after the other."""
    weights = step.weights.transpose(2, 3, 1, 0).reshape(-1, len(step.weights), 1, 1)
    return np.ascontiguousarray(weights), np.tile(step.bias, _SIDE * _SIDE)


def _outer(step: _Upsampling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (16, 4 · in, 1, 1) and bias of the convolution that gives the 4 x 4 pixels of one channel in reading
    order, from those of `_inner`."""
    channels = len(step.weights)
    weights = np.zeros((_SIDE, _SIDE, _SIDE, _SIDE, _SIDE, _SIDE, channels), np.float32)
    for row in range(_SIDE):
        for column in range(_SIDE):  # rows of the first step and of the second, columns of both; then what it reads
            weights[row, :, column, :, row, column] = step.weights[:, 0].transpose(1, 2, 0)
    side = _SIDE * _SIDE
    return weights.reshape(side * side, side * channels, 1, 1), np.repeat(step.bias, side * side)


def _pointwise(source: Any, weights: NDArray[np.float32], bias: NDArray[np.float32], opset: Any) -> Any:
    product = opset.convolution(source, opset.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
    return opset.add(product, opset.constant(bias.reshape(1, -1, 1, 1)))
