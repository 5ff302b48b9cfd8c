"""One process at a time fetches a model into a shared cache."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .failure import writing
from .monitor import TransferMonitor

if TYPE_CHECKING:
    from filelock import BaseFileLock

_logger = logging.getLogger(__name__)
_POLL_S = 0.2


@contextmanager
def locked(folder: Path, monitor: TransferMonitor) -> Iterator[None]:
    """Hold the lock of a model's folder; the lock file lies beside the folder and stays there.

    The kernel releases it when the process dies.

    Raises:
        DiskFailed: the lock file cannot be made.
        Cancelled: nobody waits for the model any more.
    """
    from filelock import FileLock

    path = folder.parent / f".{folder.name}.lock"
    lock = FileLock(path, thread_local=False)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _try_acquire(lock):
            _logger.info("%s is being fetched already, here or by another process; waiting for it", folder)
            while not _try_acquire(lock):
                monitor.raise_if_cancelled()
    try:
        yield
    finally:
        lock.release()


def _try_acquire(lock: "BaseFileLock") -> bool:
    """Try to acquire the lock for a moment; True if it is held now."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=_POLL_S)
    except Timeout:
        return False
    return True
