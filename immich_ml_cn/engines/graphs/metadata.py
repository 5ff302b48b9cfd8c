"""The custom metadata of an ONNX file, read without its graph: OpenVINO drops what ONNX Runtime hands out.

An ONNX file is a protobuf message of a few fields. The graph, which holds the weights, is skipped by its length.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_METADATA_FIELD: Final = 14
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_LONGEST: Final = 1 << 24
"""Bytes of an entry above which it is no metadata of ours; alphabets have 100,000."""


def read_metadata(graph: Path | bytes) -> dict[str, str]:
    """The metadata of a graph: key → text.

    Raises:
        ValueError: what was given is no ONNX graph, or is cut short.
        OSError: the file cannot be read.
    """
    if isinstance(graph, bytes):
        return _read(io.BytesIO(graph))
    with graph.open("rb") as file:
        return _read(file)


def _read(file: BinaryIO) -> dict[str, str]:
    entries = [dict(_fields(io.BytesIO(entry), None)) for _, entry in _fields(file, _METADATA_FIELD)]
    return {entry.get(1, b"").decode(): entry.get(2, b"").decode() for entry in entries}


def _fields(file: BinaryIO, wanted: int | None) -> Iterator[tuple[int, bytes]]:
    """Number and content of a message's fields that have a length; of all those, or only of the number wanted."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    while file.tell() < size:
        number, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            _varint(file)
            continue
        if kind not in (_LENGTH, _EIGHT_BYTES, _FOUR_BYTES) or number == 0:
            raise ValueError("not an ONNX graph")
        length = _varint(file) if kind == _LENGTH else 8 if kind == _EIGHT_BYTES else 4
        if length > size - file.tell():
            raise ValueError("an ONNX graph that is cut short")
        if kind == _LENGTH and wanted in (None, number) and length <= _LONGEST:
            yield number, file.read(length)
        else:
            file.seek(length, io.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("an ONNX graph that is cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("not an ONNX graph")
