"""ONNX files as models in memory, to be edited. `onnx` is imported on first use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from immich_ml_cn.errors import DamagedModel


def load_model(path: Path, *, weights: bool) -> Any:
    """Read a graph, an ``onnx.ModelProto``; with the weights beside its file or without.

    Raises:
        DamagedModel: the file is no ONNX graph.
        OSError: it cannot be read.
    """
    import onnx

    # Opened here, so that a file that cannot be read stays an OSError and all else means a file that is no graph.
    with path.open("rb") as file:
        try:
            model = onnx.load(file, load_external_data=False)
        except Exception as error:  # protobuf's DecodeError, whose home depends on its version
            raise DamagedModel(path, "it is not an ONNX graph") from error
    if not model.graph.node:
        raise DamagedModel(path, "it is not an ONNX graph")
    if weights:
        onnx.load_external_data_for_model(model, str(path.parent))
    return model


def serialised(model: Any, path: Path) -> bytes:
    """A graph as bytes.

    Args:
        path: of the file it was read from, for the error.

    Raises:
        ValueError: it is too large for one buffer (2 GiB).
    """
    try:
        edited: bytes = model.SerializeToString()
    except Exception as error:  # protobuf's EncodeError, ValueError or MemoryError, by version
        raise ValueError(f"{path} cannot be edited in memory: {error}") from error
    return edited


def note(model: Any, key: str, value: object) -> None:
    """Add to a graph's metadata."""
    entry = model.metadata_props.add()
    entry.key, entry.value = key, str(value)


def constants_of(graph: Any) -> dict[str, Any]:
    """Name → tensor of what is stored in a graph: its weights, and the outputs of ``Constant`` nodes."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
    return constants


def ends_of(graph: Any) -> Iterator[Any]:
    """The graph's inputs and outputs, without the weights that old exporters list as inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    yield from (value for value in graph.input if value.name not in weights)
    yield from graph.output
