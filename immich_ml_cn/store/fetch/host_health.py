"""Which hosts answered lately, so that a blocked one costs its timeout only once."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from immich_ml_cn.sources import Kind, Source

from .options import FetchOptions

MAX_BACKOFF_S: Final = 600
"""Longest ``Retry-After`` that is honoured: a mirror's "tomorrow" must not outlive the process that asked too often."""


class HostHealth:
    """Shared by all fetches of a process; safe from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: monotonic seconds.
        """
        self._lock = threading.Lock()
        self._clock = clock
        self._answers: dict[str, bool] = {}
        self._ask_again_at: dict[str, float] = {}

    def __repr__(self) -> str:
        with self._lock:
            return f"<HostHealth {self._answers}>"

    def record(self, host: str, answered: bool) -> bool:
        """Remember whether a host answered; True when that is news."""
        with self._lock:
            news = self._answers.get(host) is not answered
            self._answers[host] = answered
            return news

    def back_off(self, host: str, retry_after: int) -> None:
        """Leave a host alone for the seconds of its ``Retry-After``, up to `MAX_BACKOFF_S`."""
        with self._lock:
            self._ask_again_at[host] = self._clock() + min(retry_after, MAX_BACKOFF_S)

    def seconds_left(self, host: str) -> int:
        """Whole seconds for which a host is still to be left alone, 0 if it may be asked."""
        with self._lock:
            return max(0, math.ceil(self._ask_again_at.get(host, 0.0) - self._clock()))

    def order(self, sources: Sequence[Source], options: FetchOptions) -> tuple[Source, ...]:
        """The sources in the order to try: as preferred, or with hosts that did not answer last."""
        chosen = options.preference.order
        if chosen:
            rank = {kind: place for place, kind in enumerate(chosen)}
            return tuple(sorted(sources, key=lambda source: rank.get(source.kind, len(rank))))
        with self._lock:
            silent = {host for host, answered in self._answers.items() if not answered}
        return tuple(sorted(sources, key=lambda source: host_of(source.kind, options) in silent))


def host_of(kind: Kind, options: FetchOptions) -> str:
    """The host that serves a kind with these options, for people: without a password."""
    return urlsplit(options.base(kind)).netloc.rpartition("@")[2]
