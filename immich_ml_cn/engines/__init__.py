"""Engines: which device runs the models, and how a session is opened on it.

ONNX Runtime on the CPU and on NVIDIA GPUs, OpenVINO on the CPU and on Intel graphics, all behind `Engine`.
"""

from .cores import bulk_lane_count, usable_cores
from .engine import Engine, EngineError, LoadError
from .onnx_runtime import CpuEngine, CudaEngine, OnnxSession
from .openvino import OpenVinoEngine
from .openvino_session import OpenVinoSession
from .packages import RUNTIME_PACKAGES
from .selection import checking_engine, explain, select_engine

__all__ = [
    "RUNTIME_PACKAGES",
    "CpuEngine",
    "CudaEngine",
    "Engine",
    "EngineError",
    "LoadError",
    "OnnxSession",
    "OpenVinoEngine",
    "OpenVinoSession",
    "bulk_lane_count",
    "checking_engine",
    "explain",
    "select_engine",
    "usable_cores",
]
