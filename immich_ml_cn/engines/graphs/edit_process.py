"""The functions of `edits` and `text_length`, run in a child process for large graphs.

While the onnx package reads and writes hundreds of MB, no other thread of Python runs: `/ping` waited for 0.3 s. And
what it needs for that would stay in this process's heap.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Final, cast

from immich_ml_cn.engines import child_process
from immich_ml_cn.errors import DamagedModel, Unavailable
from immich_ml_cn.messages import tr

from . import edits, text_length
from .edits import GraphFacts
from .files import EditedGraph, graph_bytes

MAX_IN_PROCESS_BYTES: Final = 4 << 20
"""Graphs up to this size, weights included, are edited here, in milliseconds: less than a process takes to start."""

_LENGTH_BYTES: Final = 8


def inspect(path: Path) -> GraphFacts:
    """See `edits.inspect`."""
    return GraphFacts(**_call("inspect", path)[0])


def with_batch_axis(path: Path) -> EditedGraph:
    """See `edits.with_batch_axis`, which is called when the graph is needed."""
    return _edited("with_batch_axis", path)


def with_best_path(path: Path) -> EditedGraph:
    """See `edits.with_best_path`, which is called when the graph is needed."""
    return _edited("with_best_path", path)


def with_any_length(path: Path) -> EditedGraph:
    """See `text_length.with_any_length`, which is called when the graph is needed."""
    return _edited("with_any_length", path)


def outputs_of(path: Path) -> tuple[str, ...]:
    """See `edits.outputs_of`."""
    return tuple(_call("outputs_of", path)[0])


def part_for(path: Path, output: str) -> bytes:
    """See `edits.part_for`."""
    return _call("part_for", path, output)[1]


def main() -> None:
    """The child process: call the function that its arguments name, and write the result to stdout."""
    name, path, *arguments = sys.argv[1:]
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    data = b""
    try:
        result, data = _apply(name, Path(path), *arguments)
        header = {"result": result}
    except DamagedModel as error:
        header = {"damage": error.reason}
    except OSError as error:
        header = {"OSError": str(error)}
    except Exception as error:  # the onnx package has several of its own
        header = {"ValueError": str(error)}
    message = json.dumps(header).encode()
    with output:
        output.write(len(message).to_bytes(_LENGTH_BYTES) + message)
        output.write(data)


def _edited(name: str, path: Path) -> EditedGraph:
    version = _version(_home_of(name))
    return EditedGraph(path, name.removeprefix("with_").replace("_", "-"), version, lambda: _call(name, path)[1])


@cache
def _version(module: ModuleType) -> str:
    return hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()


def _home_of(name: str) -> ModuleType:
    return text_length if hasattr(text_length, name) and not hasattr(edits, name) else edits


def _call(name: str, path: Path, *arguments: str) -> tuple[Any, bytes]:
    """Call a function of `edits`; its result as JSON, and the graph as bytes where it returns one.

    Raises:
        Unavailable: the other process ended without an answer, as it does when memory is short.
        DamagedModel, ValueError, OSError: as the function does.
    """
    if graph_bytes(path) <= MAX_IN_PROCESS_BYTES:
        return _apply(name, path, *arguments)
    command = child_process.command("immich_ml_cn.engines.graphs.edit_process", "main", name, str(path), *arguments)
    # Unbuffered: a buffer would be joined to what follows it, which is a copy of all.
    with subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE) as process:  # noqa: S603 - ours
        output = cast(IO[bytes], process.stdout)
        message = _read_up_to(output, int.from_bytes(_read_up_to(output, _LENGTH_BYTES)))
        data = output.read()
    if process.returncode or not message:
        raise Unavailable(
            tr(
                "{path} cannot be edited: the process for it ended with {code}",
                path=path,
                code=process.returncode,
            )
        )
    header = json.loads(message)
    if "damage" in header:
        raise DamagedModel(path, header["damage"])
    if "OSError" in header:
        raise OSError(header["OSError"])
    if "result" not in header:
        raise ValueError(header["ValueError"])
    return header["result"], data


def _read_up_to(stream: IO[bytes], count: int) -> bytes:
    """Read `count` bytes, or fewer if the stream ends first."""
    found = b""
    while len(found) < count and (more := stream.read(count - len(found))):
        found += more
    return found


def _apply(name: str, path: Path, *arguments: str) -> tuple[Any, bytes]:
    """Call a function in this process."""
    result = getattr(_home_of(name), name)(path, *arguments)
    if isinstance(result, bytes):
        return None, result
    return (asdict(result) if isinstance(result, GraphFacts) else result), b""
