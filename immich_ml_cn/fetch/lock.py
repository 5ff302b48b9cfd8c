"""One process at a time fetches a model into a shared cache."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .failure import writing
from .watch import Watch

_logger = logging.getLogger(__name__)
_POLL_S = 0.2


@contextmanager
def locked(folder: Path, watch: Watch) -> Iterator[None]:
    """Hold the lock of a model's folder; the lock file lies beside the folder and stays there.

    The kernel releases it when the process dies.

    Raises:
        DiskFailed: the lock file cannot be made.
        Cancelled: nobody waits for the model any more.
    """
    from filelock import FileLock, Timeout

    path = folder.parent / f".{folder.name}.lock"
    lock = FileLock(path, thread_local=False, preserve_lock_file=False)
    told = False
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        watch.check()
        try:
            with writing(path):
                lock.acquire(timeout=_POLL_S)
            break
        except Timeout:
            if not told:
                _logger.info("another process is fetching %s; waiting for it", folder)
                told = True
    try:
        yield
    finally:
        lock.release()
