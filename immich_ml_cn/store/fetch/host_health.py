"""Which hosts answered lately, so that a blocked one costs its timeout only once."""

import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from immich_ml_cn.sources import Kind, Source

from .options import FetchOptions


class HostHealth:
    """Shared by all fetches of a process; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, bool] = {}

    def __repr__(self) -> str:
        with self._lock:
            return f"<HostHealth {self._answers}>"

    def record(self, host: str, answered: bool) -> bool:
        """Remember whether a host answered; True when that is news."""
        with self._lock:
            news = self._answers.get(host) is not answered
            self._answers[host] = answered
            return news

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
