"""The process that packs a graph's weights, apart from the server because it may run out of memory."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.settings import Settings

from .child_process import end_first_when_memory_is_short
from .onnx_runtime import CpuEngine, open_session, packed_options, session_options
from .prepacked import GRAPH, MAX_CPU_S, WEIGHTS
from .session import Session, TensorInfo


def write_prepacked() -> None:
    """The main function of a process of its own: write a graph, optimised for this CPU and with its weights packed, and
    check that its outputs are the same. Needs as much memory as a session of it.

    Its arguments are the graph's file, the folder to write to, and ``normal`` or ``background``, the priority.
    """
    graph, folder, priority = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    _yield_to_others(background=priority == "background")
    options = session_options(Settings(), threads=1)
    options.optimized_model_filepath = str(folder / GRAPH)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    session = open_session(graph, options, [CpuEngine.provider])
    packed = open_session(folder / GRAPH, packed_options(Settings(), threads=1), [CpuEngine.provider])
    if not _same_outputs(session, packed):
        raise SystemExit("it would give other answers")
    for file in folder.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())


def _yield_to_others(*, background: bool) -> None:
    """Let this process be the first to go where memory ends, and end it after `MAX_CPU_S`; in the background it runs
    only while nobody else wants the core."""
    import resource  # not on every system

    end_first_when_memory_is_short()
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S + 10))
    if background:
        os.nice(19)
        with suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _same_outputs(session: Session, other: Session) -> bool:
    """True if two sessions of a graph give the same outputs for a dummy input, or if the graph accepts none."""
    try:
        feeds = {info.name: _dummy_input(info) for info in session.inputs}
        expected = session.run(feeds)
    except Exception:  # of several kinds, none of which says anything about `other`
        return True
    answers = other.run(feeds)
    return all(
        np.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(np.abs(theirs).max(initial=0)), equal_nan=True)
        for ours, theirs in zip(answers, expected, strict=True)
    )


def _dummy_input(info: TensorInfo) -> NDArray[Any]:
    """A dummy input: random numbers in 0…1, or ones for integers; one item, dynamic axes of size 64."""
    shape = [size or (64 if axis else 1) for axis, size in enumerate(info.shape)]
    dtype = np.dtype(info.dtype)
    return np.random.default_rng(0).random(shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)
