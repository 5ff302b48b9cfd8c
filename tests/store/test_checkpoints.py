"""Chinese-CLIP from its official checkpoints: found or fetched, converted, and deleted again."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from threading import Thread

import pytest
from chinese_clips import GOLDEN, SMALL, copy_small
from hub_server import Page, Site, files_in
from torch_files import call, name, write_file

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.settings import Precision, Settings
from immich_ml_cn.settings.addresses import parse_preference
from immich_ml_cn.sources import checkpoint_names, checkpoint_sources
from immich_ml_cn.sources.tasks import Component, ModelTask
from immich_ml_cn.store import checkpoints, tower_check
from immich_ml_cn.store.downloader import Downloader
from immich_ml_cn.store.fetch.staging import Staging
from immich_ml_cn.store.inventory import find

RN50 = "chinese-clip-rn50"
VIT = "chinese-clip-vit-large-patch14"
OFFICIAL: Mapping[str, str] = {RN50: "clip_cn_rn50.pt", VIT: "clip_cn_vit-l-14.pt"}
TOWERS = {"visual/model.onnx", "textual/model.onnx"}
MADE = {*TOWERS, "config.json", "visual/preprocess_cfg.json", "textual/vocab.txt"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The five names stand for models of the small architectures."""
    monkeypatch.setattr(checkpoints, "ARCHITECTURES", SMALL)


