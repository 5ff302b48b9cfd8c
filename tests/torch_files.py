"""PyTorch's checkpoint files written without PyTorch, well and badly."""

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage"}


@dataclass(frozen=True)
class Raw:
    """Instructions that leave one value on the pickle's stack."""

    code: bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor as a checkpoint describes it.

    Attributes:
        count: numbers of its storage.
        strides: by default of a contiguous one.
    """

    key: str
    shape: tuple[int, ...]
    count: int
    dtype: str = "float32"
    offset: int = 0
    strides: tuple[int, ...] | None = None


def name(module: str, attribute: str) -> Raw:
    """A class or function, by its name."""
    return Raw(f"c{module}\n{attribute}\n".encode())


def call(function: object, *arguments: object) -> Raw:
    """A call of what is on the stack: the pickle's REDUCE."""
    return Raw(encoded(function) + encoded(arguments) + b"R")


def pickled(value: object) -> bytes:
    """A whole pickle of protocol 2."""
    return b"\x80\x02" + encoded(value) + b"."


def encoded(value: object) -> bytes:
    """The instructions that build a value."""
    match value:
        case Raw(code):
            return code
        case Tensor():
            return encoded(_rebuild(value))
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + b"".join(map(encoded, value)) + b"t"
        case dict():
            return b"}(" + b"".join(encoded(item) for pair in value.items() for item in pair) + b"u"
    raise TypeError(value)


def _rebuild(tensor: Tensor) -> Raw:
    strides = contiguous(tensor.shape) if tensor.strides is None else tensor.strides
    kind = name("torch", STORAGES[tensor.dtype])
    storage = Raw(encoded(("storage", kind, tensor.key, "cpu", tensor.count)) + b"Q")
    hooks = call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), storage, tensor.offset, tensor.shape, strides, False, hooks)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose numbers lie one after the other, in numbers."""
    return tuple(int(np.prod(shape[axis + 1 :], dtype=int)) for axis in range(len(shape)))


def write_file(
    path: Path, content: object, storages: Mapping[str, bytes] = {}, *, packed: bool = False, folder: str = "archive"
) -> Path:
    """A zip as PyTorch writes it, with any content.

    Args:
        packed: compressed, which PyTorch never does.
    """
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{folder}/data.pkl", content if isinstance(content, bytes) else pickled(content))
        for key, data in storages.items():
            archive.writestr(f"{folder}/data/{key}", data)
        archive.writestr(f"{folder}/version", b"3\n")
    return path


def write_checkpoint(path: Path, tensors: Mapping[str, NDArray[Any]]) -> Path:
    """A checkpoint in the official format: a dictionary with the state dict, its names prefixed."""
    described = {
        f"module.{key}": Tensor(str(index), array.shape, array.size, str(array.dtype))
        for index, (key, array) in enumerate(tensors.items())
    }
    storages = {str(index): array.tobytes() for index, array in enumerate(tensors.values())}
    return write_file(path, {"epoch": 1, "state_dict": described}, storages)


def in_memory(content: object) -> bytes:
    """A whole file as bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(content))
    return buffer.getvalue()
