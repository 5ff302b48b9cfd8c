"""The downloader: what is in the cache is there at once; what is being fetched can be stopped."""

import asyncio
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import Page, Site
from serving_fakes import TIMEOUT_S, until

from immich_ml_cn.errors import DamagedModel, Unavailable
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.settings import Settings
from immich_ml_cn.settings.addresses import parse_preference
from immich_ml_cn.sources import model_names
from immich_ml_cn.sources.tasks import Component, ModelTask
from immich_ml_cn.store.downloader import MAX_CONCURRENT_DOWNLOADS, Downloader, fetch_options

pytestmark = pytest.mark.anyio

NAME = "ViT-B-32__openai"
GRAPH = bytes(range(256)) * 100


def serve(site: Site, name: str = NAME, graph: Page | None = None) -> None:
    files = {
        "config.json": Page(b"{}"),
        "visual/model.onnx": graph or Page(GRAPH),
        "visual/preprocess_cfg.json": Page(b"{}"),
        "textual/model.onnx": Page(GRAPH + b"textual"),  # the hub keeps equal bytes once
    }
    site.hub(f"immich-app/{name}", files)


def settings(cache: Path, site: Site | None = None) -> Settings:
    if site is None:
        return Settings(cache_folder=cache, hf_hub_offline=True)
    return Settings(cache_folder=cache, hf_endpoint=site.base)


def cached(cache: Path, name: str = NAME) -> Path:
    path = cache / "clip" / name / "visual" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(GRAPH)
    return path


async def test_a_missing_half_is_fetched_and_said(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    serve(site)
    downloader = Downloader(settings(tmp_path, site))
    with caplog.at_level(logging.INFO, logger="immich_ml_cn"):
        await downloader.ensure(ModelTask.CLIP, NAME, Component.VISUAL)
    assert (tmp_path / "clip" / NAME / "visual" / "model.onnx").read_bytes() == GRAPH
    assert not (tmp_path / "clip" / NAME / "textual").exists()
    assert f"fetched clip/{NAME}/visual from" in caplog.text
    downloader.close()


async def test_what_lies_in_the_cache_needs_no_source(tmp_path: Path) -> None:
    """Neither a network nor a name that anybody offers."""
    cached(tmp_path, "my-own-model")
    downloader = Downloader(settings(tmp_path))
    await downloader.ensure(ModelTask.CLIP, "my-own-model", Component.VISUAL)
    downloader.close()


async def test_what_cannot_be_had_is_unavailable_and_says_where_to_put_it(tmp_path: Path) -> None:
    downloader = Downloader(settings(tmp_path))
    with pytest.raises(Unavailable, match=r"switched off; place .*model.onnx"):
        await downloader.ensure(ModelTask.CLIP, NAME, Component.VISUAL)
    downloader.close()


async def test_fetches_are_counted_and_what_is_here_is_none(site: Site, tmp_path: Path) -> None:
    serve(site)
    metrics = Metrics()
    downloader = Downloader(settings(tmp_path, site), metrics)
    for _ in range(2):
        await downloader.ensure(ModelTask.CLIP, NAME, Component.VISUAL)
    downloader.close()
    offline = Downloader(settings(tmp_path / "empty"), metrics)
    with pytest.raises(Unavailable):
        await offline.ensure(ModelTask.CLIP, NAME, Component.VISUAL)
    offline.close()
    model = f"clip/{NAME}/visual"
    assert [
        metrics.registry.get_sample_value("immich_ml_fetches_total", {"model": model, "outcome": outcome})
        for outcome in ("ok", "failed")
    ] == [1, 1]


async def test_a_model_that_is_here_does_not_wait_for_downloads(site: Site, tmp_path: Path) -> None:
    """And `close` stops the downloads; those that had not begun are dropped."""
    names = [name for name in model_names(ModelTask.CLIP) if "SigLIP" in name][: MAX_CONCURRENT_DOWNLOADS + 1]
    for name in names:
        serve(site, name, Page(GRAPH, stall_after=1000))
    cached(tmp_path)
    downloader = Downloader(settings(tmp_path, site))
    downloads = [asyncio.create_task(downloader.ensure(ModelTask.CLIP, name, Component.VISUAL)) for name in names]
    await until(lambda: sum(request.path.startswith("/cdn/") for request in site.requests) >= MAX_CONCURRENT_DOWNLOADS)
    await asyncio.wait_for(downloader.ensure(ModelTask.CLIP, NAME, Component.VISUAL), TIMEOUT_S)
    assert not any(download.done() for download in downloads)
    downloader.close()
    site.closing.set()
    outcomes = await asyncio.wait_for(asyncio.gather(*downloads, return_exceptions=True), TIMEOUT_S)
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Unavailable) for outcome in outcomes) == MAX_CONCURRENT_DOWNLOADS
    await until(lambda: not any(thread.name.startswith("fetch") for thread in threading.enumerate()))


