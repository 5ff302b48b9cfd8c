"""Which of a tower's files is opened."""

from pathlib import Path

import pytest
from chinese_clips import convert_small
from ort_session import OrtSession

from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.models.clip.precision import choose_graph
from immich_ml_cn.serving.catalogue import Catalogue
from immich_ml_cn.settings import Settings
from immich_ml_cn.store.downloader import Downloader


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


@pytest.mark.parametrize(("precision", "opened"), [("auto", "model_fp16.onnx"), ("fp32", "model.onnx")])
def test_the_setting_reaches_both_towers(tmp_path: Path, precision: str, opened: str) -> None:
    folder = tmp_path / "clip" / "small"
    convert_small("chinese-clip-vit-base-patch16", folder, ("fp32", "fp16"))
    settings = Settings.from_env(
        {"MACHINE_LEARNING_CACHE_FOLDER": str(tmp_path), "MACHINE_LEARNING_CLIP_PRECISION": precision}
    )
    catalogue = Catalogue(settings, Downloader(settings), on_gpu=True)
    files: list[Graph] = []

    def open_session(graph: Graph) -> OrtSession:
        files.append(graph)
        return OrtSession(graph)

    for spec in (catalogue.visual("small"), catalogue.textual("small")):
        spec.build(open_session)

    assert files == [folder / kind / opened for kind in ("visual", "textual")]
