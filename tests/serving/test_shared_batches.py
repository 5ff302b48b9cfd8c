"""Requests of several clients share batches, from the picture's bytes to the answer."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serving_fakes import until

from benchmarks import models, pictures
from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import LaneKind, TensorInfo
from immich_ml_cn.service import Service
from immich_ml_cn.serving.tasks import ClipVisual, Tasks
from immich_ml_cn.settings import Settings

REQUESTS = 25
MAX_BATCH = 4


class GatedSession:
    """Runs nothing before its gate is open; remembers the size of each batch."""

    inputs = (TensorInfo("image", "float32", (None, 3, 32, 32)),)
    outputs = (TensorInfo("embedding", "float32", (None, 512)),)
    metadata: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[int] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.batches.append(len(feeds["image"]))
        assert self.gate.wait(60)
        return [np.ones((len(feeds["image"]), 512), np.float32)]


class GatedEngine:
    provider = "CPUExecutionProvider"
    on_gpu = False
    description = "gated"

    def __init__(self, session: GatedSession) -> None:
        self.session = session

    def import_library(self) -> None: ...

    def release_memory(self) -> None: ...

    def open(
        self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False, pinned: bool = False
    ) -> GatedSession:
        return self.session


@pytest.mark.anyio
async def test_requests_that_wait_together_run_together(tmp_path: Path) -> None:
    models.build_tiny(tmp_path / "clip" / models.TINY / "visual" / "model.onnx")
    session = GatedSession()
    settings = Settings(cache_folder=tmp_path, hf_hub_offline=True, max_batch_clip=MAX_BATCH)
    service = Service(settings, GatedEngine(session), pytest.fail)
    tasks, image = Tasks(visual=ClipVisual(models.TINY)), pictures.padded(1000)
    async with service.running():
        requests = [asyncio.ensure_future(service.pipeline.predict(tasks, image, None)) for _ in range(REQUESTS)]
        await until(lambda: sum(session.batches) + _waiting(service) == REQUESTS)
        session.gate.set()
        answers = await asyncio.gather(*requests)
    assert len(answers) == REQUESTS
    first, *others = session.batches
    assert sum(session.batches) == REQUESTS
    assert len(others) == -(-(REQUESTS - first) // MAX_BATCH)


def _waiting(service: Service) -> int:
    return sum(state.get("waiting", 0) for state in service.registry.details().values())
