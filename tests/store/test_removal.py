"""What belongs to a model in the cache: what `models remove` may delete, and what it must leave."""

import json
from pathlib import Path

import pytest

from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.tasks import ModelTask
from immich_ml_cn.store.fetch.checksums import record
from immich_ml_cn.store.removal import Removal, delete, plan_removal, shown

CLIP = "ViT-B-32__openai"
OCR = "PP-OCRv5_mobile"


def put(folder: Path, *names: str) -> set[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return {folder / name for name in names}


def planned(cache: Path, task: ModelTask, model: str, **values: str) -> Removal:
    return plan_removal(Settings(cache_folder=cache, **values), task, model)  # type: ignore[arg-type]


def test_everything_that_servers_and_downloads_make_goes(tmp_path: Path) -> None:
    folder = tmp_path / "clip" / CLIP
    ours = put(
        folder,
        *("config.json", "README.md", "visual/model.onnx", "visual/preprocess_cfg.json", "textual/tokenizer.json"),
        *("textual/model.onnx", "textual/model_int8.onnx", "visual/model.onnx.broken-1", "visual/.split.onnx"),
        *("visual/prepacked/model-cpu-1/graph.onnx", "visual/openvino/model-cpu-1/x.blob", ".partial/x.part"),
        *("visual/fp16/model.armnn", "visual/rknpu/rk3588/model.rknn", ".cache/huggingface/.gitignore"),
        ".cache/huggingface/download/visual/onnx__MatMul_1.metadata",
    )
    ours |= put(folder, ".converting/visual/model.onnx")
    ours |= put(folder, "visual/onnx__MatMul_1", "textual/weights_7")
    record(folder, {"textual/weights_7": (1, "")})
    removal = planned(tmp_path, ModelTask.CLIP, CLIP)
    assert set(removal.files) == {*ours, folder / ".checksums.json"}
    assert not removal.unknown
    delete(removal, tmp_path)
    assert not folder.exists()
    assert folder.parent.exists()


def test_what_is_of_no_model_stays_and_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "clip" / CLIP
    put(folder, "visual/model.onnx")
    unknown = put(folder, "holiday.jpg", "visual/notes.txt", "photos/visual/model.onnx", "visual/more/model.onnx")
    removal = planned(tmp_path, ModelTask.CLIP, CLIP)
    assert removal.files == (folder / "visual" / "model.onnx",)
    assert set(removal.unknown) == unknown
    delete(removal, tmp_path)
    assert {path for path in folder.rglob("*") if path.is_file()} == unknown


def test_links_are_not_followed(tmp_path: Path) -> None:
    """One that stands for a model's file goes itself; what it leads to stays."""
    elsewhere = tmp_path / "elsewhere"
    put(elsewhere, "model.onnx", "visual/model.onnx")
    folder = tmp_path / "cache" / "clip" / CLIP
    put(folder, "config.json")
    (folder / "textual").mkdir()
    (folder / "textual" / "model.onnx").symlink_to(elsewhere / "model.onnx")
    (folder / "visual").symlink_to(elsewhere / "visual")
    removal = planned(tmp_path / "cache", ModelTask.CLIP, CLIP)
    assert set(removal.files) == {folder / "config.json", folder / "textual" / "model.onnx"}
    assert removal.unknown == (folder / "visual",)
    delete(removal, tmp_path / "cache")
    assert len(list(elsewhere.rglob("*.onnx"))) == 2


def test_what_became_a_link_since_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "clip" / CLIP
    put(folder, "visual/model.onnx")
    removal = planned(tmp_path / "cache", ModelTask.CLIP, CLIP)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    delete(removal, tmp_path / "cache")
    assert (tmp_path / "moved" / "visual" / "model.onnx").exists()


@pytest.mark.parametrize(("removed", "kept"), [("KOREAN__" + OCR, OCR), (OCR, "KOREAN__" + OCR)])
def test_a_detector_that_another_language_needs_stays(tmp_path: Path, removed: str, kept: str) -> None:
    detector = tmp_path / "ocr" / OCR / "detection"
    put(tmp_path / "ocr", f"{OCR}/detection/model.onnx", f"{OCR}/config.json")
    put(tmp_path / "ocr", f"{removed}/recognition/model.onnx", f"{kept}/recognition/model.onnx")
    removal = planned(tmp_path, ModelTask.OCR, removed)
    assert removal.files == (tmp_path / "ocr" / removed / "recognition" / "model.onnx",)
    assert removal.shared == (detector,)
    delete(removal, tmp_path)
    last = planned(tmp_path, ModelTask.OCR, kept)
    assert not last.shared
    delete(last, tmp_path)
    assert list((tmp_path / "ocr").iterdir()) == []


def test_another_revision_stays(tmp_path: Path) -> None:
    folder = tmp_path / "clip" / CLIP
    put(folder, "visual/model.onnx", "v2/visual/model.onnx")
    removal = planned(tmp_path, ModelTask.CLIP, CLIP, model_revision="v2")
    assert removal.files == (folder / "v2" / "visual" / "model.onnx",)
    assert set(planned(tmp_path, ModelTask.CLIP, CLIP).files) == {folder / "visual" / "model.onnx"}


def test_a_model_that_is_not_here_is_nothing_to_do(tmp_path: Path) -> None:
    assert planned(tmp_path / "none", ModelTask.CLIP, CLIP) == Removal()
    delete(Removal(), tmp_path / "none")


def test_what_is_shown_of_files_in_folders_of_ours_are_the_folders() -> None:
    """The cache's own folder may be called so as well: by default it is in ``~/.cache``."""
    cache = Path("/root/.cache/immich_ml")
    folder = cache / "clip" / CLIP / "visual"
    assert shown(folder / "model.onnx", cache) == folder / "model.onnx"
    assert shown(folder / "prepacked" / "x" / "weights.bin", cache) == folder / "prepacked"


def test_a_folder_says_what_in_it_is_of_no_model(tmp_path: Path) -> None:
    put(tmp_path / "clip" / CLIP, "visual/model.onnx", "config.json")
    unknown = put(tmp_path / "clip" / CLIP, "holiday.jpg", "visual/notes.txt")
    assert set(planned(tmp_path, ModelTask.CLIP, CLIP).unknown) == unknown


def test_a_damaged_record_hides_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "clip" / CLIP
    files = put(folder, "visual/model.onnx", ".checksums.json")
    assert set(planned(tmp_path, ModelTask.CLIP, CLIP).files) == files
    (folder / ".checksums.json").write_text(json.dumps([1]))
    assert set(planned(tmp_path, ModelTask.CLIP, CLIP).files) == files
