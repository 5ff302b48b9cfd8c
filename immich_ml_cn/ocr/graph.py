"""Edits of ONNX graphs, in memory: the user's file is never rewritten."""

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

BEST_INDEX = "best_index"
BEST_PROBABILITY = "best_probability"


@dataclass(frozen=True)
class EditedGraph:
    """A serialised graph and how many classes it tells apart; None if it does not say."""

    data: bytes
    classes: int | None


def with_best_path(path: Path) -> EditedGraph | None:
    """A CTC recogniser that answers its best path instead of every probability.

    Its one output, float32 [N, T, C], is replaced by `BEST_INDEX`, int64 [N, T], and
    `BEST_PROBABILITY`, float32 [N, T], so that C (18,710 for PP-OCRv6) floats per time step never
    leave the engine.

    Returns:
        None if the file is no graph, the graph is of another form, or its weights lie outside the
        file: the engine opens it as it is, or says what is wrong with it.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's DecodeError, whose home depends on its version
        return None
    graph = model.graph
    if len(graph.output) != 1 or any(weight.data_location == TensorProto.EXTERNAL for weight in graph.initializer):
        return None
    output = graph.output[0]
    dims = output.type.tensor_type.shape.dim
    if len(dims) != 3:
        return None
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    graph.node.extend(_best_path_nodes(output.name, opset))
    shape = [dim.dim_param or dim.dim_value or None for dim in dims[:2]]
    classes = dims[2].dim_value or None
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info(BEST_INDEX, TensorProto.INT64, shape),
            helper.make_tensor_value_info(BEST_PROBABILITY, TensorProto.FLOAT, shape),
        ]
    )
    if opset >= 18:
        graph.initializer.append(helper.make_tensor("best_path_axis", TensorProto.INT64, [1], [2]))
    return EditedGraph(model.SerializeToString(), classes)


def _best_path_nodes(probabilities: str, opset: int) -> list[onnx.NodeProto]:
    index = helper.make_node("ArgMax", [probabilities], [BEST_INDEX], axis=2, keepdims=0)
    if opset >= 18:
        inputs = [probabilities, "best_path_axis"]
        return [index, helper.make_node("ReduceMax", inputs, [BEST_PROBABILITY], keepdims=0)]
    best = helper.make_node("ReduceMax", [probabilities], [BEST_PROBABILITY], axes=[2], keepdims=0)
    return [index, best]
