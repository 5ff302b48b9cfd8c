"""Giving memory back to the operating system, and reading how much is held."""

import ctypes
import gc
import math
import os
from collections.abc import Iterable
from contextlib import suppress
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


def gpu_bytes(device_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Used and total memory of NVIDIA GPUs in bytes, over all processes; a GPU that NVML does not know is left out, and
    so are all without nvidia-ml-py or a driver. Takes milliseconds: not for the event loop."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, or one of NVML's: no driver, another version of it
        return {}
    found = {}
    for number in device_ids:
        with suppress(pynvml.NVMLError):
            info = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(number))
            found[number] = (int(info.used), int(info.total))
    pynvml.nvmlShutdown()
    return found


def open_files() -> int:
    """How many file descriptors this process holds, 0 where there is no /proc."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked
    except OSError:
        return 0


def free_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory that can be taken without anything being swapped out: the machine's, or less under a container's limit
    (cgroup v2); infinite where neither is told."""
    return min(_free_in_machine(meminfo), _free_in_cgroup(cgroup))


def _free_in_machine(meminfo: Path) -> float:
    try:
        return _kilobytes(meminfo.read_text(), "MemAvailable") * 1024
    except (OSError, IndexError, ValueError):
        return math.inf


def _free_in_cgroup(folder: Path) -> float:
    try:
        limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = int(stat["inactive_file"]) + int(stat["active_file"])
    except (OSError, KeyError, ValueError):  # no cgroup v2, or "max"
        return math.inf
    return limit - used + cached


def resident_bytes() -> int:
    """Resident memory of this process in bytes, 0 where there is no /proc. Takes milliseconds.

    The proportional set size: sessions that share packed weights map them several times, and the resident set size
    counts them each time. Kernels before 4.14, which many a NAS has, only know the latter.
    """
    for file, name in (("smaps_rollup", "Pss"), ("status", "VmRSS")):
        try:
            return _kilobytes(Path("/proc/self", file).read_text(), name) * 1024
        except (OSError, IndexError, ValueError):
            continue
    return 0


def _kilobytes(text: str, name: str) -> int:
    """A value of one of /proc's tables.

    Raises:
        IndexError, ValueError: it is not there.
    """
    return int(text.partition(f"\n{name}:")[2].split()[0])
