"""Edits of ONNX graphs, in memory: the file on disk is only ever read.

A graph is read as protobuf fields (`protobuf.Message`): what an edit does not touch is carried along as it is.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from .errors import DamagedModel
from .onnx_schema import (
    Attribute,
    AttributeType,
    DataLocation,
    DataType,
    Dimension,
    Entry,
    Graph,
    Model,
    Node,
    Shape,
    Tensor,
    TensorType,
    Type,
    Value,
)
from .protobuf import Malformed, Message

FEATURES = "features"
"""Name of the output with a CLIP tower's embedding before its normalisation."""

_BATCH = "batch"
# These read a tensor's shape, not its values: what they give carries no batch axis.
_SHAPE_READERS = frozenset({"Shape", "Size"})
_LARGEST: Final = (1 << 31) - 1
"""Bytes of a protobuf message that its readers accept."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a model has to know of its graph before it is opened.

    Attributes:
        fixed_batch: an input or an output is declared with a leading dimension of 1.
        normalises_input: the graph itself subtracts the mean and scales its input, as the face recognisers converted
            from MXNet do: among its first eight nodes one is named ``Sub…`` or ``_minus…`` and one ``Mul…`` or
            ``_mul…`` (insightface's rule).
    """

    fixed_batch: bool
    normalises_input: bool


def inspect(path: Path) -> GraphFacts:
    """Read what a graph declares; external weights are not touched.

    Raises:
        DamagedModel: the file is no ONNX graph.
        OSError: it cannot be read.
    """
    with _damage_named(path):
        graph = graph_of(read(path))
        names = [node.text(Node.NAME) for node in graph.messages(Graph.NODE)[:8]]
        return GraphFacts(
            fixed_batch=any(_is_one(dimensions_of(value)[:1]) for value in _ends(graph)),
            normalises_input=any(name.startswith(("Sub", "_minus")) for name in names)
            and any(name.startswith(("Mul", "_mul")) for name in names),
        )


def with_batch_axis(path: Path) -> bytes:
    """Give a graph exported for batches of one a batch axis of any size.

    The leading dimension of every input and output becomes ``batch``, recorded shapes of inner tensors are dropped, and
    a ``Reshape`` of a batched tensor to a constant shape ``[1, …]`` keeps its input's leading dimension instead. That
    is all a convolutional graph needs; whether it was enough for this one, only a run can tell: compare a batch with
    its items one by one before relying on it.

    Args:
        path: the graph; it may keep its weights in side files. It is not written to.

    Returns:
        The edited graph, weights included.

    Raises:
        DamagedModel: the file is no ONNX graph.
        ValueError: with its weights it is too large for one buffer (2 GiB), or they are not where it says.
        OSError: it cannot be read.
    """
    with _damage_named(path):
        model = read(path)
        graph = graph_of(model)
        for value in _ends(graph):
            for dimension in dimensions_of(value)[:1]:
                dimension.remove(Dimension.DIM_VALUE)
                dimension.remove(Dimension.DIM_PARAM)
                dimension.add(Dimension.DIM_PARAM, _BATCH)
        graph.remove(Graph.VALUE_INFO)
        _free_reshapes(graph)
        return _with_weights(model, path)


def outputs_of(path: Path) -> tuple[str, ...]:
    """Names of a graph's outputs.

    Raises:
        DamagedModel: the file is no ONNX graph.
        OSError: it cannot be read.
    """
    with _damage_named(path):
        return tuple(value.text(Value.NAME) for value in graph_of(read(path)).messages(Graph.OUTPUT))


def part_for(path: Path, output: str) -> bytes:
    """The part of a graph that computes one of its outputs, weights included.

    Takes memory for the file and for the part.

    Args:
        path: the graph; it may keep its weights in side files. It is not written to.

    Returns:
        A graph with that output and the inputs that it depends on. Where the output is a quotient, as a normalised
        embedding is, its numerator becomes a second output, ``features``.

    Raises:
        DamagedModel: the file is no ONNX graph.
        ValueError: there is no such output, the part is too large for one buffer (2 GiB), or its weights are not where
            it says.
        OSError: it cannot be read.
    """
    with _damage_named(path):
        model = read(path)
        graph = graph_of(model)
        if output not in {value.text(Value.NAME) for value in graph.messages(Graph.OUTPUT)}:
            raise ValueError(f"{path} has no output {output!r}")
        needed = _keep_nodes_for(graph, output)
        graph.keep(Graph.INPUT, lambda value: value.text(Value.NAME) in needed)
        graph.keep(Graph.INITIALIZER, lambda tensor: tensor.text(Tensor.NAME) in needed)
        graph.keep(Graph.OUTPUT, lambda value: value.text(Value.NAME) == output)
        _expose_features(graph)
        graph.remove(Graph.VALUE_INFO)
        graph.remove(Graph.QUANTIZATION_ANNOTATION)
        return _with_weights(model, path)


