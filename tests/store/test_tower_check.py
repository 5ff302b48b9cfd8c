"""The check of a converted tower: one finite embedding of the right length, or no tower."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from server import ROOT

from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.errors import DamagedModel, Unavailable
from immich_ml_cn.settings import Settings
from immich_ml_cn.store.tower_check import check_tower

MODEL = "chinese-clip-vit-base-patch16"
CN_CLIP = ROOT / "tests" / "golden" / "clip_parity" / "cn-clip"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immich_ml_cn.store.tower_check.CHINESE_CLIP_DIMENSIONS", {MODEL: 24})
    monkeypatch.setattr("immich_ml_cn.store.tower_check.CHINESE_CLIP_PIXELS", {MODEL: 32})


def check(tower: str, graph: Path) -> None:
    check_tower(CpuEngine(Settings(intra_op_threads=1)), MODEL, tower, graph)


@pytest.mark.parametrize("tower", ["visual", "textual"])
def test_a_conversion_passes(tower: str) -> None:
    check(tower, CN_CLIP / tower / "model.onnx")


@pytest.mark.parametrize("tower", ["visual", "textual"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, tower: str) -> None:
    model = onnx.load(CN_CLIP / tower / "model.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f":
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(Unavailable, match="gives no finite embedding of 24 numbers"):
        check(tower, tmp_path / "model.onnx")


def test_another_dimension_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immich_ml_cn.store.tower_check.CHINESE_CLIP_DIMENSIONS", {MODEL: 512})
    with pytest.raises(Unavailable, match="gives no finite embedding of 512 numbers"):
        check("visual", CN_CLIP / "visual" / "model.onnx")


def test_another_tower_is_refused() -> None:
    with pytest.raises(Unavailable, match="the textual tower cannot be run"):
        check("textual", CN_CLIP / "visual" / "model.onnx")


def test_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"<html>")
    with pytest.raises(DamagedModel):
        check("visual", tmp_path / "model.onnx")
