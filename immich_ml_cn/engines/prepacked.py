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
from .artefact_cache import ArtefactCache
from .graphs.files import EditedGraph, Graph, file_or_data, graph_bytes

logger = logging.getLogger(__name__)

FOLDER: Final = "prepacked"

GRAPH: Final = "graph.onnx"
WEIGHTS: Final = "weights.bin"

MIN_BYTES: Final = 32 << 20
"""Of a graph and its weights; those of a smaller one are packed in a tenth of a second."""

MIN_EDITED_BYTES: Final = 4 << 20
"""Of an edited graph: a third of a second is saved, for the edit takes another process."""

DISK_FACTOR: Final = 3
"""Times a graph's bytes that must be free on the disk: the weights are written as they were and as they are packed."""

PACKING_TIMEOUT_S: Final = 120.0
"""Well under the time after which a load counts as hung. It takes 4 s for 350 MB on two cores."""

TIMED_OUT: Final = "took-too-long"
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
        min_bytes: int = MIN_BYTES,
        min_edited_bytes: int = MIN_EDITED_BYTES,
    ) -> None:
        """
        Args:
            cache: the cache folder.
            runtime: the version of ONNX Runtime.
            min_bytes: of files that are worth it.
            min_edited_bytes: of edited graphs that are.
        """
        self._artefacts = ArtefactCache(cache, FOLDER, _cpu(), runtime)
        self._min_bytes = min_bytes
        self._min_edited_bytes = min_edited_bytes
        self._refused: set[Path] = set()

    def path(self, graph: Graph) -> Path | None:
        """The file of a graph's packed form, None where there can be none. Making it takes seconds, once.

        Raises:
            Exception: what an edited graph's `make` raises, if there is no form yet.
        """
        if isinstance(graph, bytes):
            return None
        try:
            size = graph_bytes(graph)
            folder = self._artefacts.folder_for(graph)
        except OSError:
            return None  # whoever opens the graph hears of it
        min_bytes = self._min_edited_bytes if isinstance(graph, EditedGraph) else self._min_bytes
        if size < min_bytes or folder in self._refused or (folder / TIMED_OUT).exists():
            return None
        if not (folder / GRAPH).is_file() and not self._made(graph, folder, size):
            self._refused.add(folder)
            return None
        self._artefacts.touch(graph)
        return folder / GRAPH

    def discard(self, graph: Path | EditedGraph) -> None:
        """Delete a packed form that cannot be used, and do without."""
        folder = self._artefacts.folder_for(graph)
        shutil.rmtree(folder, ignore_errors=True)
        self._refused.add(folder)

    def _made(self, graph: Path | EditedGraph, folder: Path, size: int) -> bool:
        """Make a packed form, unless another process was faster; whether it is there."""
        from filelock import FileLock

        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / _LOCK, timeout=PACKING_TIMEOUT_S):
                if not folder.exists():
                    self._artefacts.prune(graph)
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
        (folder / TIMED_OUT).touch()
        message = "%s cannot be packed within %g s, which is not tried again; it loads slowly and takes more memory"
        logger.warning(message, graph, PACKING_TIMEOUT_S)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _packed(graph: Path | EditedGraph, folder: Path, size: int) -> bool:
    free = shutil.disk_usage(folder).free
    if free < DISK_FACTOR * size:
        message = "%s is not packed: that takes up to %d MB of disk, %d are free; it loads slowly and takes more memory"
        logger.warning(message, graph, DISK_FACTOR * size >> 20, free >> 20)
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
            timeout=PACKING_TIMEOUT_S,
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
    message = [platform.machine()]
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        first = []
    kept = ("model name", "flags", "Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part")
    message += [line for line in first if line.startswith(kept)]
    return hashlib.sha256("\n".join(message).encode()).hexdigest()[:8]
