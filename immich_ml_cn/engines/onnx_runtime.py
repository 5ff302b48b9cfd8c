"""ONNX Runtime, on the CPU and on NVIDIA GPUs. The only importer of onnxruntime."""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from immich_ml_cn import memory
from immich_ml_cn.errors import DamagedModel
from immich_ml_cn.messages import tr
from immich_ml_cn.settings import Settings

from .cores import all_threads, threads_for
from .cpu_arena import CpuArena
from .edited_graphs import EditedGraphs
from .engine import LoadError
from .graphs.files import Graph, graph_bytes, graph_name
from .packages import runtime_version, version
from .parallel import CpuParallelSession, RunThreads
from .prepacked import PrepackedGraphs, as_file
from .session import LaneKind, Session, TensorInfo

logger = logging.getLogger(__name__)

MAX_COPIED_BYTES: Final = 128 << 20
"""Up to this size a graph is opened twice for parallel runs even where its weights cannot be shared."""

_DAMAGE: Final = ("InvalidProtobuf", "InvalidGraph")
"""ONNX Runtime's exceptions for a file that loads on no device."""

_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
}

_SPIN_US: Final = "50"
"""How long a worker thread of an interactive session waits awake. A search alone takes 7 % less time so; sessions for
photos would take the cores from decoding and from one another."""


class CpuEngine:
    """ONNX Runtime on the CPU."""

    provider = "CPUExecutionProvider"
    on_gpu = False

    def __init__(self, settings: Settings, prepacked: PrepackedGraphs | None = None) -> None:
        """
        Args:
            prepacked: where packed weights are kept, None where each session packs its own.
        """
        self._settings = settings
        self._prepacked = prepacked
        self._arena: CpuArena | None = None
        self._arena_lock = threading.Lock()
        self._run_threads = RunThreads(all_threads(settings))

    @property
    def description(self) -> str:
        return f"CPU, {threads_for(self._settings, 'interactive')} threads (ONNX Runtime {runtime_version()})"

    def import_library(self) -> None:
        """See `Engine.import_library`."""
        import onnxruntime  # noqa: F401

    def open(
        self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False, pinned: bool = False
    ) -> Session:
        """See `Engine.open`; a CPU has no device numbers."""
        del device_id
        threads = threads_for(self._settings, kind)
        spinning = kind == "interactive"
        prepacked = self._prepacked
        if prepacked is None or isinstance(graph, bytes):
            return self._open_unpacked(graph, threads, parallel=parallel, spinning=spinning)
        packed = prepacked.pack(graph) if pinned else prepacked.find(graph)
        if packed is not None:
            try:
                return self._sessions(partial(self._packed_session, packed, spinning), threads, parallel=parallel)
            except (DamagedModel, LoadError) as error:
                logger.warning("packed weights are thrown away: %s", error)
                prepacked.discard(graph)
        session = self._open_unpacked(graph, threads, parallel=parallel, spinning=spinning)
        prepacked.pack_when_idle(graph)
        return session

    def _open_unpacked(self, graph: Graph, threads: int, *, parallel: bool, spinning: bool) -> Session:
        return self._sessions(partial(self._session, graph, spinning), threads, parallel=parallel and _is_copied(graph))

    def _sessions(self, open_on: Callable[[int], "OnnxSession"], threads: int, *, parallel: bool) -> Session:
        if not parallel or threads == 1:
            session = open_on(threads)
            return CpuParallelSession(session, session, threads, self._run_threads) if parallel else session
        with ThreadPoolExecutor(1, thread_name_prefix="load") as other:  # each packs the weights once more, on one core
            single = other.submit(open_on, 1)
            return CpuParallelSession(open_on(threads), single.result(), threads, self._run_threads)

    def _session(self, graph: Graph, spinning: bool, threads: int) -> "OnnxSession":
        return self._open(graph, session_options(self._settings, threads, spinning=spinning))

    def _packed_session(self, graph: Path, spinning: bool, threads: int) -> "OnnxSession":
        return self._open(graph, packed_options(self._settings, threads, spinning=spinning))

    def _open(self, graph: Graph, options: Any) -> "OnnxSession":
        import onnxruntime

        if options.enable_cpu_mem_arena:
            with self._arena_lock:
                self._arena = self._arena or CpuArena(onnxruntime)
            self._arena.share(options)
        return open_session(graph, options, [self.provider])

    def release_memory(self) -> None:
        """See `Engine.release_memory`."""
        self._run_threads.release()
        if self._arena is not None:
            self._arena.shrink()
        memory.release()


