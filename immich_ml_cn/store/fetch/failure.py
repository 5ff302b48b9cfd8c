"""What can go wrong while fetching, each as one sentence for the person who reads the log."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


class SourceFailed(Exception):
    """One source could not deliver; the next one is tried.

    Attributes:
        answered: whether its host answers at all and keeps sending; one that does not is tried last from now on.
        reached: whether there was a connection; where there was none, the same host need not be tried again at once.
        retry_after: seconds the source asked us to stay away, None if it did not.
    """

    def __init__(
        self, reason: str, *, answered: bool = True, reached: bool = True, retry_after: int | None = None
    ) -> None:
        super().__init__(reason)
        self.answered = answered and reached
        self.reached = reached
        self.retry_after = retry_after


class WrongBytes(SourceFailed):
    """What arrived is not the file; it was thrown away."""


class DiskFailed(Unavailable):
    """503: the cache cannot be written, so no other source would help."""


class Cancelled(Unavailable):
    """503: the fetch was stopped because the server shuts down; what has arrived is kept."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one sentence about `path`.

    Raises:
        DiskFailed: the disk is full, read-only, forbidden or broken.
    """
    try:
        yield
    except OSError as error:
        raise DiskFailed(_sentence(error, path)) from error


def _sentence(error: OSError, path: Path) -> str:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return tr("no room to write {path} ({reason}); free some space, nothing was deleted", path=path, reason=reason)
    if error.errno in _FORBIDDEN:
        return tr("cannot write {path} ({reason}); make the cache folder writable", path=path, reason=reason)
    return tr("cannot write {path}: {reason}", path=path, reason=reason)
