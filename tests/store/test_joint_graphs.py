"""Joint conversions, split when they arrive."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from chinese_clips import every_file
from clip_models import save_visual
from hub_server import Page, Site
from ort_session import OrtSession
from server import ROOT

from immich_ml_cn.errors import DamagedModel, Unavailable
from immich_ml_cn.settings import Settings
from immich_ml_cn.settings.addresses import parse_preference
from immich_ml_cn.sources.tasks import Component, ModelTask
from immich_ml_cn.store.downloader import Downloader
from immich_ml_cn.store.joint_graphs import split_joint

JOINT = ROOT / "tests" / "golden" / "clip_parity" / "joint"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(JOINT, tmp_path / "model")
    return tmp_path / "model"


def test_each_tower_has_its_inputs_its_embedding_and_its_features(folder: Path) -> None:
    made = split_joint(folder, OrtSession)

    assert made == (folder / "visual" / "model.onnx", folder / "textual" / "model.onnx")
    image, text = map(OrtSession, made)
    assert [info.name for info in image.inputs] == ["pixel_values"]
    assert [info.name for info in text.inputs] == ["input_ids", "attention_mask"]
    assert [info.name for info in image.outputs] == ["image_embeds", "features"]
    assert [info.name for info in text.outputs] == ["text_embeds", "features"]
    assert image.inputs[0].shape[0] is None
    assert text.inputs[0].shape == (None, None)


def test_the_towers_take_the_place_of_the_joint_graph_and_are_on_record(folder: Path) -> None:
    whole = (folder / "onnx" / "model.onnx").stat().st_size

    split_joint(folder, OrtSession)

    assert every_file(folder) == {"visual/model.onnx", "textual/model.onnx", ".checksums.json"}
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
    assert every_file(folder) == {"onnx/model.onnx"}


def test_another_graph_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    save_visual(tmp_path / "onnx" / "model.onnx")

    with pytest.raises(Unavailable, match="expected the outputs image_embeds and text_embeds, it has embedding"):
        split_joint(tmp_path, OrtSession)
    assert every_file(tmp_path) == {"onnx/model.onnx"}


def test_a_file_that_is_no_graph_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"<html>")

    with pytest.raises(DamagedModel):
        split_joint(tmp_path, OrtSession)


MODEL = "chinese-clip-vit-base-patch16"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' models are no full-size ones."""
    monkeypatch.setattr("immich_ml_cn.store.tower_check.CHINESE_CLIP_DIMENSIONS", {MODEL: 24})
    monkeypatch.setattr("immich_ml_cn.store.tower_check.CHINESE_CLIP_PIXELS", {MODEL: 32})


@pytest.fixture
def downloader(site: Site, tmp_path: Path) -> Iterator[Downloader]:
    """Delivers from one site, which is both Hugging Face and ModelScope."""
    settings = Settings(
        cache_folder=tmp_path / "cache",
        hf_endpoint=site.base,
        model_source=parse_preference(f"modelscope={site.base},huggingface"),
    )
    downloader = Downloader(settings)
    yield downloader
    downloader.close()


def test_without_the_two_file_conversion_the_joint_one_is_fetched_and_split(
    site: Site, downloader: Downloader, tmp_path: Path
) -> None:
    site.hub(f"Xenova/{MODEL}", {"onnx/model.onnx": Page((JOINT / "onnx" / "model.onnx").read_bytes())})

    downloader.ensure_now(ModelTask.CLIP, MODEL, Component.TEXTUAL)

    folder = tmp_path / "cache" / "clip" / MODEL
    assert every_file(folder) == {"visual/model.onnx", "textual/model.onnx", ".checksums.json"}
    asked = len(site.requests)
    downloader.ensure_now(ModelTask.CLIP, MODEL, Component.VISUAL)
    assert len(site.requests) == asked


def test_a_joint_conversion_placed_by_hand_is_split_without_a_network(
    site: Site, downloader: Downloader, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "clip" / MODEL
    shutil.copytree(JOINT, folder)

    downloader.ensure_now(ModelTask.CLIP, MODEL, Component.VISUAL)

    assert site.requests == []
    assert "visual/model.onnx" in every_file(folder)


def test_the_two_file_conversion_comes_first(site: Site, downloader: Downloader, tmp_path: Path) -> None:
    cn_clip = JOINT.parent / "cn-clip" / "visual" / "model.onnx"
    path = "/models/deadash/chinese_clip_ViT-B-16/resolve/master/models/Vit-B-16.img.fp32.onnx"
    site.add(path, Page(cn_clip.read_bytes()))

    downloader.ensure_now(ModelTask.CLIP, MODEL, Component.VISUAL)

    folder = tmp_path / "cache" / "clip" / MODEL
    assert (folder / "visual" / "model.onnx").read_bytes() == cn_clip.read_bytes()
    assert not (folder / "textual" / "model.onnx").exists()


def test_a_tower_of_another_kind_is_refused_and_the_next_conversion_is_tried(
    site: Site, downloader: Downloader, tmp_path: Path
) -> None:
    """A text tower under the image tower's name."""
    wrong = JOINT.parent / "cn-clip" / "textual" / "model.onnx"
    path = "/models/deadash/chinese_clip_ViT-B-16/resolve/master/models/Vit-B-16.img.fp32.onnx"
    site.add(path, Page(wrong.read_bytes()))
    with pytest.raises(Unavailable, match="the visual tower cannot be run"):
        downloader.ensure_now(ModelTask.CLIP, MODEL, Component.VISUAL)
    assert not list((tmp_path / "cache").rglob("*.whole"))

    site.hub(f"Xenova/{MODEL}", {"onnx/model.onnx": Page((JOINT / "onnx" / "model.onnx").read_bytes())})
    downloader.ensure_now(ModelTask.CLIP, MODEL, Component.VISUAL)
    assert (tmp_path / "cache" / "clip" / MODEL / "visual" / "model.onnx").is_file()


def test_another_file_than_at_the_first_fetch_is_refused(
    site: Site, downloader: Downloader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = (JOINT.parent / "cn-clip" / "visual" / "model.onnx").read_bytes()
    path = "/models/deadash/chinese_clip_ViT-B-16/resolve/master/models/Vit-B-16.img.fp32.onnx"
    site.add(path, Page(data))
    downloader.ensure_now(ModelTask.CLIP, MODEL, Component.VISUAL)
    digest = hashlib.sha256(data).hexdigest()
    assert f"nobody else knows its checksum: {len(data)} bytes, sha256 {digest}" in caplog.text

    graph = tmp_path / "cache" / "clip" / MODEL / "visual" / "model.onnx"
    graph.unlink()
    changed = onnx.load_model_from_string(data)
    changed.producer_name = "somebody else"
    site.add(path, Page(changed.SerializeToString()))
    with pytest.raises(Unavailable, match=f"offers another visual/model.onnx than at the first fetch: .* not {digest}"):
        downloader.ensure_now(ModelTask.CLIP, MODEL, Component.VISUAL)
    assert not graph.exists()

    site.add(path, Page(data))
    downloader.ensure_now(ModelTask.CLIP, MODEL, Component.VISUAL)
    assert graph.read_bytes() == data
