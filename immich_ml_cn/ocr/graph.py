"""The edit of a text recogniser's graph, in memory: the user's file is never rewritten."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from immich_ml_cn.graphs import dimensions_of, graph_of, integers, is_outside, new_node, read
from immich_ml_cn.onnx_schema import (
    DataType,
    Dimension,
    Graph,
    Model,
    Opset,
    Shape,
    TensorType,
    Type,
    Value,
)
from immich_ml_cn.protobuf import Malformed, Message

BEST_INDEX = "best_index"
BEST_PROBABILITY = "best_probability"
_AXIS = "best_path_axis"


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
        return _edited(read(path))
    except Malformed:
        return None


def _edited(model: Message) -> EditedGraph | None:
    graph = graph_of(model)
    outputs = graph.messages(Graph.OUTPUT)
    opsets = [entry for entry in model.messages(Model.OPSET_IMPORT) if entry.text(Opset.DOMAIN) in ("", "ai.onnx")]
    if len(outputs) != 1 or not opsets or any(map(is_outside, graph.messages(Graph.INITIALIZER))):
        return None
    dimensions = dimensions_of(outputs[0])
    if len(dimensions) != 3:
        return None
    opset = opsets[0].integer(Opset.VERSION)
    for made in _best_path_nodes(outputs[0].text(Value.NAME), opset):
        graph.add(Graph.NODE, made)
    graph.remove(Graph.OUTPUT)
    graph.add(Graph.OUTPUT, _output(BEST_INDEX, DataType.INT64, dimensions[:2]))
    graph.add(Graph.OUTPUT, _output(BEST_PROBABILITY, DataType.FLOAT, dimensions[:2]))
    if opset >= 18:
        graph.add(Graph.INITIALIZER, integers(_AXIS, [2]))
    return EditedGraph(bytes(model), dimensions[2].integer(Dimension.DIM_VALUE) or None)


def _output(name: str, kind: DataType, dimensions: Sequence[Message]) -> Message:
    shape = Message(*((Shape.DIM, dimension) for dimension in dimensions))
    tensor = Message((TensorType.ELEM_TYPE, kind), (TensorType.SHAPE, shape))
    return Message((Value.NAME, name), (Value.TYPE, Message((Type.TENSOR_TYPE, tensor))))


def _best_path_nodes(probabilities: str, opset: int) -> list[Message]:
    index = new_node("ArgMax", [probabilities], [BEST_INDEX], axis=2, keepdims=0)
    if opset >= 18:
        return [index, new_node("ReduceMax", [probabilities, _AXIS], [BEST_PROBABILITY], keepdims=0)]
    return [index, new_node("ReduceMax", [probabilities], [BEST_PROBABILITY], axes=[2], keepdims=0)]
