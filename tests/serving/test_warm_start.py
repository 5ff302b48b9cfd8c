"""After the start: libraries are imported and the models used last are loaded, while nobody asks."""

import asyncio
from pathlib import Path

import pytest
from serving_fakes import Doubler, FakeEngine, a_lane, settle, states, until

from immich_ml_cn import memory
from immich_ml_cn.serving import warm_start as module
from immich_ml_cn.serving.catalogue import BUNDLED_OCR, Catalogue
from immich_ml_cn.serving.recent_models import RecentModels
from immich_ml_cn.serving.registry import Registry
from immich_ml_cn.serving.spec import ModelSpec
from immich_ml_cn.serving.tasks import ClipVisual, OcrTask, Tasks
from immich_ml_cn.serving.warm_start import WarmStart
from immich_ml_cn.settings import Settings
from immich_ml_cn.store.downloader import Downloader

pytestmark = pytest.mark.anyio

BUSY = ModelSpec("busy", "bulk", 1, lambda open_session: Doubler())


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELAY_S", 0.0)


def recent(folder: Path, *used: Tasks) -> RecentModels:
    run = RecentModels(folder)
    for tasks in used:
        run.count(tasks)
    run.save()
    return RecentModels(folder)


def catalogue(folder: Path) -> Catalogue:
    settings = Settings(cache_folder=folder, hf_hub_offline=True)
    return Catalogue(settings, Downloader(settings), on_gpu=False)


async def test_only_what_is_here_is_loaded_and_the_next_start_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled OCR models are; a CLIP model that would have to be downloaded and a name of nobody's are not."""
    loaded: list[str] = []

    async def load(self: Registry, spec: ModelSpec[Doubler]) -> None:
        if spec.is_here is None or spec.is_here():
            loaded.append(spec.key)

    monkeypatch.setattr(Registry, "load_if_here", load)
    used = (
        Tasks(ocr=OcrTask(BUNDLED_OCR, BUNDLED_OCR)),
        Tasks(visual=ClipVisual("ViT-B-32__openai")),
        Tasks(visual=ClipVisual("nobody's")),
    )
    engine = FakeEngine()
    with a_lane() as lane:
        registry = Registry(engine, [lane], ttl_s=300, wait_s=10)
        await WarmStart(engine, catalogue(tmp_path), registry, recent(tmp_path, *used)).run()
        await registry.close()
    assert engine.imported
    assert loaded == [
        f"ocr/{BUNDLED_OCR}/detection (bundled)",
        "ocr/orientation",
        f"ocr/{BUNDLED_OCR}/recognition (bundled)",
    ]
    assert RecentModels(tmp_path).take() == list(used)


async def test_nothing_is_done_while_a_request_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_POLL_S", 0.001)
    engine = FakeEngine()
    with a_lane() as lane:
        registry = Registry(engine, [lane], ttl_s=300, wait_s=10)
        async with registry.lease(BUSY):
            task = asyncio.create_task(WarmStart(engine, catalogue(tmp_path), registry, RecentModels(tmp_path)).run())
            await settle()
            assert not engine.imported
        await until(lambda: engine.imported)
        await task
        await registry.close()


async def test_whoever_is_busy_all_the_time_has_loaded_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up, and forgets nothing."""
    monkeypatch.setattr(module, "IDLE_POLL_S", 0.001)
    monkeypatch.setattr(module, "TIME_LIMIT_S", 0.02)
    engine, used = FakeEngine(), Tasks(ocr=OcrTask(BUNDLED_OCR, BUNDLED_OCR))
    with a_lane() as lane:
        registry = Registry(engine, [lane], ttl_s=300, wait_s=10)
        async with registry.lease(BUSY):
            await WarmStart(engine, catalogue(tmp_path), registry, recent(tmp_path, used)).run()
        assert states(registry) == {"busy": "ready"}
        await registry.close()
    assert not engine.imported
    assert RecentModels(tmp_path).take() == [used]


async def test_models_wait_for_a_request_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries are imported all the same, and the next start tries again."""
    engine, used = FakeEngine(), Tasks(ocr=OcrTask(BUNDLED_OCR, BUNDLED_OCR))
    monkeypatch.setattr(memory, "free_bytes", lambda: module.MIN_FREE_BYTES - 1)
    with a_lane() as lane:
        registry = Registry(engine, [lane], ttl_s=300, wait_s=10)
        await WarmStart(engine, catalogue(tmp_path), registry, recent(tmp_path, used)).run()
        assert states(registry) == {}
        await registry.close()
    assert engine.imported
    assert RecentModels(tmp_path).take() == [used]


async def test_what_requests_need_beside_models_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(module, "import_module", imported.append)
    engine = FakeEngine()
    with a_lane() as lane:
        registry = Registry(engine, [lane], ttl_s=300, wait_s=10)
        more = ("of.the.search",)
        await WarmStart(engine, catalogue(tmp_path), registry, RecentModels(tmp_path), more_modules=more).run()
        await registry.close()
    assert imported == [*module.MODULES, *more]
