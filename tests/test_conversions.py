"""Joint conversions, split when they arrive."""

import json
import shutil
from pathlib import Path

import pytest
from clip_models import OrtSession, save_visual

from immich_ml_cn.clip.precision import choose_graph
from immich_ml_cn.conversions import split_joint
from immich_ml_cn.errors import DamagedModel, Unavailable

JOINT = Path(__file__).parent / "golden" / "clip_parity" / "joint"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(JOINT, tmp_path / "model")
    return tmp_path / "model"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_each_tower_has_its_inputs_and_one_output(folder: Path) -> None:
    made = split_joint(folder, OrtSession)

    assert made == (folder / "visual" / "model.onnx", folder / "textual" / "model.onnx")
    image, text = map(OrtSession, made)
    assert [info.name for info in image.inputs] == ["pixel_values"]
    assert [info.name for info in text.inputs] == ["input_ids", "attention_mask"]
    assert [info.name for info in (*image.outputs, *text.outputs)] == ["image_embeds", "text_embeds"]
    assert image.inputs[0].shape[0] is None
    assert text.inputs[0].shape == (None, None)


def test_the_towers_take_the_place_of_the_joint_graph_and_are_on_record(folder: Path) -> None:
    whole = (folder / "onnx" / "model.onnx").stat().st_size

    split_joint(folder, OrtSession)

    assert files(folder) == {"visual/model.onnx", "textual/model.onnx", ".checksums.json"}
    record = json.loads((folder / ".checksums.json").read_text())
    sizes = {name: (folder / name).stat().st_size for name in ("visual/model.onnx", "textual/model.onnx")}
    assert {name: entry["size"] for name, entry in record.items()} == sizes
    assert sum(sizes.values()) == pytest.approx(whole, rel=0.1)


def test_a_tower_that_is_there_stays(folder: Path) -> None:
    mine = folder / "visual" / "model.onnx"
    mine.parent.mkdir()
    mine.write_bytes(b"my own")

    assert split_joint(folder, OrtSession) == (folder / "textual" / "model.onnx",)
    assert mine.read_bytes() == b"my own"


def test_the_joint_graph_is_kept_when_a_tower_cannot_be_loaded(folder: Path) -> None:
    opened: list[Path] = []

    def load(graph: Path) -> None:
        opened.append(graph)
        if "textual" in graph.parts:
            raise Unavailable("not here")

    with pytest.raises(Unavailable, match="not here"):
        split_joint(folder, load)

    assert len(opened) == 2
    assert files(folder) == {"onnx/model.onnx"}


def test_another_graph_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    save_visual(tmp_path / "onnx" / "model.onnx")

    with pytest.raises(Unavailable, match="expected the outputs image_embeds and text_embeds, it has embedding"):
        split_joint(tmp_path, OrtSession)
    assert files(tmp_path) == {"onnx/model.onnx"}


def test_a_file_that_is_no_graph_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"<html>")

    with pytest.raises(DamagedModel):
        split_joint(tmp_path, OrtSession)


@pytest.mark.parametrize(
    ("precision", "on_gpu", "chosen"),
    [
        ("auto", False, "model.onnx"),
        ("auto", True, "model_fp16.onnx"),
        ("fp32", True, "model.onnx"),
        ("fp16", False, "model_fp16.onnx"),
        ("int8", False, "model_int8.onnx"),
        ("int8", True, "model_int8.onnx"),
    ],
)
def test_the_variant_of_the_wanted_precision(tmp_path: Path, precision: str, on_gpu: bool, chosen: str) -> None:
    for name in ("model.onnx", "model_fp16.onnx", "model_int8.onnx"):
        (tmp_path / name).touch()

    assert choose_graph(tmp_path, precision, on_gpu=on_gpu).name == chosen


@pytest.mark.parametrize(("precision", "lines"), [("auto", 0), ("fp32", 0), ("fp16", 1), ("int8", 1)])
def test_fp32_where_there_is_no_variant(
    tmp_path: Path, precision: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert choose_graph(tmp_path, precision, on_gpu=True) == tmp_path / "model.onnx"
    assert len(caplog.records) == lines
    assert all("fp32" in record.getMessage() for record in caplog.records)
