"""Edits of graphs: the edited one does for a batch what the original does for each item."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from face_models import build_recognizer
from onnx import TensorProto, helper, numpy_helper
from ort_session import OrtSession

from immich_ml_cn.engines.graphs.edits import inspect, with_batch_axis
from immich_ml_cn.errors import Unavailable

IN_A_SIDE_FILE: dict[str, Any] = {
    "save_as_external_data": True,
    "location": "model.onnx.data",
    "size_threshold": 0,
}


def save(path: Path, nodes: list[Any], weights: dict[str, Any], columns: int, inputs: tuple[Any, ...] = ()) -> Path:
    """A graph from x [1, 2, 3] to y [1, columns]."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3]), *inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, columns])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        value_info=[helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1, columns])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.save(model, str(path))
    return path


def assert_batches(path: Path) -> None:
    original, edited = OrtSession(path), OrtSession(with_batch_axis(path))
    (info,) = original.inputs
    assert edited.inputs[0].shape == (None, *info.shape[1:])
    item_shape = [size or 1 for size in info.shape[1:]]
    batch = np.random.default_rng(0).normal(size=(5, *item_shape)).astype(np.float32)
    alone = np.concatenate([original.run({info.name: item[np.newaxis]})[0] for item in batch])
    np.testing.assert_allclose(edited.run({info.name: batch})[0], alone, rtol=0, atol=1e-4)


class TestWithBatchAxis:
    @pytest.mark.parametrize("flatten", ["Flatten", "Reshape"])
    def test_recognisers(self, tmp_path: Path, flatten: str) -> None:
        assert_batches(build_recognizer(tmp_path / "model.onnx", flatten=flatten))

    def test_the_file_stays_as_it_is(self, tmp_path: Path) -> None:
        path = build_recognizer(tmp_path / "model.onnx", flatten="Reshape")
        path.chmod(0o444)
        tmp_path.chmod(0o555)
        before = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
        edited = with_batch_axis(path)
        tmp_path.chmod(0o755)
        assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) == before
        assert list(tmp_path.iterdir()) == [path]
        assert edited != path.read_bytes()

    def test_weights_in_a_side_file_are_taken_in(self, tmp_path: Path) -> None:
        path = build_recognizer(tmp_path / "model.onnx", **IN_A_SIDE_FILE)
        assert (tmp_path / "model.onnx.data").stat().st_size > 10 * path.stat().st_size
        assert_batches(path)

    @pytest.mark.parametrize("target", [[1, -1], [1, 6], [1, 1, 6], [1, 0, -1]])
    def test_constant_shapes(self, tmp_path: Path, target: list[int]) -> None:
        nodes = [
            helper.make_node("Reshape", ["x", "shape"], ["wide"]),
            helper.make_node("Reshape", ["wide", "flat"], ["y"]),
        ]
        weights = {"shape": np.array(target), "flat": np.array([-1, 6])}
        assert_batches(save(tmp_path / "model.onnx", nodes, weights, 6))

    def test_a_shape_from_a_constant_node(self, tmp_path: Path) -> None:
        shape = helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, -1])))
        nodes = [shape, helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=1)]
        assert_batches(save(tmp_path / "model.onnx", nodes, {}, 6))

    def test_a_shape_that_also_serves_a_weight(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("Reshape", ["weight", "shape"], ["row"]),
            helper.make_node("Reshape", ["x", "shape"], ["inner"]),
            helper.make_node("Add", ["inner", "row"], ["y"]),
        ]
        weights = {"shape": np.array([1, -1]), "weight": np.arange(6, dtype=np.float32).reshape(6, 1)}
        assert_batches(save(tmp_path / "model.onnx", nodes, weights, 6))

    def test_weights_listed_as_inputs_keep_their_shape(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Flatten", ["x"], ["inner"]), helper.make_node("Add", ["inner", "bias"], ["y"])]
        bias = helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1, 6])
        path = save(tmp_path / "model.onnx", nodes, {"bias": np.ones((1, 6), np.float32)}, 6, (bias,))
        edited = onnx.load_from_string(with_batch_axis(path))
        shapes = [
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in edited.graph.input
        ]
        assert shapes == [["batch", 2, 3], [1, 6]]
        assert_batches(path)

    def test_recorded_shapes_of_inner_tensors_are_dropped(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Flatten", ["x"], ["inner"]), helper.make_node("Identity", ["inner"], ["y"])]
        path = save(tmp_path / "model.onnx", nodes, {}, 6)
        assert len(onnx.load(str(path)).graph.value_info) == 1
        assert len(onnx.load_from_string(with_batch_axis(path)).graph.value_info) == 0
        assert_batches(path)

    def test_not_onnx(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        for content in (b"", b"version https://git-lfs.github.com/spec/v1"):
            path.write_bytes(content)
            with pytest.raises(Unavailable, match="not an ONNX graph"):
                with_batch_axis(path)


class TestInspect:
    @pytest.mark.parametrize(
        ("batch", "fixed"), [((1, 1), True), (("None", 1), True), ((1, "n"), True), (("batch", "batch"), False)]
    )
    def test_fixed_batch(self, tmp_path: Path, batch: tuple[Any, Any], fixed: bool) -> None:
        assert inspect(build_recognizer(tmp_path / "model.onnx", batch=batch)).fixed_batch is fixed

    @pytest.mark.parametrize("normalises", [False, True])
    def test_normalises_input(self, tmp_path: Path, normalises: bool) -> None:
        path = build_recognizer(tmp_path / "model.onnx", normalises=normalises)
        assert inspect(path).normalises_input is normalises

    def test_side_files_are_not_needed(self, tmp_path: Path) -> None:
        path = build_recognizer(tmp_path / "model.onnx", **IN_A_SIDE_FILE)
        (tmp_path / "model.onnx.data").unlink()
        assert inspect(path).fixed_batch
