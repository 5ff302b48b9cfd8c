"""The custom metadata of an ONNX file, read without its graph: OpenVINO drops what ONNX Runtime hands out.

An ONNX file is a protobuf message of a few fields. The graph, which holds the weights, is skipped by its length.
"""

import io
from collections.abc import Container, Iterator
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
    end = file.seek(0, io.SEEK_END)
    entries = [_entry(data) for _, data in fields(file, (_METADATA_FIELD,), 0, end)]
    return {entry.get(1, b"").decode(): entry.get(2, b"").decode() for entry in entries}


def _entry(data: bytes) -> dict[int, bytes]:
    return dict(fields(io.BytesIO(data), (1, 2), 0, len(data)))


def fields(file: BinaryIO, wanted: Container[int], start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Number and content of a message's fields of these numbers that have a length, up to 16 MB.

    Args:
        start, end: where the message is in the file.

    Raises:
        ValueError: it is no message, or is cut short.
    """
    for number, place, size in spans(file, start, end):
        if number in wanted and size <= _LONGEST:
            file.seek(place)
            yield number, file.read(size)


def spans(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, place and size of a message's fields that have a length; see `fields`."""
    place = start
    while place < end:
        file.seek(place)
        number, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            _varint(file)
            place = file.tell()
            continue
        if kind not in (_LENGTH, _EIGHT_BYTES, _FOUR_BYTES) or number == 0:
            raise ValueError("not an ONNX graph")
        size = _varint(file) if kind == _LENGTH else 8 if kind == _EIGHT_BYTES else 4
        found = file.tell()
        if size > end - found:
            raise ValueError("an ONNX graph that is cut short")
        place = found + size
        if kind == _LENGTH:
            yield number, found, size


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
