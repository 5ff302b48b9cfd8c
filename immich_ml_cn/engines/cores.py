"""CPU cores: how many this process may use, and how the lanes share them."""

import os
from pathlib import Path

from immich_ml_cn.settings import Settings

from .session import LaneKind


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPU cores this process may use: its affinity, or fewer under a container's quota (``docker --cpus``).

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


def threads_for(settings: Settings, kind: LaneKind) -> int:
    """Threads of a session on the CPU.

    One batch at a time runs on a lane, so each takes all cores; several bulk lanes share them.
    """
    if settings.intra_op_threads > 0:
        return settings.intra_op_threads
    cores = usable_cores()
    return cores if kind == "interactive" else max(1, cores // bulk_lane_count(settings, on_gpu=False))


def all_threads(settings: Settings) -> int:
    """Threads of sessions on the CPU that run at once on all bulk lanes."""
    return threads_for(settings, "bulk") * bulk_lane_count(settings, on_gpu=False)
