"""OpenVINO, on the CPU and on Intel graphics. The only importer of openvino."""

import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from immich_ml_cn import memory
from immich_ml_cn.errors import DamagedModel
from immich_ml_cn.messages import tr
from immich_ml_cn.settings import Settings

from . import self_test
from .artefact_cache import ArtefactCache
from .cores import all_threads, threads_for
from .edited_graphs import EditedGraphs
from .engine import EngineError, LoadError
from .graphs.files import Graph, graph_bytes, graph_name
from .graphs.metadata import read_metadata
from .graphs.openvino_rewrites import rewrite
from .openvino_session import OpenVinoParallelSession, OpenVinoSession, reason_of
from .packages import version
from .parallel import RunThreads
from .session import LaneKind, Session

logger = logging.getLogger(__name__)

Device = Literal["CPU", "GPU"]

CACHE_FOLDER: Final = "openvino"
"""The folder of compiled models beside a model, as in Immich's cache."""

MAX_CACHED_KERNELS: Final = 512
"""Kernels that a session caches, one per operation and input shape. OpenVINO's default is 5,000: 400 MB after 96 OCR
shapes."""

MAX_REWRITTEN_BYTES: Final = 128 << 20
"""Graphs up to this size have their slow parts rewritten. CLIP's, which have none, are larger: they stay files that
are not even read where their compiled form is cached."""

_DAMAGE: Final = ("Unable to read the model", "Model can't be parsed", "Error during import of ONNX model")
"""What OpenVINO says of a file that is no ONNX graph, or half of one."""

_SPREAD: Final = 1 << 22
"""Elements of the warm-up input: enough for every worker thread to get some."""