@pytest.fixture
def settings(site: Site, tmp_path: Path) -> Settings:
    """One site is both Hugging Face and ModelScope."""
    return Settings(
        cache_folder=tmp_path / "cache",
        hf_endpoint=site.base,
        model_source=parse_preference(f"huggingface,modelscope={site.base}"),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "clip" / RN50


def golden(model: str) -> Page:
    return Page((GOLDEN / f"{model}.pt").read_bytes())


def offer(site: Site, model: str = RN50, page: Page | None = None) -> Page:
    """Serve a checkpoint as Hugging Face does."""
    page = page or golden(model)
    site.hub(f"OFA-Sys/{model}", {OFFICIAL[model]: page, "README.md": Page(b"about it")})
    return page


def ensure(
    settings: Settings, model: str = RN50, component: Component = Component.VISUAL, *, on_gpu: bool = False
) -> None:
    downloader = Downloader(settings, on_gpu=on_gpu)
    try:
        downloader.ensure_now(ModelTask.CLIP, model, component)
    finally:
        downloader.close()


def test_a_checkpoint_that_was_cut_off_is_resumed_converted_and_deleted(
    site: Site, settings: Settings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    page = offer(site)
    page.cut_at, page.cuts = 0.6, 1

    ensure(settings)

    assert site.downloads(page) == [None, int(0.6 * len(page.data))]
    assert files_in(folder) == MADE
    for said in (
        f"fetched the checkpoint of {RN50} from 127.0.0.1",
        f"converting {folder}",
        f"converted {RN50}: visual",
    ):
        assert said in caplog.text
    asked = len(site.requests)
    ensure(settings, component=Component.TEXTUAL)
    assert len(site.requests) == asked, "both towers are made at once"


@pytest.mark.parametrize(("precision", "on_gpu", "more"), [("auto", True, "fp16"), ("int8", False, "int8")])
def test_what_the_settings_load_is_made_as_well(
    site: Site, settings: Settings, folder: Path, precision: Precision, on_gpu: bool, more: str
) -> None:
    offer(site)
    ensure(replace(settings, clip_precision=precision), on_gpu=on_gpu)

    assert files_in(folder) == MADE | {f"{tower}/model_{more}.onnx" for tower in ("visual", "textual")}


def test_a_checkpoint_is_kept_where_the_settings_say_so_and_serves_another_precision(
    site: Site, settings: Settings, folder: Path
) -> None:
    offer(site)
    settings = replace(settings, keep_checkpoints=True)
    ensure(settings)
    asked = len(site.requests)

    downloader = Downloader(settings)
    downloader.ensure_precisions(RN50, ("int8",))

    assert len(site.requests) == asked
    made = {"visual/model_int8.onnx", "textual/model_int8.onnx"}
    assert files_in(folder) == MADE | made | {OFFICIAL[RN50]}


def test_another_precision_needs_the_checkpoint_again(site: Site, settings: Settings, folder: Path) -> None:
    page = offer(site)
    ensure(settings)
    before = (folder / "visual" / "model.onnx").stat().st_mtime_ns

    downloader = Downloader(settings)
    downloader.ensure_precisions(RN50, ("fp16",))
    downloader.ensure_precisions(RN50, ("fp16",))

    assert site.downloads(page) == [None, None]
    assert files_in(folder) == MADE | {"visual/model_fp16.onnx", "textual/model_fp16.onnx"}
    assert (folder / "visual" / "model.onnx").stat().st_mtime_ns == before


@pytest.mark.parametrize("place", ["CLIP_DOWNLOAD_ROOT", "the model's folder", "checkpoints"])
def test_a_checkpoint_that_was_placed_is_converted_offline_and_stays(
    settings: Settings, folder: Path, tmp_path: Path, place: str
) -> None:
    root = tmp_path / "downloads"
    where = {
        "CLIP_DOWNLOAD_ROOT": root,
        "the model's folder": folder,
        "checkpoints": tmp_path / "cache" / "checkpoints" / RN50,
    }[place]
    placed = copy_small(RN50, where).rename(where / OFFICIAL[RN50])

    ensure(replace(settings, hf_hub_offline=True, clip_download_root=root))

    assert placed.exists(), "whoever placed it decides about it"
    assert files_in(folder) >= TOWERS


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_transformers_files_do_as_well(site: Site, settings: Settings, tmp_path: Path, file: str) -> None:
    model = "chinese-clip-vit-base-patch16"
    site.hub(f"OFA-Sys/{model}", {file: Page((GOLDEN / "transformers" / file).read_bytes())})

    ensure(settings, model)

    assert files_in(tmp_path / "cache" / "clip" / model) == MADE


def test_modelscope_has_the_checkpoint_where_hugging_face_does_not(
    site: Site, settings: Settings, folder: Path
) -> None:
    site.add(f"/models/AI-ModelScope/{RN50}/resolve/master/{OFFICIAL[RN50]}", golden(RN50))

    ensure(settings)

    assert files_in(folder) == MADE


def test_offline_without_a_checkpoint_says_what_to_place(settings: Settings, folder: Path) -> None:
    with pytest.raises(Unavailable, match="fetching is switched off") as said:
        ensure(replace(settings, hf_hub_offline=True))

    assert str(folder / OFFICIAL[RN50]) in str(said.value)
    assert "OFA-Sys/chinese-clip-rn50/resolve/main/clip_cn_rn50.pt" in str(said.value)


def test_a_hostile_checkpoint_is_deleted_and_not_fetched_again(site: Site, settings: Settings, tmp_path: Path) -> None:
    evil = write_file(tmp_path / "evil.pt", {"state_dict": call(name("os", "system"), f"touch {tmp_path / 'owned'}")})
    page = offer(site, page=Page(evil.read_bytes() + bytes(2000)))
    downloader = Downloader(settings)

    for _ in range(2):
        with pytest.raises(Unavailable, match="has no place among weights; nothing of it was run"):
            downloader.ensure_now(ModelTask.CLIP, RN50, Component.VISUAL)

    assert len(site.downloads(page)) == 1
    assert not (tmp_path / "owned").exists()
    assert files_in(tmp_path / "cache") == set()


def test_what_others_made_of_it_is_the_last_resort(
    site: Site,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tower_check, "CHINESE_CLIP_DIMENSIONS", {VIT: 24})
    monkeypatch.setattr(tower_check, "CHINESE_CLIP_PIXELS", {VIT: 32})
    joint = (GOLDEN / "joint" / "onnx" / "model.onnx").read_bytes()
    site.hub(f"Xenova/{VIT}", {"onnx/model.onnx": Page(joint)})

    ensure(settings, VIT)

    assert "trying what others made of it" in caplog.text
    assert files_in(tmp_path / "cache" / "clip" / VIT) == TOWERS


def leave_partial(model: str, folder: Path) -> None:
    """What a fetch that was cut off leaves of a checkpoint."""
    part = Staging(folder).part(PurePosixPath(OFFICIAL[model]), "of whoever offered it then")
    part.parent.mkdir(parents=True)
    part.write_bytes(golden(model).data[:10_000])


def test_a_partial_checkpoint_is_deleted_once_others_have_brought_the_model(
    site: Site, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tower_check, "CHINESE_CLIP_DIMENSIONS", {VIT: 24})
    monkeypatch.setattr(tower_check, "CHINESE_CLIP_PIXELS", {VIT: 32})
    folder = tmp_path / "cache" / "clip" / VIT
    leave_partial(VIT, folder)
    joint = (GOLDEN / "joint" / "onnx" / "model.onnx").read_bytes()
    site.hub(f"Xenova/{VIT}", {"onnx/model.onnx": Page(joint)})

    ensure(settings, VIT)

    assert files_in(folder) == TOWERS
    assert not (folder / ".partial").exists()


@pytest.mark.parametrize("way", ["from a hub", "by hand"])
def test_a_partial_checkpoint_is_deleted_once_a_whole_one_was_converted(
    site: Site, settings: Settings, folder: Path, tmp_path: Path, way: str
) -> None:
    leave_partial(RN50, folder)
    if way == "from a hub":
        offer(site)
    else:
        root = tmp_path / "downloads"
        copy_small(RN50, root).rename(root / OFFICIAL[RN50])
        settings = replace(settings, clip_download_root=root)

    ensure(settings)

    assert files_in(folder) == MADE
    assert not (folder / ".partial").exists()


def test_both_towers_asked_for_at_once_share_one_fetch_and_one_conversion(
    site: Site, settings: Settings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    page = offer(site)
    downloader = Downloader(settings)
    threads = [
        Thread(target=downloader.ensure_now, args=("clip", RN50, component)) for component in ("visual", "textual")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert files_in(folder) == MADE
    assert site.downloads(page) == [None]
    assert caplog.text.count("converting ") == 1


def test_the_official_file_comes_first_and_a_resnet_has_no_other() -> None:
    assert checkpoint_names(RN50) == ("clip_cn_rn50.pt",)
    assert checkpoint_names(VIT) == ("clip_cn_vit-l-14.pt", "model.safetensors", "pytorch_model.bin")
    assert [source.required[0].name for source in checkpoint_sources(VIT)] == [
        "clip_cn_vit-l-14.pt",
        "clip_cn_vit-l-14.pt",
        "model.safetensors",
        "model.safetensors",
        "pytorch_model.bin",
        "pytorch_model.bin",
    ]


@pytest.mark.parametrize("name", ["RN50", "rn50", "RN50__openai", "chinese-clip-rn50"])
def test_the_command_line_knows_every_name_of_it(settings: Settings, name: str) -> None:
    assert find(settings, name) == ("clip", RN50)
