"""Graphs with their weights as this CPU's kernels want them, kept on disk.

ONNX Runtime packs the weights of products and convolutions anew for each session, into memory of the process. Written
out once, they are mapped from the file instead: a load takes half the time, sessions of one graph share them, and the
system may take the memory back as it may with any file's.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from . import child_process
from .graphs.files import EditedGraph, Graph, file_or_data, graph_bytes
from .shelf import Shelf

logger = logging.getLogger(__name__)

FOLDER: Final = "prepacked"

GRAPH: Final = "graph.onnx"
WEIGHTS: Final = "weights.bin"

LEAST_BYTES: Final = 32 << 20
"""Of a graph and its weights; those of a smaller one are packed in a tenth of a second."""

LEAST_EDITED_BYTES: Final = 4 << 20
"""Of an edited graph: a third of a second is saved, for the edit takes another process."""

ROOM: Final = 3
"""Times a graph's bytes that must be free on the disk: the weights are written as they were and as they are packed."""

PATIENCE_S: Final = 120.0
"""Well under the time after which a load counts as hung. It takes 4 s for 350 MB on two cores."""

LATE: Final = "took-too-long"
"""A file in place of a packed form: packing takes too long on this machine, and is not tried at each start."""

_MAKING: Final = ".making"
_LOCK: Final = ".lock"


class PrepackedGraphs:
    """Finds a graph's packed form, and has it made where there is none."""

    def __init__(
        self,
        cache: Path,
        runtime: str,
        *,
        least_bytes: int = LEAST_BYTES,
        least_edited_bytes: int = LEAST_EDITED_BYTES,
    ) -> None:
        """
        Args:
            cache: the cache folder.
            runtime: the version of ONNX Runtime.
            least_bytes: of files that are worth it.
            least_edited_bytes: of edited graphs that are.
        """
        self._shelf = Shelf(cache, FOLDER, _cpu(), runtime)
        self._least_bytes = least_bytes
        self._least_edited_bytes = least_edited_bytes
        self._given_up: set[Path] = set()

    def path(self, graph: Graph) -> Path | None:
        """The file of a graph's packed form, None where there can be none. Making it takes seconds, once.

        Raises:
            Exception: what an edited graph's `make` raises, if there is no form yet.
        """
        if isinstance(graph, bytes):
            return None
        try:
            size = graph_bytes(graph)
            folder = self._shelf.place(graph)
        except OSError:
            return None  # whoever opens the graph hears of it
        least = self._least_edited_bytes if isinstance(graph, EditedGraph) else self._least_bytes
        if size < least or folder in self._given_up or (folder / LATE).exists():
            return None
        if not (folder / GRAPH).is_file() and not self._made(graph, folder, size):
            self._given_up.add(folder)
            return None
        self._shelf.mark_used(graph)
        return folder / GRAPH

    def discard(self, graph: Path | EditedGraph) -> None:
        """Delete a packed form that cannot be used, and do without."""
        folder = self._shelf.place(graph)
        shutil.rmtree(folder, ignore_errors=True)
        self._given_up.add(folder)

    def _made(self, graph: Path | EditedGraph, folder: Path, size: int) -> bool:
        """Make a packed form, unless another process was faster; whether it is there."""
        from filelock import FileLock

        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / _LOCK, timeout=PATIENCE_S):
                if not folder.exists():
                    self._shelf.remove_older(graph)
                    _make(graph, folder, size)
        except (OSError, NotImplementedError) as error:  # nothing can be written, or nothing locked
            logger.debug("%s is not packed: %s", graph, error)
        return (folder / GRAPH).is_file()


def _make(graph: Path | EditedGraph, folder: Path, size: int) -> None:
    """Make a packed form, or the note that it takes too long."""
    making = folder.parent / _MAKING
    shutil.rmtree(making, ignore_errors=True)  # of a process that was killed
    making.mkdir()
    try:
        if _packed(graph, making, size):
            making.rename(folder)
    except subprocess.TimeoutExpired:
        folder.mkdir()
        (folder / LATE).touch()
        told = "%s cannot be packed within %g s, which is not tried again; it loads slowly and takes more memory"
        logger.warning(told, graph, PATIENCE_S)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _packed(graph: Path | EditedGraph, folder: Path, size: int) -> bool:
    free = shutil.disk_usage(folder).free
    if free < ROOM * size:
        told = "%s is not packed: that takes up to %d MB of disk, %d are free; it loads slowly and takes more memory"
        logger.warning(told, graph, ROOM * size >> 20, free >> 20)
        return False
    logger.info("packing the weights of %s for this CPU, once", graph)
    fault = _fault_of_packing(graph, folder)
    if fault:
        logger.warning("%s cannot be packed, it loads slowly and takes more memory: %s", graph, fault)
    return not fault


def _fault_of_packing(graph: Path | EditedGraph, folder: Path) -> str:
    """Pack in another process, which may run out of memory; what went wrong, "" if nothing did.

    Raises:
        subprocess.TimeoutExpired: it takes too long.
    """
    with as_file(graph) as (path, files):
        command = child_process.command("immich_ml_cn.engines.onnx_runtime", "write_prepacked", path, str(folder))
        done = subprocess.run(  # noqa: S603 - ours
            command,
            check=False,
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
        )
    if not done.returncode:
        return ""
    return (done.stderr.splitlines() or [f"the process for it ended with {done.returncode}"])[-1]


@contextmanager
def as_file(graph: Graph) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The path of a graph's file, and the open files that it needs; one that is no file becomes one, in memory and for
    the time being.

    Handed over as bytes, ONNX Runtime would keep them, and read them while no other thread of Python runs: 129 ms for
    256 MB instead of 7.
    """
    source = file_or_data(graph)
    if isinstance(source, Path):
        yield str(source), ()
        return
    with TemporaryFile() if sys.platform != "linux" else os.fdopen(os.memfd_create("graph"), "wb") as file:
        file.write(source)
        file.flush()
        yield f"/dev/fd/{file.fileno()}", (file.fileno(),)


def _cpu() -> str:
    """Names the CPU: each packs in its own way, and a cache folder may move or be shared."""
    told = [platform.machine()]
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        first = []
    kept = ("model name", "flags", "Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part")
    told += [line for line in first if line.startswith(kept)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]
