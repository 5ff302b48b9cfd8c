from pathlib import Path

import numpy as np
import onnx
import pytest
from ocr_session import bundled, open_session
from onnx import TensorProto, helper, numpy_helper

from immich_ml_cn.engines.graphs.edits import BEST_INDEX, BEST_PROBABILITY, CLASSES, with_best_path
from immich_ml_cn.errors import DamagedModel

NOISE = np.random.default_rng(0).normal(size=(2, 3, 48, 128)).astype(np.float32)


def save_softmax(path: Path, opset: int, classes: int | None = 7, rank: int = 3) -> Path:
    shape = ["N", "T", "U", classes][-rank:]
    node = helper.make_node("Softmax", ["x"], ["y"], axis=rank - 1)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def test_the_best_path_of_the_real_recogniser() -> None:
    path = bundled("PP-OCRv6_rec_small")
    session = open_session(with_best_path(path))
    assert session.metadata[CLASSES] == "18710"
    assert [output.name for output in session.outputs] == [BEST_INDEX, BEST_PROBABILITY]
    assert session.metadata["character"] == open_session(path).metadata["character"]
    indices, probabilities = session.run({"x": NOISE})
    [everything] = open_session(path).run({"x": NOISE})
    likeliest = np.sort(everything, axis=2)[:, :, :-3:-1]
    np.testing.assert_array_equal(indices[:, :, 0], everything.argmax(axis=2))
    np.testing.assert_allclose(probabilities, likeliest, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(everything, indices, axis=2), likeliest, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
def test_every_opset(tmp_path: Path, opset: int) -> None:
    edited = with_best_path(save_softmax(tmp_path / "m.onnx", opset))
    logits = np.random.default_rng(0).normal(size=(1, 4, 7)).astype(np.float32)
    indices, probabilities = open_session(edited).run({"x": logits})
    np.testing.assert_array_equal(indices, np.argsort(-logits, axis=2)[:, :, :2])
    softmax = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(probabilities, np.take_along_axis(softmax, indices, axis=2), rtol=1e-5)


def test_unknown_classes_are_not_noted(tmp_path: Path) -> None:
    edited = with_best_path(save_softmax(tmp_path / "m.onnx", 13, classes=None))
    assert CLASSES not in open_session(edited).metadata


def test_the_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = save_softmax(tmp_path / "m.onnx", 13)
    before = path.read_bytes()
    with_best_path(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 10, 1000])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(bundled("PP-OCRv6_rec_small").read_bytes()[:kept])
    with pytest.raises(DamagedModel, match=r"m\.onnx cannot be loaded: it is not an ONNX graph"):
        with_best_path(path)


def test_a_graph_of_another_form_is_not_edited(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other outputs than one"):
        with_best_path(save_softmax(tmp_path / "m.onnx", 13, rank=2))


def test_a_graph_with_weights_outside_is_not_edited(tmp_path: Path) -> None:
    path = save_softmax(tmp_path / "m.onnx", 13)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2048, np.float32), "w"))
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(ValueError, match="weights outside"):
        with_best_path(path)
