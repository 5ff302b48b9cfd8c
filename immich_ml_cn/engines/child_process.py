"""Processes of our own code, for work that would hold up this one."""

import sys


def command(module: str, function: str, *arguments: str) -> list[str]:
    """The command that calls a function without arguments in a new Python, which sees `arguments` as ``sys.argv[1:]``.

    Args:
        module: its whole name.
    """
    program = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function}; {function}()"
    return [sys.executable, "-c", program, *arguments]
