"""Processes of our own code, for work that would hold up this one. They end with the thread that started them."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def command(module: str, function: str, *arguments: str) -> list[str]:
    """The command that calls a function without arguments in a new Python, which sees `arguments` as ``sys.argv[1:]``.

    Args:
        module: its full name.
    """
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from {__name__} import end_with_parent; end_with_parent({os.getpid()}); "
        f"from {module} import {function}; {function}()"
    )
    return [sys.executable, "-c", program, *arguments]


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends, however it does; on Linux only.

    Args:
        parent: number of the process that started this one.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def end_first_when_memory_is_short() -> None:
    """Have the kernel end this process rather than the server."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
