"""The real server on an engine that fails as FAULT says: `python tests/faulty_server.py`, see `FaultyServer`.

A fault is injected where ONNX Runtime would show it: in the run or the opening of a session. FAULT_GRAPH names the
graphs that it concerns, by a part of their path. A codec or a system call that never returns is put in its place.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from server import RunningServer  # noqa: E402

from immich_ml_cn.engines import CpuEngine  # noqa: E402
from immich_ml_cn.engines.graphs.files import Graph  # noqa: E402
from immich_ml_cn.engines.session import LaneKind, Session  # noqa: E402
from immich_ml_cn.settings import Settings  # noqa: E402

POISON = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"
DEVICE_FAILURE = "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0"
MEMORY = "BFCArena::AllocateRawInternal Available memory of 1024 is smaller than requested bytes of 4194304"
PRIVATE = "something nobody foresaw"


class FaultyServer(RunningServer):
    """A real server with a fault in its engine: give FAULT, and FAULT_GRAPH where not all graphs are meant."""

    command = (str(Path(__file__)),)


class FaultySession:
    """A session that fails as told, at its n-th run (from 1)."""

    def __init__(self, session: Session, fault: Callable[[int], None]) -> None:
        self._session = session
        self._fault = fault
        self._runs = 0
        self.inputs, self.outputs, self.metadata = session.inputs, session.outputs, session.metadata

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.floating[Any]]]:
        self._runs += 1
        self._fault(self._runs)
        return self._session.run(feeds)


def _raise(message: str) -> NoReturn:
    raise RuntimeError(message)


def _hang() -> NoReturn:
    while True:
        threading.Event().wait()


def _once(action: Callable[[], Any]) -> Callable[[int], None]:
    def fault(run: int) -> None:
        if run == 1:
            action()

    return fault


RUN_FAULTS: dict[str, Callable[[int], None]] = {
    "always": lambda run: _raise(PRIVATE),
    "once": _once(lambda: _raise(PRIVATE)),
    "poison": lambda run: _raise(POISON),
    "device": lambda run: _raise(DEVICE_FAILURE),
    "device-twice": lambda run: _raise(DEVICE_FAILURE) if run in (1, 2, 4, 5) else None,
    "memory": lambda run: _raise(MEMORY),
    "memory-once": _once(lambda: _raise(MEMORY)),
    "hang": lambda run: _hang(),
    "slow": lambda run: time.sleep(2),
}


STUCK_CALLS: dict[str, tuple[str, ...]] = {
    "decoding-hangs": ("immich_ml_cn.models.images.decode",),
    "counting-hangs": ("immich_ml_cn.service.exposition",),
}
"""Functions of the CPU pool, and of asyncio's own threads."""


class FaultyEngine(CpuEngine):
    """The CPU, with a fault."""

    def __init__(self, settings: Settings, fault: str, graph: str) -> None:
        super().__init__(settings)
        self._fault = fault
        self._graph = graph

    def open(
        self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False, pinned: bool = False
    ) -> Session:
        concerned = self._graph in ("memory" if isinstance(graph, bytes) else str(graph))
        if concerned and self._fault == "load-hangs":
            _hang()
        if concerned and self._fault == "load-memory":
            raise MemoryError
        session = super().open(graph, kind, device_id, parallel=parallel, pinned=pinned)
        return FaultySession(session, RUN_FAULTS[self._fault]) if concerned and self._fault in RUN_FAULTS else session


def main() -> int:
    """Serve, with the fault of the environment."""
    from immich_ml_cn import logs
    from immich_ml_cn.web.server import serve

    settings = Settings.from_env()
    for place in STUCK_CALLS.get(os.environ["FAULT"], ()):
        patch(place, lambda *args: _hang()).start()
    logs.set_up(settings.log_level, no_color=True)
    fault, graph = os.environ["FAULT"], os.environ.get("FAULT_GRAPH", "")
    return serve(settings, lambda chosen: FaultyEngine(chosen, fault, graph))


if __name__ == "__main__":
    sys.exit(main())