class CheckingEngine(CpuEngine):
    """ONNX Runtime on the CPU, slow and with little memory: weights beside a graph are mapped, and none is packed."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)

    def _session(self, graph: Graph, spinning: bool, threads: int) -> "OnnxSession":
        options = packed_options(self._settings, threads, spinning=spinning)
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
        return self._open(graph, options)


class CudaEngine:
    """ONNX Runtime on NVIDIA GPUs."""

    provider = "CUDAExecutionProvider"
    on_gpu = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._edited = EditedGraphs(settings.cache_folder)
        self._creating = threading.Lock()  # the provider's initialisation is not safe to run twice at once

    @property
    def description(self) -> str:
        import onnxruntime

        cudnn = next((v for v in map(version, ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")) if v), "of the system")
        names = ", ".join(f"{number}: {_gpu_name(number)}" for number in self._settings.device_ids)
        versions = f"ONNX Runtime {onnxruntime.__version__}, CUDA {onnxruntime.cuda_version}, cuDNN {cudnn}"
        return f"GPU {names} ({versions})"

    def import_library(self) -> None:
        """See `Engine.import_library`: the self-test at the start has done it."""

    def release_memory(self) -> None:
        """See `Engine.release_memory`."""
        memory.release()

    def open(
        self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False, pinned: bool = False
    ) -> Session:
        """See `Engine.open`; a GPU takes batches. A session that silently fell back to the CPU is refused."""
        del kind, parallel, pinned
        import onnxruntime

        options = session_options(self._settings, self._settings.intra_op_threads or 1)
        cuda = {
            "device_id": device_id,
            "arena_extend_strategy": "kSameAsRequested",
            # EXHAUSTIVE, the default, measures every algorithm again for each new OCR shape.
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        graph = self._edited.file_or_data(graph)
        with self._creating:
            onnxruntime.preload_dlls()
            session = open_session(graph, options, [(self.provider, cuda), CpuEngine.provider])
        used = session.providers
        if not used or used[0] != self.provider:
            raise LoadError(
                tr(
                    "CUDA was refused by ONNX Runtime, which fell back to {engines}; its own log says why",
                    engines=", ".join(used),
                )
            )
        return session


class OnnxSession:
    """`Session` on ONNX Runtime."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_tensor_info(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor_info(node) for node in session.get_outputs())
        self.metadata: Mapping[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.providers: tuple[str, ...] = tuple(session.get_providers())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `Session.run`."""
        outputs: list[NDArray[Any]] = self._session.run(None, dict(feeds))
        return outputs


def _is_copied(graph: Graph) -> bool:
    try:
        return graph_bytes(graph) <= MAX_COPIED_BYTES
    except OSError:
        return False  # opening it says why


def _gpu_name(number: int) -> str:
    folders = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if number >= len(folders):
        return "NVIDIA GPU"
    lines = folders[number].read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")), "NVIDIA GPU")


def session_options(settings: Settings, threads: int, *, spinning: bool = False) -> Any:
    """`onnxruntime.SessionOptions` for a graph as it is.

    Args:
        threads: that each run uses.
        spinning: worker threads wait for the next part of a run awake, for `_SPIN_US` at most.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = max(1, settings.inter_op_threads)
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = settings.model_arena
    options.enable_mem_pattern = False  # plans memory for one shape; ours differ from run to run
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US if spinning else "0")
    return options


def packed_options(settings: Settings, threads: int, *, spinning: bool = False) -> Any:
    """As `session_options`, for a graph that is optimised already, with its weights packed."""
    import onnxruntime

    options = session_options(settings, threads, spinning=spinning)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_session(graph: Graph, options: Any, providers: list[Any]) -> OnnxSession:
    """Create a session.

    Args:
        options: `onnxruntime.SessionOptions`.
        providers: names of execution providers, or pairs of a name and its options; the first that can is used.

    Raises:
        DamagedModel: the file is no whole graph.
        LoadError: ONNX Runtime cannot run the graph.
    """
    import onnxruntime

    try:
        with as_file(graph) as (path, _):
            session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:
        if isinstance(graph, Path) and type(error).__name__ in _DAMAGE:
            raise DamagedModel(graph, str(error)) from error
        raise LoadError(tr("{path} cannot be loaded: {reason}", path=graph_name(graph), reason=error)) from error
    session.disable_fallback()  # an error on the GPU is an error, not a silent second run on the CPU
    return OnnxSession(session)


def _tensor_info(node: Any) -> TensorInfo:
    dtype = _DTYPES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return TensorInfo(node.name, dtype, shape)
