"""Safetensors: eight bytes of length, a JSON object of names, dtypes, shapes and offsets, then the numbers.

https://github.com/huggingface/safetensors#format. Read here and not by its library, which copies what it reads and
leaves bfloat16 to others: the numbers are mapped as those of PyTorch's files are.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.messages import tr

from .errors import CheckpointError
from .weights import BFLOAT16, MOST_AXES, Stored, widened

MOST_HEADER_BYTES: Final = 1 << 20

_DTYPES: Final[Mapping[str, str]] = {
    "BF16": BFLOAT16,
    "BOOL": "bool",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
}


class SafetensorsFile:
    """A file of tensors that are mapped one at a time."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            CheckpointError: the header is none, or tells of bytes that the file does not have.
            OSError: it cannot be read.
        """
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, MOST_HEADER_BYTES):
                raise CheckpointError(
                    tr("{path} is refused: its header of {length:,} bytes cannot be right", path=path, length=length)
                )
            header = _json(path, file.read(length))
        self._begin = 8 + length
        self._tensors: dict[str, tuple[Stored, int]] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                self._tensors[name] = self._entry(name, entry, size - self._begin)
        if not self._tensors:
            raise CheckpointError(tr("{path} holds no tensors", path=path))
        self._require_one_after_the_other(size - self._begin)

    def _require_one_after_the_other(self, available: int) -> None:
        """As the format has it: neither gaps nor numbers of two tensors."""
        end = 0
        ranges = sorted((begin, begin + _size(stored), name) for name, (stored, begin) in self._tensors.items())
        for begin, after, name in ranges:
            if begin != end:
                raise CheckpointError(
                    tr("{path} is refused: {name!r} does not begin where another ends", path=self.path, name=name[:100])
                )
            end = after
        if end != available:
            raise CheckpointError(
                tr(
                    "{path} is refused: {count:,} bytes in it belong to no tensor",
                    path=self.path,
                    count=available - end,
                )
            )

    def _entry(self, name: str, entry: Any, available: int) -> tuple[Stored, int]:
        """What the header says of a tensor, and where it begins among the numbers."""
        try:
            dtype = _DTYPES[entry["dtype"]]
            shape = tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            counts = (*shape, begin, end)
            whole = all(type(count) is int and 0 <= count < 1 << 62 for count in counts)
            if whole and len(shape) <= MOST_AXES and end <= available:
                stored = Stored(shape, dtype)
                if end - begin == _size(stored):
                    return stored, begin
        except (KeyError, TypeError, ValueError):
            pass
        raise CheckpointError(
            tr("{path} is refused: what its header says of {name!r} cannot be right", path=self.path, name=name[:100])
        )

    @property
    def names(self) -> tuple[str, ...]:
        """See `Weights.names`."""
        return tuple(self._tensors)

    def describe(self, name: str) -> Stored:
        """See `Weights.describe`."""
        return self._tensors[name][0]

    def read(self, name: str) -> NDArray[Any]:
        """See `Weights.read`."""
        stored, begin = self._tensors[name]
        dtype = _numpy(stored.dtype)
        if math.prod(stored.shape) == 0:
            return np.zeros(stored.shape, dtype)
        try:
            numbers: NDArray[Any] = np.memmap(self.path, dtype, "r", self._begin + begin, stored.shape or (1,))
        except ValueError as error:
            raise CheckpointError(tr("{path} is shorter than it was", path=self.path)) from error
        numbers = numbers.reshape(stored.shape)
        return widened(numbers) if stored.dtype == BFLOAT16 else numbers


def _json(path: Path, header: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(tr("{path} is refused: its header is no JSON", path=path)) from error
    if not isinstance(found, dict):
        raise CheckpointError(tr("{path} is refused: its header is no JSON object", path=path))
    return found


def _size(stored: Stored) -> int:
    """In bytes."""
    return math.prod(stored.shape) * _numpy(stored.dtype).itemsize


def _numpy(dtype: str) -> np.dtype[Any]:
    return np.dtype(np.uint16 if dtype == BFLOAT16 else dtype)
