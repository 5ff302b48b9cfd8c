"""Edits of ONNX graphs, in memory: the file on disk is only ever read.

`onnx` is imported on first use. `edit_process` calls these in a child process for large graphs.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .model_files import constants_of, ends_of, load_model, note, serialised

FEATURES = "features"
"""Name of the output with a CLIP tower's embedding before its normalisation."""

BEST_INDEX = "best_index"
BEST_PROBABILITY = "best_probability"

NORMALISES_INPUT = "immich-ml-cn.normalises-input"
"""Key of an edited graph's metadata: see `GraphFacts`, ``True`` or ``False``."""

CLASSES = "immich-ml-cn.classes"
"""Key of an edited graph's metadata: how many classes it tells apart, if the file says so."""

_BATCH = "batch"
# These read a tensor's shape, not its values: what they give carries no batch axis.
_SHAPE_READERS = frozenset({"Shape", "Size"})


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
    graph = load_model(path, weights=False).graph
    fixed_batch = any(_leading_dimension(value) == 1 for value in ends_of(graph))
    return GraphFacts(fixed_batch, _normalises_input(graph))


def with_batch_axis(path: Path) -> bytes:
    """Give a graph exported for batches of one a batch axis of any size.

    The leading dimension of every input and output becomes ``batch``, recorded shapes of inner tensors are dropped, and
    a ``Reshape`` of a batched tensor to a constant shape ``[1, …]`` keeps its input's leading dimension instead. That
    is all a convolutional graph needs; whether it was enough for this one, only a run can tell: compare a batch with
    its items one by one before relying on it.

    Args:
        path: the graph; it may keep its weights in side files. It is not written to.

    Returns:
        The edited graph, weights included; its metadata has `NORMALISES_INPUT`.

    Raises:
        DamagedModel: the file is no ONNX graph.
        ValueError: with its weights it is too large for one buffer (2 GiB).
        OSError: it cannot be read.
    """
    model = load_model(path, weights=True)
    graph = model.graph
    for value in ends_of(graph):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions:
            dimensions[0].dim_param = _BATCH
    del graph.value_info[:]
    _free_reshapes(graph)
    note(model, NORMALISES_INPUT, _normalises_input(graph))
    return serialised(model, path)


def outputs_of(path: Path) -> tuple[str, ...]:
    """Names of a graph's outputs.

    Raises:
        DamagedModel: the file is no ONNX graph.
        OSError: it cannot be read.
    """
    return tuple(value.name for value in load_model(path, weights=False).graph.output)


def part_for(path: Path, output: str) -> bytes:
    """The part of a graph that computes one of its outputs, weights included.

    Takes memory for twice the file and for the part.

    Args:
        path: the graph; it may keep its weights in side files. It is not written to.

    Returns:
        A graph with that output and the inputs that it depends on. Where the output is a quotient, as a normalised
        embedding is, its numerator becomes a second output, ``features``.

    Raises:
        DamagedModel: the file is no ONNX graph.
        ValueError: there is no such output, or the part is too large for one buffer (2 GiB).
        OSError: it cannot be read.
    """
    model = load_model(path, weights=True)
    graph = model.graph
    if output not in {value.name for value in graph.output}:
        raise ValueError(f"{path} has no output {output!r}")
    needed = {output}
    for index in reversed(range(len(graph.node))):  # an ONNX graph lists a node after those it reads from
        node = graph.node[index]
        if needed.isdisjoint(node.output):
            del graph.node[index]
        else:
            needed.update(_read_by(node))
    for values in (graph.input, graph.initializer):
        _keep(values, needed)
    _keep(graph.output, {output})
    _expose_features(graph)
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    return serialised(model, path)


