"""One model's state in the registry, from the first request for it on."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Generic

from immich_ml_cn.errors import ServiceError, Unavailable

from .spec import Loaded, ModelSpec, ModelT

RETRY_AFTER_FAILURE_S: Final = 30.0
"""Seconds after a failed load during which requests for that model are refused at once, or answered by its fallback."""

MAX_RETRY_DELAY_S: Final = 3600.0
"""Seconds up to which the pauses grow in which a fallback answers."""


@dataclass(eq=False)
class Entry(Generic[ModelT]):
    """A model that is absent, being loaded, ready or failed.

    Attributes:
        task: loads it, None while nothing does.
        pinned: it is never unloaded for being idle.
        last_used, retry_at: by the registry's clock, in seconds.
        failure: why the last load failed, "" while none has.
        failures: loads that failed in a row.
        falls_back: its files could not be had, and its fallback answers until they can.
    """

    spec: ModelSpec[ModelT]
    task: "asyncio.Task[Loaded[ModelT]] | None" = None
    loaded: Loaded[ModelT] | None = None
    leases: int = 0
    pinned: bool = False
    last_used: float = 0.0
    retry_at: float = 0.0
    failure: str = ""
    failures: int = 0
    falls_back: bool = False

    @property
    def fallback(self) -> ModelSpec[ModelT]:
        """
        Raises:
            LookupError: it has none.
        """
        if self.spec.fallback is None:
            raise LookupError(self.spec.key)
        return self.spec.fallback

    @property
    def progress(self) -> str:
        """How much of its files has arrived, as an addition to a sentence; "" while nothing is downloaded."""
        return "" if self.spec.progress is None else self.spec.progress()

    def is_idle(self, now: float, ttl_s: float) -> bool:
        """Whether it is in memory and nobody has used it for `ttl_s` seconds."""
        return not (self.loaded is None or self.leases or self.pinned) and now - self.last_used >= ttl_s

    def fail(self, failure: str, error: Exception, now: float) -> float:
        """Note a failed load; the seconds until the next try: more each time while the fallback answers."""
        wait = (error.retry_after if isinstance(error, ServiceError) else None) or RETRY_AFTER_FAILURE_S
        if self.falls_back:
            wait = min(wait * 2 ** min(self.failures, 10), MAX_RETRY_DELAY_S)
        self.failure, self.retry_at = failure, now + wait
        self.failures += 1
        return wait

    def unavailable(self, now: float) -> Unavailable:
        """Why it is not available until its next try: a new exception for each caller."""
        return Unavailable(self.failure, retry_after=max(1, round(self.retry_at - now)))

    def detail(self, now: float) -> dict[str, Any]:
        """Its state, for people."""
        if self.loaded is not None and not self.falls_back:
            return {
                "state": "ready",
                "bytes": self.loaded.bytes,
                "leases": self.leases,
                "waiting": self.loaded.batcher.waiting,
                "secondsIdle": 0 if self.leases else round(now - self.last_used, 1),
                "kept": self.pinned,
            }
        if self.task is None and not self.failure:
            return {"state": "absent"}
        fallback = {"fallback": self.fallback.key} if self.falls_back else {}
        failure = {"error": self.failure} if self.failure else {}
        if self.task is not None:
            return {"state": "loading", "progress": self.progress.strip(" ()"), **failure, **fallback}
        return {"state": "failed", **failure, "retryInSeconds": max(0, round(self.retry_at - now)), **fallback}
