"""Writing an ONNX file weight by weight: a graph of 2.5 GB needs the memory of its largest weight.

The onnx package builds a message whole before it writes it, and copies it then. But a protobuf message is a sequence of
fields with their lengths before them, so everything up to the weights is serialised by the package and the weights
follow, one field each: in the file itself, or, where protobuf could not read it any more, in a second one.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from .graph import GraphBuilder, Initializer, Value

OPSET: Final = 17
IR_VERSION: Final = 8
"""Of opset 17."""

PROTOBUF_LIMIT: Final = 2_000_000_000
"""Bytes of weights up to which they lie in the graph's own file: protobuf cannot read 2 GiB."""

ALIGNMENT: Final = 4096
"""Of weights outside, so that engines can map them."""

_SMALLEST_OUTSIDE: Final = 1024
_GRAPH_FIELD: Final = 7
_INITIALIZER_FIELD: Final = 5
_RAW_DATA_FIELD: Final = 9
_DELIMITED: Final = 2


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written.

    Attributes:
        offsets: where the numbers of each weight begin in it.
    """

    path: Path
    size: int
    sha256: str
    offsets: Mapping[str, int]


def data_file(graph: Path) -> Path:
    """Where the weights of a graph lie that are not in its own file."""
    return graph.with_name(f"{graph.name}.data")


def write_onnx(
    builder: GraphBuilder,
    path: Path,
    advance: Callable[[int], None] = lambda _: None,
    *,
    limit: int = PROTOBUF_LIMIT,
) -> tuple[Written, ...]:
    """Write a graph; its weights go to ``<name>.data`` beside it where they have more than `limit` bytes.

    Args:
        path: of the graph; its folder exists.
        advance: called with the bytes of each weight that was written.

    Returns:
        What was written, the weights' file first.

    Raises:
        CheckpointError: a weight cannot be computed.
        OSError: the disk refuses.
    """
    outside = builder.size > limit
    placed = _place(builder, data_file(path).name if outside else None)
    files = [_write_data(data_file(path), placed, advance)] if outside else []
    return (*files, _write_graph(path, builder, placed, advance))


def write_half(half: GraphBuilder, path: Path, whole: Sequence[Written]) -> None:
    """Write a half of a graph, to run it: its weights stay in the graph's own files, in the same folder."""
    places = {name: (file.path.name, offset) for file in whole for name, offset in file.offsets.items()}
    placed = [
        _outside(initializer, *places[initializer.name]) if _is_large(initializer) else _inside(initializer)
        for initializer in half.initializers
    ]
    _write_graph(path, half, placed, lambda _: None)


def _write_data(path: Path, placed: "Sequence[_Placed]", advance: Callable[[int], None]) -> Written:
    with _Output(path) as output:
        for weight in placed:
            if weight.offset is not None:
                output.pad(weight.offset)
                output.write_weight(weight.initializer)
                advance(weight.initializer.size)
    return output.written


def _write_graph(
    path: Path, builder: GraphBuilder, placed: "Sequence[_Placed]", advance: Callable[[int], None]
) -> Written:
    with _Output(path) as output:
        head, graph = _skeleton(builder)
        output.write(head)
        output.write(_delimited(_GRAPH_FIELD, len(graph) + sum(weight.field_size for weight in placed)))
        output.write(graph)
        for weight in placed:
            output.write(weight.head)
            if weight.offset is None:
                output.write_weight(weight.initializer)
                advance(weight.initializer.size)
    return output.written


@dataclass(frozen=True, slots=True)
class _Placed:
    """A weight and what stands before its numbers in the graph's file.

    Attributes:
        offset: in the file beside the graph; None where its numbers follow `head`.
    """

    initializer: Initializer
    head: bytes
    offset: int | None

    @property
    def field_size(self) -> int:
        """Bytes of the graph's file that it takes."""
        return len(self.head) + (self.initializer.size if self.offset is None else 0)


def _place(builder: GraphBuilder, outside: str | None) -> list[_Placed]:
    """Decide where every weight lies; `outside` is the name of the second file."""
    placed, end = [], 0
    for initializer in builder.initializers:
        if outside is not None and _is_large(initializer):
            offset = -(-end // ALIGNMENT) * ALIGNMENT
            end = offset + initializer.size
            placed.append(_outside(initializer, outside, offset))
        else:
            placed.append(_inside(initializer))
    return placed


def _is_large(initializer: Initializer) -> bool:
    """Not so for shapes and axes, which engines want to know as they read the graph."""
    return initializer.size >= _SMALLEST_OUTSIDE


def _inside(initializer: Initializer) -> _Placed:
    tensor = _tensor(initializer) + _delimited(_RAW_DATA_FIELD, initializer.size)
    return _Placed(initializer, _delimited(_INITIALIZER_FIELD, len(tensor) + initializer.size) + tensor, None)


def _outside(initializer: Initializer, file: str, offset: int) -> _Placed:
    tensor = _tensor(initializer, {"location": file, "offset": offset, "length": initializer.size})
    return _Placed(initializer, _delimited(_INITIALIZER_FIELD, len(tensor)) + tensor, offset)


def _tensor(initializer: Initializer, outside: dict[str, object] | None = None) -> bytes:
    """A serialised TensorProto without its numbers."""
    from onnx import TensorProto, helper

    tensor = TensorProto(
        name=initializer.name,
        dims=initializer.shape,
        data_type=helper.np_dtype_to_tensor_dtype(initializer.dtype),
    )
    if outside is not None:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in outside.items():
            tensor.external_data.add(key=key, value=str(value))
    serialised: bytes = tensor.SerializeToString()
    return serialised


def _skeleton(builder: GraphBuilder) -> tuple[bytes, bytes]:
    """The model without its graph, and the graph without its weights, serialised."""
    from onnx import helper

    graph = helper.make_graph(builder.nodes, "tower", _infos(builder.inputs), _infos(builder.outputs))
    model = helper.make_model(
        helper.make_graph([], "", [], []),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="immich-ml-cn",
    )
    model.ClearField("graph")
    return model.SerializeToString(), graph.SerializeToString()


def _infos(values: list[Value]) -> list[Any]:
    from onnx import helper

    return [
        helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for value in values
    ]


def _delimited(field: int, length: int) -> bytes:
    """What stands before a field of so many bytes: its number and its length."""
    return bytes(_varint(field << 3 | _DELIMITED)) + bytes(_varint(length))


def _varint(number: int) -> Iterator[int]:
    """A number in groups of seven bits, the lowest first."""
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


def _bytes(initializer: Initializer) -> memoryview:
    """The numbers of a weight, little-endian."""
    values = np.asarray(initializer.load(), order="C")
    if values.shape != initializer.shape or values.dtype != initializer.dtype:
        raise AssertionError(f"{initializer.name} is {values.dtype} {values.shape}")
    return values.astype(values.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data


class _Output:
    """A file that is written once from its beginning, and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._size = 0
        self._offsets: dict[str, int] = {}

    def __enter__(self) -> "_Output":
        self._file: IO[bytes] = self._path.open("wb", buffering=0)
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            os.fsync(self._file.fileno())

    @property
    def written(self) -> Written:
        return Written(self._path, self._size, self._hash.hexdigest(), self._offsets)

    def pad(self, offset: int) -> None:
        """Write zeros up to an offset."""
        self.write(bytes(offset - self._size))

    def write_weight(self, initializer: Initializer) -> None:
        """Write the numbers of a weight."""
        self._offsets[initializer.name] = self._size
        self.write(_bytes(initializer))

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        self._hash.update(rest)
        self._size += len(rest)
        while rest:
            rest = rest[self._file.write(rest) :]
