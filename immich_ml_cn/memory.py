"""Giving memory back to the operating system, and reading how much is held."""

import ctypes
import gc
import os
from pathlib import Path


def release() -> None:
    """Collect garbage and return the heap's free pages (glibc's ``malloc_trim``; elsewhere only the collection).

    Dropped ONNX sessions leave hundreds of MB in glibc's heap until it is trimmed.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Resident memory of this process in bytes, 0 where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
