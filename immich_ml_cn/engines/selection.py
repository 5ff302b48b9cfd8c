"""Which engine runs the models: the settings, what is installed, and what passes a self-test."""

import ctypes
import logging
from functools import partial

from immich_ml_cn.messages import tr
from immich_ml_cn.settings import Settings

from . import self_test
from .engine import Engine, EngineError
from .onnx_runtime import CheckingEngine, CpuEngine, CudaEngine
from .openvino import OpenVinoEngine, graphics
from .packages import runtime_version, runtimes, version
from .prepacked import MAX_WAIT_S, PrepackedGraphs

logger = logging.getLogger(__name__)


def select_engine(settings: Settings) -> Engine:
    """Decide what runs the models: CUDA, else OpenVINO, else ONNX Runtime on the CPU.

    Each only where it is installed, asked for and passes a self-test. What is installed and fails is an error in the
    log. Nothing is imported for ONNX Runtime on the CPU.

    Raises:
        EngineError: nothing is installed, or what the settings demand does not work.
    """
    installed = runtimes()
    if not installed and not version("openvino"):
        raise EngineError(
            tr(
                "ONNX Runtime is not installed: install immich-ml-cn[cpu], immich-ml-cn[cuda] for an NVIDIA GPU, or "
                "immich-ml-cn[openvino] for Intel's OpenVINO"
            )
        )
    if len(installed) > 1:
        logger.warning(
            "%s are both installed and overwrite each other's files: uninstall both, then install one",
            " and ".join(installed),
        )
    if settings.provider == "cpu":
        return _plain_cpu(settings, installed)
    if settings.provider == "openvino":
        try:
            return _openvino(settings)
        except EngineError as error:
            raise EngineError(
                tr("MACHINE_LEARNING_PROVIDER=openvino, but it cannot be used: {reason}", reason=error)
            ) from error
    refusal = _cuda_refusal(settings, installed)
    if refusal is None:
        return CudaEngine(settings)
    if settings.provider == "cuda":
        raise EngineError(tr("MACHINE_LEARNING_PROVIDER=cuda, but CUDA cannot be used: {reason}", reason=refusal))
    engine = _without_cuda(settings, installed)
    if "onnxruntime-gpu" in installed:
        place = tr("OpenVINO's graphics") if engine.on_gpu else tr("the CPU")
        logger.error("CUDA cannot be used, everything runs on %s: %s", place, refusal)
    return engine


def explain(engine: Engine, settings: Settings) -> str:
    """Why that engine was selected, for people."""
    if settings.provider in ("cpu", "cuda", "openvino"):
        return f"MACHINE_LEARNING_PROVIDER={settings.provider}"
    if engine.on_gpu:
        return tr("it computed right in a test at the start")
    if isinstance(engine, OpenVinoEngine):
        return tr("OpenVINO is installed, and MACHINE_LEARNING_PROVIDER names no other engine")
    if "onnxruntime-gpu" not in runtimes():
        return tr("only the CPU build of ONNX Runtime is installed; install immich-ml-cn[cuda]")
    return _missing_driver() or tr("the GPU failed a test at the start: see the log")


def checking_engine(settings: Settings) -> Engine:
    """An engine on the CPU to see whether a graph can be loaded, whatever runs the models.

    Raises:
        EngineError: there is none.
    """
    return CheckingEngine(settings) if runtimes() else OpenVinoEngine(settings, keep_compiled=False)


def _plain_cpu(settings: Settings, installed: list[str]) -> Engine:
    if installed:
        return _cpu_engine(settings)
    logger.warning("ONNX Runtime is not installed: OpenVINO runs everything, on the CPU")
    return OpenVinoEngine(settings)


def _without_cuda(settings: Settings, installed: list[str]) -> Engine:
    if not version("openvino"):
        return _cpu_engine(settings)
    try:
        return _openvino(settings)
    except EngineError as error:
        if not installed:
            raise
        logger.error("OpenVINO cannot be used, everything runs on ONNX Runtime, on the CPU: %s", error)
        return _cpu_engine(settings)


def _cpu_engine(settings: Settings) -> CpuEngine:
    if not settings.prepack:
        return CpuEngine(settings)
    # Half of the time after which a load counts as hung: what follows packing needs some as well.
    max_wait_s = min(MAX_WAIT_S, settings.worker_timeout_s / 2)
    return CpuEngine(settings, PrepackedGraphs(settings.cache_folder, runtime_version(), max_wait_s=max_wait_s))


def _openvino(settings: Settings) -> OpenVinoEngine:
    """OpenVINO on the device of the settings: on graphics if there are any that compute right, else on the CPU."""
    device = settings.openvino_device
    if device == "cpu" or (device == "auto" and not graphics()):
        return OpenVinoEngine(settings)
    if not graphics():
        raise EngineError(
            tr(
                "it finds no graphics: pass /dev/dri to the container, install Intel's compute runtime, or set "
                "MACHINE_LEARNING_OPENVINO_DEVICE=auto"
            )
        )
    try:
        return OpenVinoEngine(settings, "GPU")
    except EngineError as error:
        if device == "gpu":
            raise
        logger.error("OpenVINO cannot use the graphics, everything runs on the CPU: %s", error)
        return OpenVinoEngine(settings)


def _cuda_refusal(settings: Settings, installed: list[str]) -> str | None:
    """Why CUDA cannot be used, None when a session really ran on every chosen GPU."""
    if "onnxruntime-gpu" not in installed:
        return tr("only the CPU build of ONNX Runtime is installed; install immich-ml-cn[cuda]")
    missing = _missing_driver()
    if missing is not None:
        return missing
    engine = CudaEngine(settings)
    for device_id in settings.device_ids:
        fault = self_test.fault(partial(engine.open, kind="bulk", device_id=device_id))
        if fault is not None:
            return tr("GPU {number}: {fault}", number=device_id, fault=fault)
    return None


def _missing_driver() -> str | None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return tr("the NVIDIA driver is not there ({reason}); in Docker pass the GPU to the container", reason=error)
    return None
