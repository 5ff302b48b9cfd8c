"""Speed as ratios that hold on any machine, with margins for a busy one: batching pays, a search does not wait for an
import, the server costs little beside its models, padding is not computed.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from server import RunningServer

from benchmarks import models, pictures, requests
from benchmarks.limit import BareSessions
from benchmarks.load import Stream, drive
from benchmarks.requests import Task
from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import LaneKind, TensorInfo
from immich_ml_cn.service import Service
from immich_ml_cn.serving.tasks import ClipVisual, Tasks
from immich_ml_cn.settings import Settings

SHORT = Task("short", requests.clip_textual(models.CLIP), texts=("海边日落时的小狗",))
LONG = Task("long", requests.clip_textual(models.CLIP), texts=("雪山下的蓝色湖泊" * 8,))
IMAGE = Task("image", requests.clip_visual(models.CLIP), images=(pictures.padded(1000),))
ATTEMPTS = 3
"""A machine that is busy with something else may spoil one or two."""


class SleepySession:
    """Takes 20 ms for a batch of any size, as a GPU about does."""

    inputs = (TensorInfo("image", "float32", (None, 3, 32, 32)),)
    outputs = (TensorInfo("embedding", "float32", (None, 512)),)
    metadata: Mapping[str, str] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        time.sleep(0.02)
        return [np.ones((len(feeds["image"]), 512), np.float32)]


class SleepyEngine:
    provider = "CPUExecutionProvider"
    on_gpu = False
    description = "sleep"

    def open(self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False) -> SleepySession:
        return SleepySession()


async def one_by_one_and_together(cache: Path) -> tuple[float, float]:
    """Seconds for 24 pictures sent one after the other, and at once."""
    settings = Settings.from_env({"MACHINE_LEARNING_CACHE_FOLDER": str(cache), "HF_HUB_OFFLINE": "1"})
    service = Service(settings, SleepyEngine(), pytest.fail)
    tasks, image = Tasks(visual=ClipVisual(models.TINY)), pictures.padded(1000)
    async with service.running():
        await service.pipeline.predict(tasks, image, None)
        started = time.perf_counter()
        for _ in range(24):
            await service.pipeline.predict(tasks, image, None)
        turned = time.perf_counter()
        await asyncio.gather(*(service.pipeline.predict(tasks, image, None) for _ in range(24)))
        return turned - started, time.perf_counter() - turned


def test_requests_of_several_clients_share_batches(tmp_path: Path) -> None:
    """Batches of 4 take a quarter of the time; half is enough."""
    models.build_tiny(tmp_path / "clip" / models.TINY / "visual" / "model.onnx")
    runs = [asyncio.run(one_by_one_and_together(tmp_path)) for _ in range(ATTEMPTS)]
    assert min(together / alone for alone, together in runs) < 0.5


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Towers of the real widths with a few of their twelve layers."""
    folder = tmp_path_factory.mktemp("towers")
    towers = folder / "clip" / models.CLIP
    models.build_visual(towers / "visual" / "model.onnx", layers=4)
    models.build_textual(towers / "textual" / "model.onnx", layers=2, width=384)
    return folder


@pytest.fixture(scope="module")
def server(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with RunningServer(folder, MACHINE_LEARNING_CACHE_FOLDER=str(cache)) as running:
        drive("127.0.0.1", running.port, stream(running, IMAGE, 1, 2), stream(running, SHORT, 1, 2))
        yield running


@pytest.fixture(scope="module")
def bare(cache: Path) -> BareSessions:
    return BareSessions.record(cache, [IMAGE, SHORT, LONG])


def stream(server: RunningServer, task: Task, clients: int, count: int | None) -> Stream:
    bodies = tuple(post(server, body) for body in task.bodies())
    return Stream(bodies, clients, count, pause_s=0.005 if task is SHORT else 0.0)


def post(server: RunningServer, body: bytes) -> bytes:
    return requests.post(f"127.0.0.1:{server.port}", "/predict", body)


def test_a_search_does_not_wait_for_an_import(server: RunningServer) -> None:
    """A batch of four pictures takes many times as long as a query: waiting for one would show as 10 times and more."""
    ratios = []
    for _ in range(ATTEMPTS):
        (idle,) = drive("127.0.0.1", server.port, stream(server, SHORT, 1, 20)).outcomes
        probe, imports = stream(server, SHORT, 1, 20), stream(server, IMAGE, 8, None)
        loaded, imported = drive("127.0.0.1", server.port, probe, imports).outcomes
        assert [outcome.failures for outcome in (idle, loaded, imported)] == [{}, {}, {}]
        ratios.append(median(loaded.latencies_s) / median(idle.latencies_s))
    assert min(ratios) < 4


def test_the_server_costs_little_beside_its_model(server: RunningServer, bare: BareSessions) -> None:
    shares = []
    for _ in range(ATTEMPTS):
        limit = bare.batch_rate("image", 1, 6)
        (outcome,) = drive("127.0.0.1", server.port, stream(server, IMAGE, 8, 16)).outcomes
        assert outcome.failures == {}
        shares.append(outcome.rate / limit)
    assert max(shares) > 0.6


def test_padding_is_not_computed(bare: BareSessions) -> None:
    """10 of 52 tokens are measured at a third of the time; two thirds are enough."""
    assert median(bare.latencies("short", 15)) < 0.67 * median(bare.latencies("long", 15))
