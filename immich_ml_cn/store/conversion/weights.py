"""Files of named tensors, whatever their format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.messages import tr

from .errors import CheckpointError

BFLOAT16: Final = "bfloat16"
"""NumPy has no such dtype: its 16 bits are the upper half of a float32."""

FLOATS: Final = frozenset({"float16", BFLOAT16, "float32", "float64"})

MOST_AXES: Final = 8
"""Of a tensor; the product of a million is a number of a million digits."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file says of one tensor.

    Attributes:
        dtype: NumPy's name of it, or ``bfloat16``.
    """

    shape: tuple[int, ...]
    dtype: str


class Weights(Protocol):
    """A file of named tensors, which are read one at a time."""

    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors, as the file has them."""
        ...

    def describe(self, name: str) -> Stored:
        """The shape and dtype of one tensor, without reading it."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """One tensor in its own dtype, bfloat16 as float32; it may be mapped from the file and is not to be written to.

        Raises:
            CheckpointError: its bytes are not in the file.
        """
        ...


def widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """The float32 numbers whose upper halves are these uint16."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def open_weights(path: Path) -> Weights:
    """Open a checkpoint by what is in it, whatever its name: PyTorch's zip or safetensors.

    Raises:
        CheckpointError: the file is neither, or is refused.
        OSError: it cannot be read.
    """
    from .safetensors_file import SafetensorsFile
    from .torch_file import TorchFile

    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"PK\x03\x04"):
        return TorchFile(path)
    if head[8:9] == b"{":
        return SafetensorsFile(path)
    if head.startswith((b"\x80\x02\x8a", b"\x80\x04\x95")):
        raise CheckpointError(
            tr("{path} is in PyTorch's format from before version 1.6: save it again with a newer one", path=path)
        )
    raise CheckpointError(tr("{path} is no checkpoint: neither PyTorch's zip nor safetensors", path=path))