def read(path: Path) -> Message:
    """A file as a model that has a graph of some nodes; everything inside but the weights is looked through.

    Raises:
        Malformed: the file is no ONNX graph.
        OSError: it cannot be read.
    """
    model = Message.parse(path.read_bytes())
    graph = graph_of(model)
    nodes = graph.messages(Graph.NODE)
    if not nodes:
        raise Malformed("a graph without nodes")
    for node in nodes:
        node.messages(Node.ATTRIBUTE)
    graph.messages(Graph.INITIALIZER)
    for value in (*graph.messages(Graph.INPUT), *graph.messages(Graph.OUTPUT)):
        dimensions_of(value)
    return model


def graph_of(model: Message) -> Message:
    """A model's graph.

    Raises:
        Malformed: it has none.
    """
    graphs = model.messages(Model.GRAPH)
    if len(graphs) != 1:
        raise Malformed("not an ONNX model")
    return graphs[0]


def dimensions_of(value: Message) -> list[Message]:
    """The dimensions of an input or an output, where it declares any."""
    level = [value]
    for number in (Value.TYPE, Type.TENSOR_TYPE, TensorType.SHAPE, Shape.DIM):
        level = [inner for message in level for inner in message.messages(number)]
    return level


def integers(name: str, values: Sequence[int]) -> Message:
    """An int64 tensor of one axis."""
    data = np.array(values, "<i8").tobytes()
    return Message(
        (Tensor.DIMS, len(values)), (Tensor.DATA_TYPE, DataType.INT64), (Tensor.NAME, name), (Tensor.RAW_DATA, data)
    )


def new_node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int | Sequence[int]) -> Message:
    """A node of an operator `kind`, with attributes that are integers or lists of them."""
    made = Message(*((Node.INPUT, name) for name in inputs), *((Node.OUTPUT, name) for name in outputs))
    made.add(Node.OP_TYPE, kind)
    for name, value in attributes.items():
        several = () if isinstance(value, int) else value
        attribute = Message((Attribute.NAME, name), *((Attribute.INTS, one) for one in several))
        if isinstance(value, int):
            attribute.add(Attribute.I, value)
        attribute.add(Attribute.TYPE, AttributeType.INT if isinstance(value, int) else AttributeType.INTS)
        made.add(Node.ATTRIBUTE, attribute)
    return made


def is_outside(tensor: Message) -> bool:
    """Whether a tensor's numbers lie in a side file."""
    return tensor.integer(Tensor.DATA_LOCATION) == DataLocation.EXTERNAL


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except Malformed as error:
        raise DamagedModel(path, "it is not an ONNX graph") from error


def _keep_nodes_for(graph: Message, output: str) -> Set[str]:
    """Drop the nodes that an output does not depend on; the names of the tensors that the others read."""
    needed = {output}
    kept: set[int] = set()
    for node in reversed(graph.messages(Graph.NODE)):  # an ONNX graph lists a node after those it reads from
        if not needed.isdisjoint(node.texts(Node.OUTPUT)):
            kept.add(id(node))
            needed.update(_read_by(node))
    graph.keep(Graph.NODE, lambda node: id(node) in kept)
    return needed


def _expose_features(graph: Message) -> None:
    """Add the numerator of the one output, if it is a quotient: MT Photos stores embeddings unnormalised."""
    (output,) = graph.messages(Graph.OUTPUT)
    name = output.text(Value.NAME)
    nodes = graph.messages(Graph.NODE)
    divisions = [n for n in nodes if n.text(Node.OP_TYPE) == "Div" and name in n.texts(Node.OUTPUT)]
    if not divisions:
        return
    graph.add(Graph.NODE, new_node("Identity", divisions[0].texts(Node.INPUT)[:1], [FEATURES]))
    features = Message.parse(bytes(output))
    features.remove(Value.NAME)
    features.add(Value.NAME, FEATURES)
    graph.add(Graph.OUTPUT, features)


def _with_weights(model: Message, path: Path) -> bytes:
    for tensor in graph_of(model).messages(Graph.INITIALIZER):
        if is_outside(tensor):
            _take_in(tensor, path)
    if model.size > _LARGEST:
        raise ValueError(f"{path} cannot be edited in memory: it has more than 2 GiB")
    return bytes(model)


