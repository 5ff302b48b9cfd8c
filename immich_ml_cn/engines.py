"""Engines: which device runs the models, and how a session is opened on it. The only importer of onnxruntime."""

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import DamagedModel
from .lanes import LaneKind
from .session import Session, TensorInfo
from .settings import Settings

logger = logging.getLogger(__name__)

RUNTIME_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")

_SELF_TEST: Final = bytes.fromhex(  # y = x + x, float32 (n,); opset 13
    "08083a370a0e0a01780a017812017922034164641201745a100a0178120b0a09080112050a0312016e"
    "62100a0179120b0a09080112050a0312016e42040a00100d"
)


_DAMAGE: Final = ("InvalidProtobuf", "InvalidGraph")
"""ONNX Runtime's exceptions for a file that will not load anywhere, whatever the device."""


class EngineError(RuntimeError):
    """No engine can run models as the settings ask; the message says what to do."""


class LoadError(RuntimeError):
    """A graph could not be loaded; the message names the file and the reason."""


class Engine(Protocol):
    """Opens sessions on one kind of device."""

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider."""
        ...

    @property
    def on_gpu(self) -> bool: ...

    @property
    def description(self) -> str:
        """Device and versions for people, e.g. ``CPU, 8 threads (ONNX Runtime 1.32.0)``."""
        ...

    def open(self, graph: Path | bytes, kind: LaneKind, device_id: int) -> Session:
        """Load a graph for a lane; called on that lane's loader thread.

        Raises:
            LoadError: the graph cannot run here.
            DamagedModel: the file is no whole graph.
        """
        ...


def select_engine(settings: Settings) -> Engine:
    """Decide what runs the models: CUDA when it is installed, asked for and passes a self-test, else the CPU.

    onnxruntime is imported here only when its GPU package is installed.

    Raises:
        EngineError: no ONNX Runtime is installed, or CUDA was demanded and does not work.
    """
    installed = _installed_runtimes()
    if not installed:
        raise EngineError(
            "ONNX Runtime is not installed: install immich-ml-cn[cpu], or immich-ml-cn[cuda] for an NVIDIA GPU"
        )
    if len(installed) > 1:
        logger.warning(
            "%s are both installed and overwrite each other's files: uninstall both, then install one",
            " and ".join(installed),
        )
    if settings.provider == "cpu":
        return CpuEngine(settings)
    refusal = _cuda_refusal(settings, installed)
    if refusal is None:
        return CudaEngine(settings)
    if settings.provider == "cuda":
        raise EngineError(f"MACHINE_LEARNING_PROVIDER=cuda, but CUDA cannot be used: {refusal}")
    if "onnxruntime-gpu" in installed:
        logger.error("CUDA cannot be used, everything runs on the CPU: %s", refusal)
    return CpuEngine(settings)


def _installed_runtimes() -> list[str]:
    return [name for name in RUNTIME_PACKAGES if _version(name)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cuda_refusal(settings: Settings, installed: list[str]) -> str | None:
    """Why CUDA cannot be used, None when a session really ran on every chosen GPU."""
    if "onnxruntime-gpu" not in installed:
        return "only the CPU build of ONNX Runtime is installed; install immich-ml-cn[cuda]"
    missing = _missing_driver()
    if missing is not None:
        return missing
    for device_id in settings.device_ids:
        try:
            session = CudaEngine(settings).open(_SELF_TEST, "bulk", device_id)
            (doubled,) = session.run({"x": np.array([1.5], dtype=np.float32)})
        except LoadError as error:
            return f"GPU {device_id}: {error}"
        except Exception as error:
            return f"GPU {device_id}: the self-test failed: {error}"
        if doubled.tolist() != [3.0]:
            return f"GPU {device_id}: the self-test computed {doubled.tolist()} instead of [3.0]"
    return None


def _missing_driver() -> str | None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"the NVIDIA driver is not there ({error}); in Docker pass the GPU to the container"
    return None


class CpuEngine:
    """ONNX Runtime on the CPU."""

    provider = "CPUExecutionProvider"
    on_gpu = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def description(self) -> str:
        version = _version("onnxruntime") or _version("onnxruntime-gpu")
        return f"CPU, {self._threads('interactive')} threads (ONNX Runtime {version})"

    def open(self, graph: Path | bytes, kind: LaneKind, device_id: int) -> Session:
        """See `Engine.open`; a CPU has no device numbers."""
        del device_id
        import onnxruntime

        options = _session_options(self._settings, self._threads(kind))
        return _open(onnxruntime, graph, options, [self.provider])

    def _threads(self, kind: LaneKind) -> int:
        """One batch at a time runs on a lane, so each takes all cores; several bulk lanes share them."""
        if self._settings.intra_op_threads > 0:
            return self._settings.intra_op_threads
        cores = usable_cores()
        return cores if kind == "interactive" else max(1, cores // bulk_lane_count(self._settings, on_gpu=False))


class CudaEngine:
    """ONNX Runtime on NVIDIA GPUs."""

    provider = "CUDAExecutionProvider"
    on_gpu = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._creating = threading.Lock()  # the provider's initialisation is not safe to run twice at once

    @property
    def description(self) -> str:
        import onnxruntime

        cudnn = next((v for v in map(_version, ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")) if v), "of the system")
        names = ", ".join(f"{number}: {_gpu_name(number)}" for number in self._settings.device_ids)
        version = f"ONNX Runtime {onnxruntime.__version__}, CUDA {onnxruntime.cuda_version}, cuDNN {cudnn}"
        return f"GPU {names} ({version})"

    def open(self, graph: Path | bytes, kind: LaneKind, device_id: int) -> Session:
        """See `Engine.open`. A session that silently fell back to the CPU is refused."""
        del kind
        import onnxruntime

        options = _session_options(self._settings, self._settings.intra_op_threads or 1)
        cuda = {
            "device_id": device_id,
            "arena_extend_strategy": "kSameAsRequested",
            # EXHAUSTIVE, the default, measures every algorithm again for each new OCR shape.
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        with self._creating:
            onnxruntime.preload_dlls()
            session = _open(onnxruntime, graph, options, [(self.provider, cuda), CpuEngine.provider])
        used = session.providers
        if not used or used[0] != self.provider:
            raise LoadError(
                f"CUDA was refused by ONNX Runtime, which fell back to {', '.join(used)}; its own log says why"
            )
        return session


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPU cores this process may use: those of its affinity, or fewer under a container's quota (``docker --cpus``).

    Args:
        quota: cgroup v2's file of microseconds granted and the period they are for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        granted, period = map(int, quota.read_text().split())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return cores
    return max(1, min(cores, round(granted / period)))


def bulk_lane_count(settings: Settings, *, on_gpu: bool) -> int:
    """One bulk lane per GPU and per worker asked for."""
    return max(settings.workers, len(settings.device_ids)) if on_gpu else settings.workers


def _gpu_name(number: int) -> str:
    folders = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if number >= len(folders):
        return "NVIDIA GPU"
    lines = folders[number].read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")), "NVIDIA GPU")


def _session_options(settings: Settings, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = max(1, settings.inter_op_threads)
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = settings.model_arena
    options.enable_mem_pattern = False  # plans memory for one shape; ours differ from run to run
    # Worker threads of several sessions that spin after each run take the cores from one another.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open(onnxruntime: Any, graph: Path | bytes, options: Any, providers: list[Any]) -> "OnnxSession":
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:
        if isinstance(graph, Path) and type(error).__name__ in _DAMAGE:
            raise DamagedModel(graph, str(error)) from error
        name = "an edited graph" if isinstance(graph, bytes) else str(graph)
        raise LoadError(f"{name} cannot be loaded: {error}") from error
    session.disable_fallback()  # an error on the GPU is an error, not a silent second run on the CPU
    return OnnxSession(session)


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


_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
}


def _tensor_info(node: Any) -> TensorInfo:
    dtype = _DTYPES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return TensorInfo(node.name, dtype, shape)
