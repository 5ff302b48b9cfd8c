"""Safetensors files, well and badly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chinese_clips import GOLDEN

from immich_ml_cn.store.conversion.errors import CheckpointError
from immich_ml_cn.store.conversion.safetensors_file import MOST_HEADER_BYTES, SafetensorsFile
from immich_ml_cn.store.conversion.torch_file import TorchFile
from immich_ml_cn.store.conversion.weights import Stored, open_weights

SAVED = GOLDEN / "transformers"


def write(path: Path, header: Any, data: bytes = bytes(24), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}}


def test_the_package_s_own_file_has_what_pytorch_s_has() -> None:
    safe, torch = SafetensorsFile(SAVED / "model.safetensors"), TorchFile(SAVED / "pytorch_model.bin")

    assert set(safe.names) == set(torch.names)
    for name in safe.names:
        assert safe.describe(name) == torch.describe(name)
        np.testing.assert_array_equal(safe.read(name), torch.read(name))


def test_dtypes_and_shapes(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "half": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]},
        "brain": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "number": {"dtype": "F32", "shape": [], "data_offsets": [8, 12]},
        "empty": {"dtype": "F32", "shape": [0, 5], "data_offsets": [12, 12]},
    }
    numbers = np.array([1.0, -2.0], np.float32)
    data = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    data += np.array([0.5, 4], np.float16).tobytes() + np.array(7, np.float32).tobytes()
    file = open_weights(write(tmp_path / "a", header, data))

    assert file.names == ("half", "brain", "number", "empty")
    np.testing.assert_array_equal(file.read("half"), [0.5, 4])
    np.testing.assert_array_equal(file.read("brain"), numbers)
    assert file.describe("brain") == Stored((2,), "bfloat16")
    assert file.read("number").shape == ()
    assert float(file.read("number")) == 7
    assert file.read("empty").shape == (0, 5)


@pytest.mark.parametrize(
    "header",
    [
        entry(data_offsets=[0, 20]),
        entry(data_offsets=[4, 28]),
        entry(data_offsets=[-4, 20]),
        entry(data_offsets=[0]),
        entry(shape=[2, 4]),
        entry(shape=[-2, -3]),
        entry(shape=[2.0, 3.0]),
        entry(shape=None),
        entry(dtype="F8"),
        entry(dtype=["F32"]),
        entry(shape=[True, 6]),
        entry(shape=[9] * 200_000),  # their product has 200,000 digits
        entry(shape=[0, 10**4000], data_offsets=[0, 0]),
        {"t": []},
        {"t": None},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(CheckpointError, match="what its header says of 't' cannot be right"):
        SafetensorsFile(write(tmp_path / "a", header))


def _floats(begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": _floats(0, 24), "b": _floats(0, 24)}, "'b' does not begin where another ends"),
        ({"a": _floats(0, 16), "b": _floats(12, 24)}, "'b' does not begin where another ends"),
        ({"a": _floats(0, 8), "b": _floats(12, 24)}, "'b' does not begin where another ends"),
        ({"a": _floats(4, 24)}, "'a' does not begin where another ends"),
        ({"a": _floats(0, 20)}, "4 bytes in it belong to no tensor"),
        (json.dumps({"a": _floats(0, 12), "b": _floats(12, 24)}).replace("b", "a").encode(), "'a' does not begin"),
    ],
)
def test_numbers_of_two_tensors_or_of_none_are_refused(tmp_path: Path, header: Any, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        SafetensorsFile(write(tmp_path / "a", header))


@pytest.mark.parametrize(
    ("header", "length", "reason"),
    [
        (b"{" * 100_000, None, "no JSON"),
        (b"[1]", None, "no JSON object"),
        (b'{"a"', None, "no JSON"),
        (b"{}", None, "no tensors"),
        (b"{}", 1 << 60, "cannot be right"),
        (b"{}", 0, "cannot be right"),
        (b"{" + bytes(MOST_HEADER_BYTES), None, "its header of 1,048,577 bytes cannot be right"),
    ],
)
def test_no_header_is_refused(tmp_path: Path, header: bytes, length: int | None, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        SafetensorsFile(write(tmp_path / "a", header, length=length))


def test_a_file_that_becomes_shorter_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a", entry())
    file = SafetensorsFile(path)
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(CheckpointError, match="shorter than it was"):
        file.read("t")