def with_best_path(path: Path) -> bytes:
    """A CTC recogniser that answers its best path instead of every probability.

    Its one output, float32 [N, T, C], is replaced by `BEST_INDEX`, int64 [N, T, 2], the likeliest class of each time
    step and the next likely, and `BEST_PROBABILITY`, float32 [N, T, 2], so that C (18,710 for PP-OCRv6) floats per time
    step never leave the engine.

    Returns:
        The edited graph; its metadata has `CLASSES`, if the file says how many they are.

    Raises:
        DamagedModel: the file is no ONNX graph.
        ValueError: the graph is of another form, or its weights lie outside the file.
        OSError: it cannot be read.
    """
    from onnx import TensorProto, helper

    model = load_model(path, weights=False)
    graph = model.graph
    if any(weight.data_location == TensorProto.EXTERNAL for weight in graph.initializer):
        raise ValueError(f"{path} has weights outside")
    dims = [value.type.tensor_type.shape.dim for value in graph.output]
    if [len(sizes) for sizes in dims] != [3]:
        raise ValueError(f"{path} has other outputs than one [N, T, C]")
    output, dims = graph.output[0], dims[0]
    count = "best_path_count"
    graph.initializer.append(helper.make_tensor(count, TensorProto.INT64, [1], [2]))
    graph.node.append(helper.make_node("TopK", [output.name, count], [BEST_PROBABILITY, BEST_INDEX], axis=2))
    shape = [*(dim.dim_param or dim.dim_value or None for dim in dims[:2]), 2]
    if dims[2].dim_value:
        note(model, CLASSES, dims[2].dim_value)
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info(BEST_INDEX, TensorProto.INT64, shape),
            helper.make_tensor_value_info(BEST_PROBABILITY, TensorProto.FLOAT, shape),
        ]
    )
    return serialised(model, path)


def _expose_features(graph: Any) -> None:
    """Add the numerator of the one output, if it is a quotient: MT Photos stores embeddings unnormalised."""
    from onnx import helper

    output = graph.output[0]
    divisions = [node for node in graph.node if node.op_type == "Div" and output.name in node.output]
    if not divisions:
        return
    graph.node.append(helper.make_node("Identity", [divisions[0].input[0]], [FEATURES]))
    features = graph.output.add()
    features.CopyFrom(output)
    features.name = FEATURES


def _normalises_input(graph: Any) -> bool:
    names = [node.name for node in graph.node[:8]]
    return any(name.startswith(("Sub", "_minus")) for name in names) and any(
        name.startswith(("Mul", "_mul")) for name in names
    )


def _read_by(node: Any) -> Iterator[str]:
    """Names of the tensors a node reads, those inside its branches and loops included."""
    yield from node.input
    for attribute in node.attribute:
        for branch in (attribute.g, *attribute.graphs):
            for inner in branch.node:
                yield from _read_by(inner)
            yield from (value.name for value in branch.output)


def _keep(values: Any, names: Set[str]) -> None:
    for index in reversed(range(len(values))):
        if values[index].name not in names:
            del values[index]


def _leading_dimension(value: Any) -> int | None:
    dimensions = value.type.tensor_type.shape.dim
    return dimensions[0].dim_value if dimensions and dimensions[0].HasField("dim_value") else None


def _free_reshapes(graph: Any) -> None:
    from onnx import numpy_helper

    constants = constants_of(graph)
    batched = {value.name for value in graph.input} - set(constants)
    for node in graph.node:
        if node.op_type in _SHAPE_READERS or batched.isdisjoint(node.input):
            continue
        batched.update(node.output)
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if target and target[0] == 1:
            _reshape_to(graph, node, [0, *target[1:]])


def _reshape_to(graph: Any, node: Any, target: Sequence[int]) -> None:
    """Point a ``Reshape`` to a target shape of its own: the old one may serve other nodes too."""
    import numpy as np
    from onnx import numpy_helper

    name = f"{node.output[0]}/{_BATCH}_shape"
    graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
    node.input[1] = name
    # With `allowzero` a 0 would mean an empty axis and not "as in the input".
    kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
    del node.attribute[:]
    node.attribute.extend(kept)
