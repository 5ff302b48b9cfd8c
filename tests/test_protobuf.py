"""Protobuf messages: read as the `onnx` package reads them, written as it writes them."""

from enum import IntEnum
from pathlib import Path
from typing import Any

import onnx
import pytest
from face_models import build_recognizer
from onnx import helper

from immich_ml_cn import graphs, onnx_schema
from immich_ml_cn.errors import DamagedModel
from immich_ml_cn.graphs import graph_of, read
from immich_ml_cn.onnx_schema import Graph, Model, Node, Opset
from immich_ml_cn.protobuf import Malformed, Message

DESCRIBED = {
    "Model": onnx.ModelProto,
    "Opset": onnx.OperatorSetIdProto,
    "Graph": onnx.GraphProto,
    "Node": onnx.NodeProto,
    "Attribute": onnx.AttributeProto,
    "Value": onnx.ValueInfoProto,
    "Type": onnx.TypeProto,
    "TensorType": onnx.TypeProto.Tensor,
    "Shape": onnx.TensorShapeProto,
    "Dimension": onnx.TensorShapeProto.Dimension,
    "Tensor": onnx.TensorProto,
    "Entry": onnx.StringStringEntryProto,
}
ENUMS = {
    "AttributeType": onnx.AttributeProto.AttributeType,
    "DataType": onnx.TensorProto.DataType,
    "DataLocation": onnx.TensorProto.DataLocation,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return build_recognizer(tmp_path / "model.onnx")


def test_the_numbers_are_those_of_onnx() -> None:
    classes: dict[str, type[IntEnum]] = {
        name: kind
        for name, kind in vars(onnx_schema).items()
        if isinstance(kind, type) and issubclass(kind, IntEnum) and kind is not IntEnum
    }
    assert set(classes) == {*DESCRIBED, *ENUMS}
    for name, numbers in classes.items():
        for field in numbers:
            if name in ENUMS:
                assert ENUMS[name].Value(field.name) == field
            else:
                assert DESCRIBED[name].DESCRIPTOR.fields_by_name[field.name.lower()].number == field


def test_a_file_is_written_as_it_was_read(path: Path) -> None:
    assert bytes(read(path)) == path.read_bytes()
    assert read(path).size == path.stat().st_size


def test_what_is_read_is_what_onnx_reads(path: Path) -> None:
    model, theirs = read(path), onnx.load(path)
    (opset,) = model.messages(Model.OPSET_IMPORT)
    assert opset.integer(Opset.VERSION) == theirs.opset_import[0].version
    nodes = graph_of(model).messages(Graph.NODE)
    assert [node.texts(Node.INPUT) for node in nodes] == [list(node.input) for node in theirs.graph.node]
    assert [node.text(Node.NAME) for node in nodes] == [node.name for node in theirs.graph.node]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, -1, -5, (1 << 63) - 1, -(1 << 63)])
def test_integers(value: int) -> None:
    written = helper.make_tensor("t", onnx.TensorProto.INT64, [3], [value, 7, value])
    ours = Message((1, 3), (2, 7), *[(7, value)])
    assert Message.parse(bytes(ours)).integers(7) == [value]
    assert onnx.TensorProto.FromString(bytes(ours)).int64_data == [value]
    assert Message.parse(written.SerializeToString()).integers(7) == [value, 7, value]  # packed


def test_fields_of_fixed_size_are_carried_along() -> None:
    attribute = helper.make_attribute("alpha", 0.25)
    message = Message.parse(attribute.SerializeToString())
    message.add(13, "documented")
    again = onnx.AttributeProto.FromString(bytes(message))
    assert (again.name, again.f, again.doc_string) == ("alpha", 0.25, "documented")


def test_inner_messages_are_changed_in_place_kept_and_removed() -> None:
    model = Message((7, Message((1, Message((4, "Add"))), (1, Message((4, "Mul"))))))
    (graph,) = model.messages(7)
    graph.messages(1)[0].add(3, "first")
    assert onnx.ModelProto.FromString(bytes(model)).graph.node[0].name == "first"
    graph.keep(1, lambda node: node.text(4) == "Mul")
    assert [node.op_type for node in onnx.ModelProto.FromString(bytes(model)).graph.node] == ["Mul"]
    graph.remove(1)
    assert not onnx.ModelProto.FromString(bytes(model)).graph.node


def test_absent_fields() -> None:
    assert (Message().text(1), Message().integer(1), Message().messages(1), bytes(Message())) == ("", 0, [], b"")


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05abc", b"\x0b", b"\x00\x00", b"\x08" + b"\xff" * 11, b"\x0d\x00", b"<html>", b"\x80"]
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(Malformed):
        Message.parse(data)


def test_fields_of_another_kind() -> None:
    with pytest.raises(Malformed):
        Message((1, 5)).texts(1)
    with pytest.raises(Malformed):
        Message((1, b"\xff\xfe")).text(1)


def test_a_file_that_is_cut_anywhere_is_damaged(path: Path) -> None:
    whole = path.read_bytes()
    for size in (*range(0, 400, 7), *range(400, len(whole), max(1, len(whole) // 50))):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedModel):
            graphs.with_batch_axis(path)


def test_weights_are_only_taken_from_beside_the_file(tmp_path: Path) -> None:
    for location in ("../weights.bin", "/etc/passwd", ""):
        path = build_recognizer(tmp_path / "model.onnx")
        model = onnx.load(path)
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.ClearField("raw_data")
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match="not beside it"):
            graphs.with_batch_axis(path)


def test_weights_that_are_cut_short_are_an_error(tmp_path: Path) -> None:
    outside: dict[str, Any] = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    path = build_recognizer(tmp_path / "model.onnx", **outside)
    beside = tmp_path / "model.onnx.data"
    beside.write_bytes(beside.read_bytes()[:-10])
    with pytest.raises(ValueError, match="shorter than"):
        graphs.with_batch_axis(path)
