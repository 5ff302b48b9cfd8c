"""Sessions of OpenVINO, on the CPU and on Intel graphics. The only importer of openvino."""

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn import memory
from immich_ml_cn.errors import DamagedModel
from immich_ml_cn.messages import tr
from immich_ml_cn.settings import Settings

from . import self_test
from .artefact_cache import ArtefactCache
from .cores import threads_for
from .edited_graphs import EditedGraphs
from .engine import EngineError, LoadError
from .graphs.files import Graph, graph_bytes, graph_name
from .graphs.metadata import read_metadata
from .graphs.openvino_rewrites import rewrite
from .packages import version
from .parallel import CpuParallelSession
from .session import LaneKind, Session, TensorInfo

logger = logging.getLogger(__name__)

Device = Literal["CPU", "GPU"]

Feeds: TypeAlias = Mapping[str, NDArray[Any]]

CACHE_FOLDER: Final = "openvino"
"""The folder of compiled models beside a model, as in Immich's cache."""

MAX_CACHED_KERNELS: Final = 512
"""Kernels that a session caches, one per operation and input shape. OpenVINO's default is 5,000: 400 MB after 96 OCR
shapes."""

MAX_REWRITTEN_BYTES: Final = 128 << 20
"""Graphs up to this size have their slow parts rewritten. CLIP's, which have none, are larger: they stay files that
are not even read where their compiled form is cached."""

MAX_BATCHED_SIZE: Final = 1 << 15
"""Elements of an input up to which inputs of one shape run as a batch: the line classifier's crops, and lines up to
224 px. Longer lines gain nothing, and leave a thread waiting at the end."""

MAX_BATCH: Final = 8

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
        return OpenVinoParallelSession(session, single, threads)

    def _session(self, graph: Path | bytes, name: str, config: dict[str, Any], requests: int = 1) -> "OpenVinoSession":
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
                logger.debug("not compiled with %s: %s", folder, _reason(error))
            finally:
                memory.release()
        try:
            return self._compiled(graph, name, config)
        except RuntimeError as error:
            if isinstance(graph, Path) and any(words in str(error) for words in _DAMAGE):
                raise DamagedModel(graph, "it is not a whole ONNX graph") from error
            raise LoadError(
                tr("{path} cannot be loaded: {reason}", path=graph_name(graph), reason=_reason(error))
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


class OpenVinoSession:
    """`Session` on OpenVINO."""

    def __init__(
        self, compiled: Any, metadata: Mapping[str, str], requests: int = 1, *, keep_memory: bool = True
    ) -> None:
        """
        Args:
            metadata: of the graph; OpenVINO does not keep it.
            requests: how many threads may call `run` at once.
            keep_memory: from one run to the next, for what is computed on the way; several at once keep theirs until
                `release`.
        """
        self._compiled = compiled
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(requests):
            self._requests.put(compiled.create_infer_request())
        self._exclusive = requests == 1
        self._keep_memory = keep_memory
        self.inputs = tuple(_tensor_info(port) for port in compiled.inputs)
        self.outputs = tuple(_tensor_info(port) for port in compiled.outputs)
        self.metadata = metadata
        self._dtypes = {info.name: np.dtype(info.dtype) for info in self.inputs}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `Session.run`.

        Raises:
            ValueError: the inputs are not those of the graph; OpenVINO would compute with an empty or an older one.
            RuntimeError: OpenVINO failed.
        """
        given = {name: array.dtype for name, array in feeds.items()}
        if given != self._dtypes:
            raise ValueError(f"the graph takes {self._dtypes}, not {given}")
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        request = self._requests.get()
        try:
            results = request.infer(arrays, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise RuntimeError(f"OpenVINO failed: {_reason(error)}") from error
        finally:
            self._requests.put(request)
        outputs: list[NDArray[Any]] = [results[index] for index in range(len(self.outputs))]
        if self._exclusive:
            self.release()
        return outputs

    def release(self) -> None:
        """Give back what is not to be kept; nothing may be running."""
        if not self._keep_memory:
            self._compiled.release_memory()


class OpenVinoParallelSession(CpuParallelSession):
    """`ParallelSession` on the CPU: as many runs at once as there are threads, in streams of one compiled model, which
    share its weights. Small inputs of one shape are run as a batch, where the graph has a dynamic batch axis."""

    def __init__(self, latency: OpenVinoSession, streams: OpenVinoSession, threads: int) -> None:
        """
        Args:
            latency: one run at a time, on all threads.
            streams: `threads` runs at a time, on one thread each.
        """
        super().__init__(latency, streams, threads)
        self._streams = streams
        self._takes_batches = all(info.shape[:1] == (None,) for info in (*streams.inputs, *streams.outputs))

    def run_parallel(self, feeds: Sequence[Feeds]) -> list[list[NDArray[Any]]]:
        """See `ParallelSession.run_parallel`; each of `feeds` is a batch of one where the graph takes any number.

        Raises:
            ValueError, RuntimeError: as `OpenVinoSession.run`, for one of them; the others ran or never will.
        """
        batches = _batches(feeds) if self._takes_batches else [[feed] for feed in feeds]
        try:
            outputs = super().run_parallel([_joined(batch) for batch in batches])
        finally:
            self._streams.release()
        if len(batches) == len(feeds):
            return outputs
        counts = [len(batch) for batch in batches]
        return [
            [output[index : index + 1] for output in of_batch]
            for of_batch, count in zip(outputs, counts, strict=True)
            for index in range(count)
        ]


def _batches(feeds: Sequence[Feeds]) -> list[list[Feeds]]:
    """Group neighbours of equal names, types and shapes, up to `MAX_BATCH` of at most `MAX_BATCHED_SIZE` elements."""
    batches: list[list[Feeds]] = []
    for feed in feeds:
        small = all(array.size <= MAX_BATCHED_SIZE for array in feed.values())
        if small and batches and len(batches[-1]) < MAX_BATCH and _form(batches[-1][0]) == _form(feed):
            batches[-1].append(feed)
        else:
            batches.append([feed])
    return batches


def _form(feed: Feeds) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    return {name: (array.dtype, array.shape) for name, array in feed.items()}


def _joined(batch: Sequence[Feeds]) -> Feeds:
    if len(batch) == 1:
        return batch[0]
    return {name: np.concatenate([feed[name] for feed in batch]) for name in batch[0]}


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


def _tensor_info(port: Any) -> TensorInfo:
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
    return TensorInfo(_name(port), np.dtype(port.element_type.to_dtype()).name, shape)


def _name(port: Any) -> str:
    """The name in the ONNX graph: a tensor that others were merged into has their names too."""
    names: set[str] = port.get_names()
    own: str = port.get_node().get_friendly_name().removesuffix("/sink_port_0")
    return own if own in names or not names else min(names)


def _reason(error: Exception) -> str:
    """OpenVINO's message without its own source lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return "; ".join(reasons) or str(error)