def _take_in(tensor: Message, path: Path) -> None:
    """Put a tensor's numbers, which lie in a side file, where its place is told."""
    place = {entry.text(Entry.KEY): entry.text(Entry.VALUE) for entry in tensor.messages(Tensor.EXTERNAL_DATA)}
    location = PurePosixPath(place.get("location", ""))
    if location.is_absolute() or ".." in location.parts or not location.name:
        raise ValueError(f"{path} keeps weights in {str(location)!r}, which is not beside it")
    with (path.parent / location).open("rb") as file:
        file.seek(int(place.get("offset") or 0))
        length = int(place.get("length") or -1)
        data = file.read(length)
    if 0 <= length != len(data):
        raise ValueError(f"{path.parent / location} is shorter than {path} says")
    tensor.remove(Tensor.EXTERNAL_DATA)
    tensor.remove(Tensor.DATA_LOCATION)
    tensor.add(Tensor.RAW_DATA, data)


def _read_by(node: Message) -> Iterator[str]:
    """Names of the tensors a node reads, those inside its branches and loops included."""
    yield from node.texts(Node.INPUT)
    for attribute in node.messages(Node.ATTRIBUTE):
        for branch in (*attribute.messages(Attribute.G), *attribute.messages(Attribute.GRAPHS)):
            for inner in branch.messages(Graph.NODE):
                yield from _read_by(inner)
            yield from (value.text(Value.NAME) for value in branch.messages(Graph.OUTPUT))


def _ends(graph: Message) -> Iterator[Message]:
    """The graph's inputs and outputs, without the weights that old exporters list as inputs."""
    weights = {tensor.text(Tensor.NAME) for tensor in graph.messages(Graph.INITIALIZER)}
    yield from (value for value in graph.messages(Graph.INPUT) if value.text(Value.NAME) not in weights)
    yield from graph.messages(Graph.OUTPUT)


def _is_one(dimensions: Sequence[Message]) -> bool:
    return any(dimension.integer(Dimension.DIM_VALUE) == 1 for dimension in dimensions)


def _free_reshapes(graph: Message) -> None:
    constants = _constants(graph)
    batched = {value.text(Value.NAME) for value in graph.messages(Graph.INPUT)} - set(constants)
    for node in graph.messages(Graph.NODE):
        inputs = node.texts(Node.INPUT)
        if node.text(Node.OP_TYPE) in _SHAPE_READERS or batched.isdisjoint(inputs):
            continue
        batched.update(node.texts(Node.OUTPUT))
        if node.text(Node.OP_TYPE) != "Reshape" or inputs[1] not in constants:
            continue
        target = _values(constants[inputs[1]])
        if target and target[0] == 1:
            _reshape_to(graph, node, [0, *target[1:]])


def _constants(graph: Message) -> dict[str, Message]:
    constants = {tensor.text(Tensor.NAME): tensor for tensor in graph.messages(Graph.INITIALIZER)}
    for node in graph.messages(Graph.NODE):
        if node.text(Node.OP_TYPE) == "Constant":
            for attribute in node.messages(Node.ATTRIBUTE):
                if attribute.text(Attribute.NAME) == "value":
                    constants[node.texts(Node.OUTPUT)[0]] = attribute.messages(Attribute.T)[0]
    return constants


def _values(tensor: Message) -> list[int]:
    """The numbers of an int64 tensor."""
    raw = tensor.contents(Tensor.RAW_DATA)
    if not raw:
        return tensor.integers(Tensor.INT64_DATA)
    if len(raw[-1]) % 8:
        raise Malformed("integers that are cut short")
    return [int(value) for value in np.frombuffer(raw[-1], "<i8")]


def _reshape_to(graph: Message, node: Message, target: Sequence[int]) -> None:
    """Point a ``Reshape`` to a target shape of its own: the old one may serve other nodes too."""
    name = f"{node.texts(Node.OUTPUT)[0]}/{_BATCH}_shape"
    graph.add(Graph.INITIALIZER, integers(name, target))
    data = node.texts(Node.INPUT)[0]
    node.remove(Node.INPUT)
    node.add(Node.INPUT, data)
    node.add(Node.INPUT, name)
    # With `allowzero` a 0 would mean an empty axis and not "as in the input".
    node.keep(Node.ATTRIBUTE, lambda attribute: attribute.text(Attribute.NAME) != "allowzero")