class OpenVinoEngine:
    """OpenVINO on one kind of device.

    On the CPU all sessions of the process share one pool of worker threads (TBB's: one less than there are cores), and
    each worker keeps the priority of the thread that first needed it. They are started here at normal priority: a
    search must not wait for a worker that every other process may push aside, and a priority cannot be raised again.
    What a bulk lane's own thread computes still has the lowest.
    """

    provider = "OpenVINO"

    def __init__(self, settings: Settings, device: Device = "CPU", *, keep_compiled: bool = True) -> None:
        """
        Args:
            device: the CPU, or the Intel graphics of `settings.device_ids`.
            keep_compiled: write compiled models to disk, for the next time.

        Raises:
            EngineError: OpenVINO is not installed, or the device does not compute; the message says which.
        """
        self.on_gpu = device == "GPU"
        self._settings = settings
        self._device = device
        self._keep_compiled = keep_compiled
        self._edited = EditedGraphs(settings.cache_folder)
        self._run_threads = RunThreads(all_threads(settings))
        self._core = _core()
        self._names = [f"GPU.{number}" for number in settings.device_ids] if self.on_gpu else ["CPU"]
        self.precision = "f32"
        self._test()
        self.precision = self._best_precision()

    @property
    def description(self) -> str:
        runtime = f"OpenVINO {version('openvino')}"
        if not self.on_gpu:
            return f"CPU, {threads_for(self._settings, 'interactive')} threads, {self.precision} ({runtime})"
        names = (f"{name.removeprefix('GPU.')}: {self._property(name, 'FULL_DEVICE_NAME')}" for name in self._names)
        return f"GPU {', '.join(names)}, {self.precision} ({runtime})"

    def import_library(self) -> None:
        """See `Engine.import_library`: it was imported when this was made."""

    def release_memory(self) -> None:
        """See `Engine.release_memory`."""
        self._run_threads.release()
        memory.release()

    def open(
        self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False, pinned: bool = False
    ) -> Session:
        """See `Engine.open`; a CPU has no device numbers, graphics take batches."""
        del pinned
        graph = self._edited.file_or_data(graph)
        if isinstance(graph, Path) and not graph.is_file():
            raise LoadError(tr("{path} cannot be loaded: there is no such file", path=graph))
        if self.on_gpu:
            return self._session(graph, f"GPU.{device_id}", self._shared_config())
        threads = threads_for(self._settings, kind)
        session = self._session(graph, "CPU", self._cpu_config(threads))
        if not parallel or graph_bytes(graph) > MAX_REWRITTEN_BYTES:
            return session  # images gain nothing from it
        single = self._session(graph, "CPU", self._cpu_config(threads, threads), threads) if threads > 1 else session
        return OpenVinoParallelSession(session, single, threads, self._run_threads)

    def _session(self, graph: Path | bytes, name: str, config: dict[str, Any], requests: int = 1) -> OpenVinoSession:
        compiled = self._compile(graph, name, config)
        return OpenVinoSession(compiled, _metadata(graph), requests, keep_memory=self._settings.model_arena)

    def _test(self) -> None:
        for number, name in enumerate(self._names):
            device_id = self._settings.device_ids[number] if self.on_gpu else 0
            fault = self_test.fault(partial(self.open, kind="bulk", device_id=device_id))
            if fault is not None:
                raise EngineError(tr("{name}: {fault}", name=name, fault=fault))
        if not self.on_gpu:
            self._start_workers()

    def _start_workers(self) -> None:
        """Start every worker thread now, from a thread of normal priority."""
        session = self.open(self_test.DOUBLING, "interactive", 0)
        for _ in range(3):
            session.run({"x": np.zeros(_SPREAD, np.float32)})

    def _best_precision(self) -> str:
        """The precision asked for, or f32 where a device cannot compute in it."""
        wanted = self._settings.openvino_precision
        if wanted == "auto":
            return next((p for p in (("f16",) if self.on_gpu else ("bf16",)) if self._can(p)), "f32")
        if not self._can(wanted):
            device = "the graphics" if self.on_gpu else "the CPU"
            logger.warning("OpenVINO computes in f32: %s has no arithmetic in %s", device, wanted)
            return "f32"
        return wanted

    def _can(self, precision: str) -> bool:
        capability = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}[precision]
        return precision == "f32" or all(
            capability in self._property(name, "OPTIMIZATION_CAPABILITIES") for name in self._names
        )

    def _property(self, name: str, key: str) -> Any:
        return self._core.get_property(name, key)

    def _shared_config(self) -> dict[str, Any]:
        return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self.precision}

    def _cpu_config(self, threads: int, streams: int = 1) -> dict[str, Any]:
        """For `streams` runs at once that share `threads`."""
        return {
            **self._shared_config(),
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # or every session sits on the same cores
            "CPU_RUNTIME_CACHE_CAPACITY": MAX_CACHED_KERNELS,
        }

    def _compile(self, graph: Path | bytes, name: str, config: dict[str, Any]) -> Any:
        folder = self._cache_folder(graph)
        if folder is not None:
            try:
                return self._compiled(graph, name, {**config, "CACHE_DIR": str(folder)})
            except RuntimeError as error:
                logger.debug("not compiled with %s: %s", folder, reason_of(error))
            finally:
                memory.release()
        try:
            return self._compiled(graph, name, config)
        except RuntimeError as error:
            if isinstance(graph, Path) and any(words in str(error) for words in _DAMAGE):
                raise DamagedModel(graph, "it is not a whole ONNX graph") from error
            raise LoadError(
                tr("{path} cannot be loaded: {reason}", path=graph_name(graph), reason=reason_of(error))
            ) from error
        finally:
            memory.release()

    def _compiled(self, graph: Path | bytes, name: str, config: dict[str, Any]) -> Any:
        return self._core.compile_model(self._source(graph), name, config)

    def _source(self, graph: Path | bytes) -> Any:
        """What OpenVINO compiles: the path of a file that is not to be rewritten, else the graph that was read."""
        if isinstance(graph, Path) and (self.on_gpu or graph.stat().st_size > MAX_REWRITTEN_BYTES):
            return str(graph)
        model = self._core.read_model(str(graph) if isinstance(graph, Path) else graph)
        if not self.on_gpu and graph != self_test.DOUBLING:
            from openvino import opset13

            rewrite(model, opset13)
        return model

    def _cache_folder(self, graph: Path | bytes) -> Path | None:
        """Where a file's compiled form is kept; None where nothing can be written, and for a graph in memory.

        OpenVINO's own test for a changed file misses some: it looks at the path, the size and whole seconds.
        """
        if not self._keep_compiled or isinstance(graph, bytes):
            return None
        artefacts = ArtefactCache(self._settings.cache_folder, CACHE_FOLDER, self._device_key, version("openvino"))
        try:
            folder = artefacts.folder_for(graph)
            folder.mkdir(parents=True, exist_ok=True)
            artefacts.prune(graph)
        except OSError as error:
            logger.debug("compiled models are not kept: %s", error)
            return None
        artefacts.touch(graph)
        return folder

    @property
    def _device_key(self) -> str:
        return f"{self._device.lower()}-{self.precision}"


def graphics() -> list[str]:
    """The names of the graphics that OpenVINO can use.

    Raises:
        EngineError: there is no working OpenVINO.
    """
    return [name for name in _core().available_devices if name.startswith("GPU")]


def _core() -> Any:
    if not version("openvino"):
        raise EngineError(tr("OpenVINO is not installed; install immich-ml-cn[openvino]"))
    tools = "openvino.tools.ovc"
    hidden = tools not in sys.modules
    if hidden:
        # Its converter takes more than half of the import's time and brings a telemetry client.
        sys.modules[tools] = None  # type: ignore[assignment]
    try:
        import openvino

        return openvino.Core()
    except Exception as error:
        raise EngineError(tr("OpenVINO cannot be started: {reason}", reason=error)) from error
    finally:
        if hidden:
            del sys.modules[tools]


def _metadata(graph: Path | bytes) -> Mapping[str, str]:
    try:
        return read_metadata(graph)
    except ValueError as error:
        if isinstance(graph, Path):
            raise DamagedModel(graph, f"it is {error}") from error
        raise LoadError(tr("{path} cannot be loaded: it is {reason}", path=graph_name(graph), reason=error)) from error
