"""Room for connections: how many may be open, which of them goes first when there are more, and files for them."""

import logging
import resource
import time
from typing import Final, Protocol

logger = logging.getLogger(__name__)

DOORSTEP: Final = 32
"""Connections beyond the limit, so that each newcomer can be heard and answered."""

BACKLOG: Final = 256
"""Connections that the system accepts before the event loop has looked at one of them."""

_OTHER_FILES: Final = 200
"""Models, libraries, downloads, logs."""

_SILENCE_S: Final = 60.0


class Guest(Protocol):
    """One connection."""

    def dismiss(self) -> None:
        """Close it: it is neither asking nor being answered."""


class Room:
    """The open connections, in the order in which they would have to go.

    Those at work stay. The others wait: for their first request, or for their next. Where there are too many, the one
    that has waited longest goes, of the kind that there are more of: silent strangers do not drive Immich's out.
    """

    def __init__(self, seats: int) -> None:
        """
        Args:
            seats: how many connections may be at work.
        """
        self.seats = seats
        self._busy: set[Guest] = set()
        self._strangers: dict[Guest, None] = {}
        self._resting: dict[Guest, None] = {}
        self._told_at = -_SILENCE_S

    def enter(self, guest: Guest) -> None:
        """A connection has opened; another one may have to go."""
        self._strangers[guest] = None
        if len(self) > self.seats + DOORSTEP:
            self._tell("those that have waited longest are closed")
            crowd = self._strangers if len(self._strangers) > len(self._resting) else self._resting
            longest = next(iter(crowd))
            del crowd[longest]
            longest.dismiss()

    def work(self, guest: Guest) -> bool:
        """A connection has brought a request; whether there is room to work on it."""
        if guest in self._busy:
            return True
        if len(self._busy) >= self.seats:
            self._tell("further requests are answered with 503")
            return False
        self.leave(guest)
        self._busy.add(guest)
        return True

    def rest(self, guest: Guest) -> None:
        """A connection has its answer, and may bring another request."""
        self.leave(guest)
        self._resting[guest] = None

    def leave(self, guest: Guest) -> None:
        """A connection is gone."""
        self._busy.discard(guest)
        self._strangers.pop(guest, None)
        self._resting.pop(guest, None)

    def __len__(self) -> int:
        return len(self._busy) + len(self._strangers) + len(self._resting)

    def _tell(self, what: str) -> None:
        """Once a minute: whoever opens thousands must not fill the log as well."""
        if time.monotonic() - self._told_at >= _SILENCE_S:
            self._told_at = time.monotonic()
            logger.warning("more connections than %d (MACHINE_LEARNING_MAX_CONNECTIONS): %s", self.seats, what)


def seats_for(wanted: int) -> int:
    """How many connections there can be files for, up to `wanted`; the process's limit is raised where it may be."""
    needed = wanted + DOORSTEP + BACKLOG + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_less(soft, needed):
        soft = min(needed, hard) if hard != resource.RLIM_INFINITY else needed
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if not _is_less(soft, needed):
        return wanted
    seats = max(1, soft - (needed - wanted))
    message = "room for %d connections, not for %d: the system allows this process %d open files (ulimit -n)"
    logger.warning(message, seats, wanted, soft)
    return seats


def _is_less(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
