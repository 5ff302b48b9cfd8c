"""Graphs with their weights packed for this CPU's kernels, kept on disk.

ONNX Runtime packs the weights of products and convolutions anew for each session, into memory of the process. Written
out once, they are mapped from the file instead: a load takes half the time, sessions of one graph share them, and the
system may take the memory back as it may with any file's.

Nobody waits for it: a model is opened as it is the first time, its weights are packed once the process is idle, and the
next load finds them. Only a model that stays loaded, for which there is no next load, is packed first.
"""

import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from immich_ml_cn import memory

from . import child_process
from .artefact_cache import ArtefactCache
from .graphs.files import EditedGraph, Graph, file_or_data, graph_bytes

logger = logging.getLogger(__name__)

FOLDER: Final = "prepacked"

GRAPH: Final = "graph.onnx"
WEIGHTS: Final = "weights.bin"

MIN_BYTES: Final = 32 << 20
"""Smaller graphs, weights included, are not packed: that takes a tenth of a second at a load."""

MIN_EDITED_BYTES: Final = 4 << 20
"""The same for edited graphs, of which a load saves the child process of the edit as well: a third of a second."""

DISK_FACTOR: Final = 3
"""Free disk space that packing needs, in multiples of the graph's size: weights are written unpacked and packed."""

MAX_CPU_S: Final = 600
"""Seconds of CPU time after which packing is given up for good. It takes 6 for 350 MB."""

MAX_WAIT_S: Final = 120.0
"""Longest that a load waits for packing; less where a load would count as hung before."""

IDLE_POLL_S: Final = 5.0
IDLE_SHARE: Final = 0.05
"""Share of one core up to which the process counts as idle over `IDLE_POLL_S`."""

TIMED_OUT: Final = "took-too-long"
"""A file in place of packed weights: packing takes too long on this machine, and is not tried at each start."""

_BACKGROUND_TIMEOUT_S: Final = 3600.0
_MAKING: Final = ".making"
_LOCK: Final = ".lock"


class PrepackedGraphs:
    """Finds a graph's packed form, and has it made where there is none. Safe from several threads."""

    def __init__(
        self,
        cache: Path,
        runtime: str,
        *,
        min_bytes: int = MIN_BYTES,
        min_edited_bytes: int = MIN_EDITED_BYTES,
        max_wait_s: float = MAX_WAIT_S,
        idle_poll_s: float = IDLE_POLL_S,
    ) -> None:
        """
        Args:
            cache: the cache folder.
            runtime: the version of ONNX Runtime.
            min_bytes: smaller files are not packed.
            min_edited_bytes: smaller edited graphs are not.
            max_wait_s: longest that `pack` takes.
            idle_poll_s: over which the process has to be idle before something is packed in the background.
        """
        self._artefacts = ArtefactCache(cache, FOLDER, _cpu(), runtime)
        self._min_bytes = min_bytes
        self._min_edited_bytes = min_edited_bytes
        self._max_wait_s = max_wait_s
        self._idle_poll_s = idle_poll_s
        self._refused: set[Path] = set()
        self._lock = threading.Lock()
        self._pending: dict[Path, Path | EditedGraph] = {}
        self._packing = False

    def find(self, graph: Path | EditedGraph) -> Path | None:
        """The file of a graph's packed form, None where there is none."""
        folder = self._folder(graph)
        if folder is None or not (folder / GRAPH).is_file():
            return None
        self._artefacts.touch(graph)
        return folder / GRAPH

    def pack(self, graph: Path | EditedGraph) -> Path | None:
        """The file of a graph's packed form, made now if need be, which takes seconds; None where there can be none."""
        folder = self._folder(graph)
        if folder is not None and not (folder / GRAPH).is_file():
            self._make(graph, folder, self._max_wait_s, background=False)
        return self.find(graph)

    def pack_when_idle(self, graph: Path | EditedGraph) -> None:
        """Have a graph packed for its next load, where it is worth it and not done yet, when the process is idle."""
        folder = self._folder(graph)
        if folder is None or (folder / GRAPH).is_file():
            return
        with self._lock:
            # A copy of an edited graph: whoever opens it keeps hundreds of MB in it.
            self._pending[folder] = replace(graph) if isinstance(graph, EditedGraph) else graph
            if not self._packing:
                self._packing = True
                threading.Thread(target=self._pack_pending, name="packing", daemon=True).start()

    def discard(self, graph: Path | EditedGraph) -> None:
        """Delete a packed form that cannot be used, and do without."""
        folder = self._artefacts.folder_for(graph)
        shutil.rmtree(folder, ignore_errors=True)
        self._refused.add(folder)

    def _folder(self, graph: Path | EditedGraph) -> Path | None:
        """Where the packed form is or belongs, None for a graph that is not to be packed."""
        try:
            size = graph_bytes(graph)
            folder = self._artefacts.folder_for(graph)
        except OSError:
            return None  # whoever opens the graph reports it
        min_bytes = self._min_edited_bytes if isinstance(graph, EditedGraph) else self._min_bytes
        return None if size < min_bytes or folder in self._refused or (folder / TIMED_OUT).exists() else folder

    def _pack_pending(self) -> None:
        _wait_until_idle(self._idle_poll_s)
        while self._pack_next():
            _wait_until_idle(self._idle_poll_s)

    def _pack_next(self) -> bool:
        """Pack the graph that has waited longest; True if there are more."""
        folder = next(iter(self._pending))
        graph = self._pending[folder]
        try:
            self._make(graph, folder, _BACKGROUND_TIMEOUT_S, background=True)
        except Exception as error:  # an edit that fails says so to whoever opens the graph
            logger.debug("%s is not packed: %s", graph, error)
        with self._lock:
            del self._pending[folder]
            self._packing = bool(self._pending)
            more = self._packing
        del graph
        memory.release()  # of an edited graph
        return more

    def _make(self, graph: Path | EditedGraph, folder: Path, timeout_s: float, *, background: bool) -> None:
        """Make a packed form, unless another process was faster."""
        from filelock import FileLock, Timeout

        deadline = time.monotonic() + timeout_s
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / _LOCK, timeout=timeout_s, thread_local=False):
                if folder.exists():
                    return
                self._artefacts.prune(graph)
                if not _write(graph, folder, deadline - time.monotonic(), background=background):
                    self._refused.add(folder)
        except (subprocess.TimeoutExpired, Timeout):
            logger.info("packing %s is put off: it takes longer than a load may", graph)
        except (OSError, NotImplementedError) as error:  # nothing can be written, or nothing locked
            logger.debug("%s is not packed: %s", graph, error)
            self._refused.add(folder)


