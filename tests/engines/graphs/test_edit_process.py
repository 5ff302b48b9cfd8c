"""Edits of large graphs in another process: the same results and failures as here."""

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from ocr_session import bundled
from onnx import TensorProto, helper, numpy_helper

from immich_ml_cn.engines.graphs import edit_process, edits
from immich_ml_cn.errors import DamagedModel, Unavailable

RECOGNIZER = bundled("PP-OCRv6_rec_small")


@pytest.fixture(params=["small", "large"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two products of one input, each with weights of its own; 1 kB, or over the limit."""
    columns = 16 if request.param == "small" else edit_process.MAX_IN_PROCESS_BYTES // 16
    weights = [numpy_helper.from_array(np.ones((4, columns), np.float32), name) for name in ("v", "w")]
    nodes = [helper.make_node("MatMul", ["x", weight.name], [f"of_{weight.name}"]) for weight in weights]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", 4), ("of_v", columns), ("of_w", columns))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def read_here(monkeypatch: pytest.MonkeyPatch, path: Path) -> bool:
    """Whether looking at a graph is done in this process."""
    here: list[Path] = []

    def outputs_of(path: Path) -> tuple[str, ...]:
        here.append(path)
        return ("of_v", "of_w")

    monkeypatch.setattr(edits, "outputs_of", outputs_of)
    assert edit_process.outputs_of(path) == ("of_v", "of_w")
    return here == [path]


def test_a_large_graph_is_left_to_another_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_here(monkeypatch, path) == (path.stat().st_size <= edit_process.MAX_IN_PROCESS_BYTES)


def test_weights_beside_a_small_file_count(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "model.onnx.data").open("wb") as file:
        file.truncate(edit_process.MAX_IN_PROCESS_BYTES)
    assert not read_here(monkeypatch, path)


def test_results_are_those_of_graphs(path: Path) -> None:
    assert edit_process.inspect(path) == edits.inspect(path)
    assert edit_process.outputs_of(path) == edits.outputs_of(path) == ("of_v", "of_w")
    assert edit_process.with_batch_axis(path).data == edits.with_batch_axis(path)
    assert edit_process.part_for(path, "of_w") == edits.part_for(path, "of_w")
    with pytest.raises(ValueError, match="other outputs than one"):
        _ = edit_process.with_best_path(path).data


def test_the_best_path_of_the_real_recogniser() -> None:
    assert RECOGNIZER.stat().st_size > edit_process.MAX_IN_PROCESS_BYTES
    assert edit_process.with_best_path(RECOGNIZER).data == edits.with_best_path(RECOGNIZER)


def test_failures_are_those_of_graphs(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no output 'nothing'"):
        edit_process.part_for(path, "nothing")
    with pytest.raises(FileNotFoundError):
        edit_process.inspect(tmp_path / "none.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedModel, match="it is not an ONNX graph") as caught:
        edit_process.inspect(path)
    assert caught.value.path == path


def test_weights_that_are_missing_are_named(tmp_path: Path, path: Path) -> None:
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    wanted = tmp_path / "model.onnx.data"
    kept = wanted.rename(tmp_path / "model.onnx.elsewhere")
    with pytest.raises(Exception, match=r"model\.onnx\.data"):
        _ = edit_process.with_batch_axis(path).data
    assert kept.exists()


def test_a_process_that_dies_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", os.fspath(program))
    with pytest.raises(Unavailable, match="ended with -9"):
        edit_process.inspect(RECOGNIZER)
