"""PyTorch's checkpoint files: one tensor at a time, and nothing of a file that is not quite one."""

import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chinese_clips import GOLDEN, SMALL
from numpy.typing import NDArray
from torch_files import Tensor, call, in_memory, name, pickled, write_checkpoint, write_file

from immich_ml_cn.store.conversion.errors import CheckpointError
from immich_ml_cn.store.conversion.torch_file import TorchFile
from immich_ml_cn.store.conversion.weights import Stored, open_weights

NUMBERS = np.arange(6, dtype=np.float32)


def one(path: Path, tensor: Tensor, storages: dict[str, bytes] | None = None, *, packed: bool = False) -> Path:
    """A checkpoint with one tensor, whose numbers are `NUMBERS`."""
    return write_file(path, {"t": tensor}, {"0": NUMBERS.tobytes()} if storages is None else storages, packed=packed)


def test_pytorch_s_own_files() -> None:
    for model in SMALL:
        file = open_weights(GOLDEN / f"{model}.pt")
        assert "module.logit_scale" in file.names
        for tensor in file.names:
            assert file.read(tensor).shape == file.describe(tensor).shape


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {
        "matrix": random.standard_normal((3, 5), np.float32),
        "half": random.standard_normal(7).astype(np.float16),
        "number": np.array(4, np.int64),
    }
    file = TorchFile(write_checkpoint(tmp_path / "a.pt", tensors))

    assert file.names == ("module.matrix", "module.half", "module.number")
    for key, array in tensors.items():
        assert file.describe(f"module.{key}") == Stored(array.shape, str(array.dtype))
        np.testing.assert_array_equal(file.read(f"module.{key}"), array)
    assert not file.read("module.matrix").flags.writeable


