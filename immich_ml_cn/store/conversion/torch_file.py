"""PyTorch's checkpoints (since version 1.6): a zip with a pickle of names and shapes and a file for each storage."""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.messages import tr

from .errors import CheckpointError
from .pickled import MOST_BYTES, PickledTensor, RefusedPickle, Storage, read_pickle
from .weights import BFLOAT16, Stored, widened

_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
"""Of a zip's member: signature, length of its name, length of its extra field."""

_STATE_DICT: Final = "state_dict"


class TorchFile:
    """A checkpoint whose numbers are mapped, not read, one tensor at a time."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            CheckpointError: it is no such file, or holds anything but tensors.
            OSError: it cannot be read.
        """
        self.path = path
        try:
            with _CarefulFile(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
                self._read_index(archive, file)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error) as error:
            raise CheckpointError(tr("{path} is a damaged zip ({reason})", path=path, reason=error)) from error
        except RefusedPickle as error:
            raise CheckpointError(tr("{path} is refused: {reason}", path=path, reason=error)) from error

    def _read_index(self, archive: zipfile.ZipFile, file: "_CarefulFile") -> None:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise CheckpointError(tr("{path} is refused: two files in it have the same name", path=self.path))
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(
                tr("{path} is a zip, but not one that PyTorch writes: it has no data.pkl", path=self.path)
            )
        folder = pickles[0].removesuffix("data.pkl")
        self._refuse_big_endian(archive, members, folder)
        data = archive.read(self._plain(members[pickles[0]], MOST_BYTES))
        self._tensors = _tensors(read_pickle(data), self.path)
        storages = {tensor.storage for tensor in self._tensors.values()}
        self._offsets = {item.key: self._locate(file, members, f"{folder}data/{item.key}", item) for item in storages}

    def _refuse_big_endian(self, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], folder: str) -> None:
        info = members.get(f"{folder}byteorder")
        if info is not None and archive.read(self._plain(info, 16)) != b"little":
            raise CheckpointError(tr("{path} was written on a big-endian machine", path=self.path))

    def _plain(self, info: zipfile.ZipInfo, most: int | None = None) -> zipfile.ZipInfo:
        """The member, if it is neither packed nor larger than it may be: PyTorch packs nothing, a zip bomb does."""
        name = info.filename[:100]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise CheckpointError(
                tr("{path} is refused: {name!r} in it is compressed or encrypted", path=self.path, name=name)
            )
        if most is not None and info.file_size > most:
            raise CheckpointError(
                tr(
                    "{path} is refused: {name!r} in it has {count:,} bytes",
                    path=self.path,
                    name=name,
                    count=info.file_size,
                )
            )
        return info

    def _locate(self, file: "_CarefulFile", members: Mapping[str, zipfile.ZipInfo], name: str, storage: Storage) -> int:
        """Where a storage begins in the file."""
        if name not in members:
            raise CheckpointError(
                tr("{path} is refused: it lacks the numbers of {name!r}", path=self.path, name=name[:100])
            )
        info = self._plain(members[name])
        size = storage.count * _itemsize(storage.dtype)
        if info.file_size != size:
            raise CheckpointError(
                tr(
                    "{path} is refused: {name!r} has {count:,} bytes, its tensor says {expected:,}",
                    path=self.path,
                    name=name[:100],
                    count=info.file_size,
                    expected=size,
                )
            )
        file.seek(info.header_offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        offset = info.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)
        if signature != b"PK\x03\x04" or offset + size > file.seek(0, io.SEEK_END):
            raise CheckpointError(
                tr("{path} is refused: {name!r} does not lie where the zip says", path=self.path, name=name[:100])
            )
        return offset

    @property
    def names(self) -> tuple[str, ...]:
        """See `Weights.names`."""
        return tuple(self._tensors)

    def describe(self, name: str) -> Stored:
        """See `Weights.describe`."""
        tensor = self._tensors[name]
        return Stored(tensor.shape, tensor.storage.dtype)

    def read(self, name: str) -> NDArray[Any]:
        """See `Weights.read`."""
        tensor = self._tensors[name]
        storage = tensor.storage
        dtype = np.dtype(np.uint16 if storage.dtype == BFLOAT16 else storage.dtype)
        if math.prod(tensor.shape) == 0:
            return np.zeros(tensor.shape, dtype)
        try:
            numbers = np.memmap(self.path, dtype, "r", self._offsets[storage.key], (storage.count,))
            strides = [stride * dtype.itemsize for stride in tensor.strides]
            view: NDArray[Any] = np.ndarray(tensor.shape, dtype, numbers, tensor.offset * dtype.itemsize, strides)
        except (ValueError, TypeError, OverflowError) as error:
            raise CheckpointError(
                tr("{path} is refused: {name!r} reaches beyond its numbers", path=self.path, name=name[:100])
            ) from error
        return widened(view) if storage.dtype == BFLOAT16 else view


class _CarefulFile(io.BufferedReader):
    """Refuses to read much at once: a directory that claims to be huge would be read into memory whole. Refuses to seek
    where no file can have anything."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(MOST_BYTES + 1 if size is None or size < 0 else min(size, MOST_BYTES + 1))
        if len(data) > MOST_BYTES:
            raise zipfile.BadZipFile("its directory is larger than any checkpoint's")
        return data

    def seek(self, target: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(target, whence)
        except (OSError, ValueError) as error:
            raise zipfile.BadZipFile("it points outside of itself") from error


def _tensors(content: object, path: Path) -> dict[str, PickledTensor]:
    """The tensors of a state dict, or of a training checkpoint that has one."""
    if isinstance(content, dict) and isinstance(content.get(_STATE_DICT), dict):
        content = content[_STATE_DICT]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(tr("{path} holds no dictionary of tensors", path=path))
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, PickledTensor):
            raise CheckpointError(
                tr("{path} holds {name:.100} among its weights, which is no tensor", path=path, name=repr(name))
            )
    return dict(content)


def _itemsize(dtype: str) -> int:
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize
