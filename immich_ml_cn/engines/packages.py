"""Which of the packages that run models are installed; asked without importing them."""

import importlib.metadata
from typing import Final

RUNTIME_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
"""The packages that own the module ``onnxruntime``: at most one may be installed."""


def version(package: str) -> str:
    """The installed version, "" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def runtimes() -> list[str]:
    """The installed packages of ONNX Runtime."""
    return [name for name in RUNTIME_PACKAGES if version(name)]


def runtime_version() -> str:
    """The version of ONNX Runtime, "" where there is none."""
    return next(map(version, runtimes()), "")


def runtime_versions() -> dict[str, str]:
    """Versions of what runs the models, by the packages that are installed."""
    packages = {
        "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
        "cuda": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
        "cudnn": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
    }
    installed = {what: next(filter(None, map(version, names)), "") for what, names in packages.items()}
    return {what: found for what, found in installed.items() if found}