def test_a_tensor_may_be_a_view_of_its_numbers(tmp_path: Path) -> None:
    transposed = one(tmp_path / "a.pt", Tensor("0", (3, 2), 6, strides=(1, 3)))
    part = one(tmp_path / "b.pt", Tensor("0", (2,), 6, offset=3))
    empty = one(tmp_path / "c.pt", Tensor("0", (0, 3), 0), {"0": b""})

    np.testing.assert_array_equal(TorchFile(transposed).read("t"), NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(TorchFile(part).read("t"), [3, 4])
    assert TorchFile(empty).read("t").shape == (0, 3)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    halves = (np.array([1.5, -2.0, 3.0e38], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    file = TorchFile(one(tmp_path / "a.pt", Tensor("0", (3,), 3, "bfloat16"), {"0": halves.tobytes()}))

    np.testing.assert_allclose(file.read("t"), [1.5, -2.0, 3.0e38], rtol=1e-2)
    assert file.describe("t") == Stored((3,), "bfloat16")


REFUSED = {
    "a tensor beyond its numbers": (Tensor("0", (2, 3), 6, offset=1), "reaches beyond its numbers"),
    "strides beyond its numbers": (Tensor("0", (2, 3), 6, strides=(100, 1)), "reaches beyond its numbers"),
    "a huge tensor of few numbers": (Tensor("0", (1 << 30, 1 << 30), 6), "reaches beyond its numbers"),
    "numbers that are not there": (Tensor("1", (6,), 6), "lacks the numbers"),
    "numbers outside the archive": (Tensor("../../etc/passwd", (6,), 6), "lacks the numbers"),
    "more numbers than the file has": (Tensor("0", (1 << 20,), 1 << 20), "its tensor says 4,194,304"),
    "fewer numbers than the file has": (Tensor("0", (2,), 2), "its tensor says 8"),
}


def test_every_tensor_s_numbers_are_looked_at(tmp_path: Path) -> None:
    """Of two that lie in one file, the first lies about it: what follows in the zip would be taken for numbers."""
    tensors = {"liar": Tensor("0", (300,), 300), "t": Tensor("0", (6,), 6)}
    path = write_file(tmp_path / "a.pt", tensors, {"0": NUMBERS.tobytes(), "1": bytes(5000)})

    with pytest.raises(CheckpointError, match="has 24 bytes, its tensor says 1,200"):
        TorchFile(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("twice", ["archive/data/0", "archive/data.pkl"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, twice: str) -> None:
    path = one(tmp_path / "a.pt", Tensor("0", (6,), 6))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(twice, bytes(24))

    with pytest.raises(CheckpointError, match="two files in it have the same name"):
        TorchFile(path)


def _entry(data: bytearray, member: str) -> int:
    """Where the zip's directory tells of a member."""
    return data.rfind(b"PK\x01\x02", 0, data.rfind(member.encode()))


def test_a_place_that_no_file_has_is_refused(tmp_path: Path) -> None:
    """As zip64 says it: 2 ** 64 - 1."""
    data = bytearray(one(tmp_path / "a.pt", Tensor("0", (6,), 6)).read_bytes())
    entry = _entry(data, "archive/data/0")
    end, extra = data.rfind(b"PK\x05\x06"), struct.pack("<HHQ", 1, 8, (1 << 64) - 1)
    struct.pack_into("<I", data, end + 12, struct.unpack_from("<I", data, end + 12)[0] + len(extra))
    struct.pack_into("<H", data, entry + 30, len(extra))
    struct.pack_into("<I", data, entry + 42, 0xFFFFFFFF)
    names = entry + 46 + len("archive/data/0")
    data[names:names] = extra
    path = tmp_path / "b.pt"
    path.write_bytes(data)

    with pytest.raises(CheckpointError, match="points outside of itself"):
        TorchFile(path)


def test_a_place_before_the_file_is_refused(tmp_path: Path) -> None:
    path = one(tmp_path / "a.pt", Tensor("0", (6,), 6))
    data = bytearray(path.read_bytes())
    directory = data.rfind(b"PK\x05\x06") + 16
    struct.pack_into("<I", data, directory, struct.unpack_from("<I", data, directory)[0] + 100)
    path.write_bytes(data)

    with pytest.raises(CheckpointError, match="damaged zip"):
        TorchFile(path)


@pytest.mark.parametrize("case", REFUSED)
def test_sizes_that_lie_are_refused(tmp_path: Path, case: str) -> None:
    tensor, reason = REFUSED[case]
    path = one(tmp_path / "a.pt", tensor)

    with pytest.raises(CheckpointError, match=reason):
        TorchFile(path).read("t")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    zeros = bytes(1 << 26)
    storage = one(tmp_path / "a.pt", Tensor("0", (1 << 24,), 1 << 24), {"0": zeros}, packed=True)
    index = write_file(tmp_path / "b.pt", zeros, packed=True)
    stored_index = write_file(tmp_path / "c.pt", zeros)

    assert storage.stat().st_size < 200_000
    for path, reason in ((storage, "compressed"), (index, "compressed"), (stored_index, "67,108,864 bytes")):
        with pytest.raises(CheckpointError, match=reason):
            TorchFile(path)


def test_a_huge_directory_is_not_read(tmp_path: Path) -> None:
    """The end of a zip says how much directory there is before it; Python's reader would read all of that at once."""
    path = tmp_path / "a.pt"
    size = 64 << 20
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0))

    with pytest.raises(CheckpointError, match="its directory is larger than any checkpoint's"):
        TorchFile(path)


def test_a_member_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    path = one(tmp_path / "a.pt", Tensor("0", (6,), 6))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo("archive/data/0").header_offset
    data[header : header + 4] = b"XXXX"
    path.write_bytes(data)

    with pytest.raises(CheckpointError, match="does not lie where the zip says"):
        TorchFile(path)


def test_a_wrong_checksum_of_the_index_is_noticed(tmp_path: Path) -> None:
    path = one(tmp_path / "a.pt", Tensor("0", (6,), 6))
    data = path.read_bytes()
    pickle = pickled({"t": Tensor("0", (6,), 6)})
    assert zlib.crc32(pickle)
    path.write_bytes(data.replace(pickle, pickle.replace(b"X\x01\x00\x00\x00t", b"X\x01\x00\x00\x00u")))

    with pytest.raises(CheckpointError, match="damaged zip"):
        TorchFile(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    evil = in_memory(call(name("os", "system"), "touch owned"))
    nested = tmp_path / "nested.pt"
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("inner.pt", evil)
        archive.writestr("deep/er/data.pkl", pickled({"t": 1}))
    double = tmp_path / "double.pt"
    with zipfile.ZipFile(double, "w") as archive:
        archive.writestr("a/data.pkl", pickled({}))
        archive.writestr("b/data.pkl", pickled({}))

    for path in (nested, double):
        with pytest.raises(CheckpointError, match="not one that PyTorch writes"):
            TorchFile(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "no dictionary of tensors"),
        ((1, 2), "no dictionary of tensors"),
        ({"state_dict": {}}, "no dictionary of tensors"),
        ({"state_dict": {"a": "text"}}, "'a' among its weights"),
        ({1: Tensor("0", (6,), 6)}, "1 among its weights"),
        ({"state_dict": {"a": call(name("os", "system"), "touch owned")}}, "os.system"),
    ],
)
def test_anything_but_tensors_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    path = write_file(tmp_path / "a.pt", content, {"0": NUMBERS.tobytes()})

    with pytest.raises(CheckpointError, match=reason) as refused:
        TorchFile(path)
    assert str(path) in str(refused.value)


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    path = one(tmp_path / "a.pt", Tensor("0", (6,), 6))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", b"big")

    with pytest.raises(CheckpointError, match="big-endian"):
        TorchFile(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    data = (GOLDEN / "chinese-clip-vit-base-patch16.pt").read_bytes()
    path = tmp_path / "a.pt"
    path.write_bytes(data[: int(share * len(data))])

    with pytest.raises(CheckpointError):
        open_weights(path)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"<html><body>not found", "neither PyTorch's zip nor safetensors"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before version 1.6"),
        (b"", "neither"),
    ],
)
def test_other_files_are_named(tmp_path: Path, head: bytes, reason: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(head)

    with pytest.raises(CheckpointError, match=reason):
        open_weights(path)


def test_reading_needs_the_memory_of_one_tensor(tmp_path: Path) -> None:
    """Sixteen tensors of 16 MB: in a process of its own, what it holds at most is far below their sum."""
    tensors = {str(index): np.full(4 << 20, index, np.float32) for index in range(16)}
    path = write_checkpoint(tmp_path / "a.pt", tensors)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from immich_ml_cn.store.conversion.torch_file import TorchFile\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "file = TorchFile(Path(sys.argv[1]))\n"
        "assert [float(file.read(name).sum()) for name in file.names]\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path)

    assert int(ran.stdout) < 64
