"""Giving memory back to the operating system, and reading how much is held."""

import ctypes
import gc
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_M_ARENA_MAX: Final = -8
"""Of glibc's ``malloc.h``; other C libraries number their options differently."""


def use_one_heap() -> bool:
    """Let all threads share the main heap; for the start of the process, before there are threads.

    glibc gives each thread a heap of its own, and `release` cannot return the unused end of any but the main one: with
    every thread that has worked, up to 64 MB stay behind. Large tensors are few, so that threads do not queue here.

    Returns:
        Whether it was done: glibc only. An allocator that is put in malloc's place does not notice.
    """
    library = ctypes.CDLL(None)
    return hasattr(library, "gnu_get_libc_version") and library.mallopt(_M_ARENA_MAX, 1) == 1


def release() -> None:
    """Collect garbage and return the heap's free pages (glibc's ``malloc_trim``; elsewhere only the collection).

    Dropped ONNX sessions leave hundreds of MB in glibc's heap until it is trimmed. A first trim takes about 0.06 s per
    GB that returns, and threads that allocate wait for it.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _NvmlMemory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def gpu_bytes(device_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Used and whole memory of GPUs in bytes, over all processes; those of which NVIDIA's library knows nothing are
    left out. Takes milliseconds: not for the event loop."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return {}
    if nvml.nvmlInit_v2() != 0:
        return {}
    found = {}
    for number in device_ids:
        handle, told = ctypes.c_void_p(), _NvmlMemory()
        if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle)) != 0:
            continue
        if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(told)) == 0:
            found[number] = (int(told.used), int(told.total))
    nvml.nvmlShutdown()
    return found


def open_files() -> int:
    """How many file descriptors this process holds, 0 where /proc does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked
    except OSError:
        return 0


def resident_bytes() -> int:
    """Resident memory of this process in bytes, 0 where /proc does not tell. Takes milliseconds.

    The proportional set size: sessions that share packed weights map them several times, and the resident set size
    counts them each time. Kernels before 4.14, which many a NAS has, only know the latter.
    """
    for file, name in (("smaps_rollup", "Pss"), ("status", "VmRSS")):
        try:
            told = Path("/proc/self", file).read_text()
            return int(told.partition(f"\n{name}:")[2].split()[0]) * 1024
        except (OSError, IndexError, ValueError):
            continue
    return 0