def _wait_until_idle(poll_s: float) -> None:
    """Return once this process, all its threads together, needed next to no CPU time for a while."""
    used = time.process_time()
    while True:
        time.sleep(poll_s)
        before, used = used, time.process_time()
        if used - before <= IDLE_SHARE * poll_s:
            return


def _write(graph: Path | EditedGraph, folder: Path, timeout_s: float, *, background: bool) -> bool:
    """Write a packed form, or the note that it takes too long; False where it failed and the log says why.

    Raises:
        subprocess.TimeoutExpired: more than `timeout_s` seconds.
        OSError: the disk refuses.
    """
    making = folder.parent / _MAKING
    shutil.rmtree(making, ignore_errors=True)  # of a process that was killed
    making.mkdir()
    try:
        size = graph_bytes(graph)
        free = shutil.disk_usage(making).free
        if free < DISK_FACTOR * size:
            message = (
                "%s is not packed: that takes up to %d MB of disk, %d are free; it loads slowly and takes more memory"
            )
            logger.warning(message, graph, DISK_FACTOR * size >> 20, free >> 20)
            return False
        logger.info("packing the weights of %s for this CPU, once", graph)
        done = _run(graph, making, timeout_s, background=background)
        if done.returncode == -signal.SIGXCPU:
            folder.mkdir()
            (folder / TIMED_OUT).touch()
            logger.warning(
                "%s cannot be packed within %g s, which is not tried again; it loads slowly and takes more memory",
                graph,
                MAX_CPU_S,
            )
        elif done.returncode:
            reason = (done.stderr.splitlines() or [f"the process for it ended with {done.returncode}"])[-1]
            logger.warning("%s cannot be packed, it loads slowly and takes more memory: %s", graph, reason)
        else:
            making.rename(folder)
        return not done.returncode
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _run(
    graph: Path | EditedGraph, folder: Path, timeout_s: float, *, background: bool
) -> "subprocess.CompletedProcess[str]":
    """Pack in another process, which may run out of memory."""
    with as_file(graph) as (path, files):
        priority = "background" if background else "normal"
        command = child_process.command(
            "immich_ml_cn.engines.packing_process", "write_prepacked", path, str(folder), priority
        )
        return subprocess.run(  # noqa: S603 - ours
            command,
            check=False,
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=max(0.0, timeout_s),
        )


@contextmanager
def as_file(graph: Graph) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The path of a graph's file, and the file descriptors that it needs; a graph in memory becomes a temporary file in
    memory.

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
    """Identifies the CPU model: packed weights differ between them, and a cache folder may move or be shared."""
    facts = [platform.machine()]
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        first = []
    kept = ("model name", "flags", "Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part")
    facts += [line for line in first if line.startswith(kept)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]
