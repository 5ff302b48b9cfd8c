"""A limit on open connections: which of them is closed when there are too many, and file descriptors for the rest."""

import logging
import resource
import time
from typing import Final, Protocol

logger = logging.getLogger(__name__)

HEADROOM: Final = 32
"""Connections beyond the limit, so that a new one can be read and answered before another is closed."""

BACKLOG: Final = 256
"""Connections that the kernel accepts before the event loop has looked at one of them."""

_OTHER_FILES: Final = 200
"""File descriptors of models, libraries, downloads and logs."""

_WARNING_INTERVAL_S: Final = 60.0


class Connection(Protocol):
    """An open connection."""

    def close(self) -> None:
        """Close it; no request of it is in progress."""


class ConnectionLimiter:
    """Bounds the active connections, those with a request in progress, and closes idle ones when there are too many.

    A connection is new until its first request is complete, then active while a request is in progress, and idle
    between requests. Active ones are never closed.
    """

    def __init__(self, max_active: int) -> None:
        """
        Args:
            max_active: how many connections may have a request in progress.
        """
        self.max_active = max_active
        self._active: set[Connection] = set()
        # Both in the order in which they began to wait: a dict is an ordered set.
        self._new: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}
        self._warned_at = -_WARNING_INTERVAL_S

    def add(self, connection: Connection) -> None:
        """Track a connection that has opened, and evict another one where there are too many."""
        self._new[connection] = None
        if len(self) > self.max_active + HEADROOM:
            self._warn("those that have waited longest are closed")
            self._evict()

    def activate(self, connection: Connection) -> bool:
        """A connection has sent a request: whether it may be worked on."""
        if connection in self._active:
            return True
        if len(self._active) >= self.max_active:
            self._warn("further requests are answered with 503")
            return False
        self.remove(connection)
        self._active.add(connection)
        return True

    def deactivate(self, connection: Connection) -> None:
        """The connection's last request was answered; it may send another one."""
        self.remove(connection)
        self._idle[connection] = None

    def remove(self, connection: Connection) -> None:
        """The connection is closed."""
        self._active.discard(connection)
        self._new.pop(connection, None)
        self._idle.pop(connection, None)

    def _evict(self) -> None:
        """Close the one that has waited longest, of the kind of which there are more.

        - Thousands that never send a request are closed before Immich's idle ones, which are few.
        - A crowd of idle ones is closed before a newcomer, which must have time to send its request.
        - Active ones stay; at most `max_active` of them are among the others, so there is always one to close.
        """
        waiting = self._new if len(self._new) > len(self._idle) else self._idle
        oldest = next(iter(waiting))
        del waiting[oldest]
        oldest.close()

    def __len__(self) -> int:
        return len(self._active) + len(self._new) + len(self._idle)

    def _warn(self, consequence: str) -> None:
        """At most once a minute: whoever opens thousands must not fill the log as well."""
        if time.monotonic() - self._warned_at >= _WARNING_INTERVAL_S:
            self._warned_at = time.monotonic()
            logger.warning(
                "more connections than %d (MACHINE_LEARNING_MAX_CONNECTIONS): %s", self.max_active, consequence
            )


def max_active_for(wanted: int) -> int:
    """How many active connections there are file descriptors for, up to `wanted`.

    The process's soft limit is raised as far as it is needed and allowed.
    """
    needed = wanted + HEADROOM + BACKLOG + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_less(soft, needed):
        soft = min(needed, hard) if hard != resource.RLIM_INFINITY else needed
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if not _is_less(soft, needed):
        return wanted
    possible = max(1, soft - (needed - wanted))
    message = "room for %d connections, not for %d: the system allows this process %d open files (ulimit -n)"
    logger.warning(message, possible, wanted, soft)
    return possible


def _is_less(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
