"""The service: its lanes, what it preloads, and an end that nothing holds up."""

import asyncio
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving_fakes import TIMEOUT_S, Doubler, FakeEngine, happens, states, until

from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.engines.session import OpenSession
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.service import Service
from immich_ml_cn.serving.registry import Registry
from immich_ml_cn.serving.spec import ModelSpec
from immich_ml_cn.settings import Settings

pytestmark = pytest.mark.anyio


def settings(folder: Path, **values: Any) -> Settings:
    return Settings(**{"cache_folder": folder, "hf_hub_offline": True, "request_threads": 1, **values})


def build(open_session: OpenSession) -> Doubler:
    open_session(Path("model.onnx"))
    return Doubler()


BULK = ModelSpec("bulk", "bulk", 4, build)
TEXT = ModelSpec("text", "interactive", 4, build)


async def double(service: Service, spec: ModelSpec[Doubler]) -> None:
    async with service.registry.lease(spec) as loaded:
        assert await loaded.batcher.submit(4) == 8


@pytest.mark.parametrize(
    ("on_gpu", "device_ids", "workers", "opened"),
    [
        (True, (0,), 1, [("bulk", 0), ("interactive", 0)]),
        (True, (1, 3), 1, [("bulk", 1), ("bulk", 3), ("interactive", 1)]),
        (True, (1, 3), 3, [("bulk", 1), ("bulk", 3), ("bulk", 1), ("interactive", 1)]),
        (False, (0, 1), 1, [("bulk", 0), ("interactive", 0)]),
        (False, (0,), 2, [("bulk", 0), ("bulk", 0), ("interactive", 0)]),
    ],
)
async def test_each_gpu_and_worker_has_a_bulk_lane(
    tmp_path: Path, on_gpu: bool, device_ids: tuple[int, ...], workers: int, opened: list[tuple[str, int]]
) -> None:
    engine = FakeEngine(on_gpu=on_gpu)
    fatal_errors: list[str] = []
    service = Service(settings(tmp_path, device_ids=device_ids, workers=workers), engine, fatal_errors.append)
    async with service.running():
        await double(service, BULK)
        await double(service, TEXT)
    assert engine.opened == opened
    assert not fatal_errors
    assert service.stuck == ()


async def test_a_task_can_keep_to_one_gpu(tmp_path: Path) -> None:
    """Its texts too; what is not pinned is on all of them."""
    engine = FakeEngine(on_gpu=True)
    chosen = settings(tmp_path, device_ids=(0, 1), task_devices={"clip": 1})
    service = Service(chosen, engine, pytest.fail)
    async with service.running():
        await double(service, replace(BULK, key="pinned", device=1))
        await double(service, BULK)
        await double(service, TEXT)
    assert engine.opened == [("bulk", 1), ("bulk", 0), ("bulk", 1), ("interactive", 1)]


async def test_its_threads_end_with_it(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    service = Service(settings(tmp_path), FakeEngine(), pytest.fail)
    async with service.running():
        await double(service, BULK)
        assert {thread.name for thread in set(threading.enumerate()) - before} >= {
            "interactive-run",
            "interactive-load",
            "bulk-0-run",
            "bulk-0-load",
        }
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if not name.startswith("asyncio")}
    with pytest.raises(Unavailable, match="shutting down"):
        await double(service, BULK)


async def test_a_batch_that_hangs_is_fatal(tmp_path: Path) -> None:
    fatal_errors: list[str] = []
    model = Doubler()
    model.gate.clear()
    service = Service(settings(tmp_path, worker_timeout_s=0.05), FakeEngine(), fatal_errors.append)
    spec = ModelSpec("m", "bulk", 1, lambda open_session: model)
    async with service.running(), service.registry.lease(spec) as loaded:
        task = asyncio.create_task(loaded.batcher.submit(1))
        await until(lambda: fatal_errors)
        model.gate.set()
        await task
    assert "bulk-0 has been running for over 0.05 s" in fatal_errors[0]