class TestQuarantine:
    async def test_a_damaged_file_is_renamed_once(self, tmp_path: Path) -> None:
        path = cached(tmp_path)
        downloader = Downloader(Settings(cache_folder=tmp_path))
        damage = DamagedModel(path, "cut short")
        assert downloader.quarantine(ModelTask.CLIP, NAME, Component.VISUAL, damage)
        assert not path.exists()
        assert [file.read_bytes() for file in path.parent.iterdir()] == [GRAPH]
        path.write_bytes(GRAPH)
        assert not downloader.quarantine(ModelTask.CLIP, NAME, Component.VISUAL, damage), (
            "the same bytes again will not help"
        )
        assert path.exists()
        downloader.close()

    @pytest.mark.parametrize("way", ["plain", "..", "link"])
    async def test_what_is_not_in_the_cache_is_not_touched(self, tmp_path: Path, way: str) -> None:
        """Whatever its path looks like."""
        path = cached(tmp_path / "elsewhere")
        cache = tmp_path / "cache"
        (cache / "clip").mkdir(parents=True)
        if way == "..":
            path = cache / ".." / path.relative_to(tmp_path)
        if way == "link":
            (cache / "clip" / NAME).symlink_to(path.parent.parent)
            path = cache / "clip" / NAME / "visual" / "model.onnx"
        downloader = Downloader(Settings(cache_folder=cache))
        assert not downloader.quarantine(ModelTask.CLIP, NAME, Component.VISUAL, DamagedModel(path, "cut short"))
        assert path.exists()
        downloader.close()

    @pytest.mark.parametrize(("name", "offline"), [("my-own-model", False), (NAME, True)])
    async def test_what_cannot_be_fetched_again_stays(self, tmp_path: Path, name: str, offline: bool) -> None:
        """A file that nobody can bring again would be lost to its owner."""
        path = cached(tmp_path, name)
        downloader = Downloader(Settings(cache_folder=tmp_path, hf_hub_offline=offline))
        assert not downloader.quarantine(ModelTask.CLIP, name, Component.VISUAL, DamagedModel(path, "cut short"))
        assert path.exists()
        downloader.close()

    async def test_a_file_that_cannot_be_renamed_stays_a_failure(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        downloader = Downloader(Settings(cache_folder=tmp_path))
        (tmp_path / "clip").mkdir()
        damage = DamagedModel(tmp_path / "clip" / "gone.onnx", "cut short")
        assert not downloader.quarantine(ModelTask.CLIP, NAME, Component.VISUAL, damage)
        assert "cannot be set aside" in caplog.text
        downloader.close()


def test_options_are_the_settings() -> None:
    options = fetch_options(
        replace(
            Settings(),
            model_source=parse_preference("modelscope"),
            hf_endpoint="http://mirror",
            hf_token="hf_x",
            hf_hub_offline=True,
        )
    )
    assert options.preference.order == ("modelscope",)
    assert (options.hf_endpoint, options.hf_token, options.offline) == ("http://mirror", "hf_x", True)
    assert fetch_options(Settings()).hf_endpoint is None
    assert fetch_options(Settings()).hf_token is None
