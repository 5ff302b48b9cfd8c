"""One arena for the runs of all of ONNX Runtime's sessions on the CPU.

By itself each session has one, which keeps the most that any of its runs ever needed: 240 MB with all kinds of models
loaded, for runs of which few are ever under way together.
"""

from typing import Any, Final

import numpy as np

from .self_test import DOUBLING

_GROWTH: Final = {
    "max_mem": 0,  # as much as there is
    "arena_extend_strategy": 0,  # each time by twice as much
    "initial_chunk_size_bytes": 1 << 20,
    "max_dead_bytes_per_chunk": -1,
    "initial_growth_chunk_size_bytes": -1,
}


class CpuArena:
    """Memory that sessions take for the length of a run. Safe from several threads."""

    def __init__(self, onnxruntime: Any) -> None:
        """
        Args:
            onnxruntime: the library; the arena is of its one environment.
        """
        self._library = onnxruntime
        info = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg(_GROWTH))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.share(options)
        self._session = onnxruntime.InferenceSession(DOUBLING, options, providers=["CPUExecutionProvider"])

    def share(self, options: Any) -> None:
        """Let a session that is opened with these options use this arena."""
        options.add_session_config_entry("session.use_env_allocators", "1")

    def shrink(self) -> None:
        """Return what no run holds; takes a millisecond, and the next runs take it again."""
        options = self._library.RunOptions()
        # Done at the end of a run: of any, the arena is the same.
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._session.run(None, {"x": np.zeros(1, np.float32)}, options)