async def test_idle_models_are_swept_out(tmp_path: Path) -> None:
    service = Service(settings(tmp_path, model_ttl_s=0.01, model_ttl_poll_s=0.01), FakeEngine(), pytest.fail)
    async with service.running():
        await double(service, BULK)
        await until(lambda: not states(service.registry))


@pytest.mark.parametrize("off", [{"model_ttl_s": 0.0}, {"model_ttl_poll_s": 0.0}])
async def test_without_a_time_to_live_nobody_sweeps(tmp_path: Path, off: dict[str, float]) -> None:
    values = {"model_ttl_s": 0.01, "model_ttl_poll_s": 0.01, **off}
    service = Service(settings(tmp_path, **values), FakeEngine(), pytest.fail)
    async with service.running():
        assert "sweeper" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_preloaded_models_are_ready_before_the_first_request_and_stay(tmp_path: Path) -> None:
    """A real one: PP-OCRv6_small comes inside the rapidocr wheel."""
    chosen = settings(tmp_path, preload_ocr_recognition=("PP-OCRv6_small",), intra_op_threads=1)
    service = Service(chosen, CpuEngine(chosen), pytest.fail)
    async with service.running():
        assert list(states(service.registry).values()) == ["ready"]
        assert await service.registry.unload_idle(at_once=True) == 0


async def test_what_cannot_be_preloaded_is_logged_and_the_service_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(
        tmp_path, preload_clip_textual=("no-such-model",), preload_clip_visual=("ViT-B-16-SigLIP2__webli",)
    )
    service = Service(chosen, FakeEngine(), pytest.fail)
    with caplog.at_level(logging.WARNING):
        async with service.running():
            assert states(service.registry) == {}
            await double(service, BULK)
    assert "cannot preload: Unknown clip model 'no-such-model'" in caplog.text
    assert "not preloaded: clip/ViT-B-16-SigLIP2__webli/visual is not available" in caplog.text


async def test_a_load_that_does_not_end_does_not_hold_up_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The lane is named, so that the process can be ended without tearing down a thread in native code."""
    begun, gate = threading.Event(), threading.Event()

    def stuck(open_session: OpenSession) -> Doubler:
        begun.set()
        assert gate.wait(TIMEOUT_S)
        return Doubler()

    service = Service(settings(tmp_path, shutdown_timeout_s=0.1), FakeEngine(), pytest.fail)
    async with service.running():
        await double(service, BULK)
        task = asyncio.create_task(double(service, ModelSpec("slow", "bulk", 1, stuck)))
        await happens(begun)
    assert service.stuck == ("bulk-0",)
    assert "still busy at the end: bulk-0" in caplog.text
    gate.set()
    with pytest.raises(Unavailable, match="shutting down"):
        await task


async def test_a_part_that_fails_to_close_leaves_no_thread_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    service = Service(settings(tmp_path), FakeEngine(), pytest.fail)
    close = Registry.close

    async def failing_close(registry: Registry, timeout_s: float) -> None:
        await close(registry, timeout_s)
        raise OSError("broken")

    async def run() -> None:
        async with service.running():
            await double(service, BULK)

    monkeypatch.setattr(Registry, "close", failing_close)
    with pytest.raises(OSError, match="broken"):
        await run()
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if name.startswith(("bulk", "interactive"))}
    assert service.stuck == ()


async def test_background_tasks_have_ended_with_it(tmp_path: Path) -> None:
    """A cancelled task may still be cleaning up: nothing it uses is closed before."""
    ended: list[str] = []
    service = Service(settings(tmp_path, model_ttl_s=1.0, model_ttl_poll_s=60.0), FakeEngine(), pytest.fail)

    async def sweep(poll_s: float) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append("sweeper")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "sweep_forever", lambda registry, poll_s: sweep(poll_s))
        async with service.running():
            await asyncio.sleep(0)
        assert ended == ["sweeper"]
