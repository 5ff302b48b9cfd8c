"""Classifies device errors by the messages of ONNX Runtime and CUDA."""

import re
from typing import Final

_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory"
    r"|failed to allocate memory"
    r"|bad_alloc|bad allocation"
    r"|smaller than requested bytes"
    r"|STATUS_ALLOC_FAILED"
    r"|CUDA failure 2\b",
    re.IGNORECASE,
)
"""cudaErrorMemoryAllocation is 2; the BFC arena says what it lacks; cuBLAS and cuDNN have a status of their own."""

_POISONED: Final = re.compile(
    r"illegal memory access|illegal instruction|illegal address|misaligned address|device-side assert"
    r"|unspecified launch failure|unknown error|uncorrectable|context is destroyed|device is lost"
    r"|CUDA failure (?:4|46|201|214|219|220|700|702|709|71[0-9]|719|999)\b",
    re.IGNORECASE,
)
"""CUDA's sticky errors: every later call of the process fails with them, whatever it does."""

_DEVICE: Final = re.compile(r"\bCUDA\b|CUBLAS|CUDNN|cudaError|\bGPU\b", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out, the computer's or the device's: a smaller batch may fit."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def is_poisoned(error: BaseException) -> bool:
    """True if every later call of this process will fail too: only a new process helps."""
    text = str(error)
    return not is_out_of_memory(error) and bool(_DEVICE.search(text)) and bool(_POISONED.search(text))


def is_of_device(error: BaseException) -> bool:
    """True if the device failed rather than the model or its input; running out of memory does not count."""
    return not is_out_of_memory(error) and bool(_DEVICE.search(str(error)))
