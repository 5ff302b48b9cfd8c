"""One photo again: jobs in Immich's own queues, as Immich itself would add them.

Immich's API can make faces again but neither text nor embedding. Its queues are BullMQ's in Redis; a job there deletes
nothing first, and an edited photo keeps its vector.
"""

import asyncio
import re
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from immich_ml_cn.errors import UpstreamFailed
from immich_ml_cn.logs import redact_url
from immich_ml_cn.messages import tr

if TYPE_CHECKING:
    from bullmq import Queue

PREFIX: Final = "immich_bull"
JOB_OPTIONS: Final = {"attempts": 1, "removeOnComplete": True, "removeOnFail": False}
"""Immich's own."""
TIMEOUT_S: Final = 3.0
"""Seconds that one call to Redis may take."""

T = TypeVar("T")

_ASSET_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Part(StrEnum):
    """What can be made again of a photo."""

    CLIP = "clip"
    OCR = "ocr"
    FACES = "faces"


JOBS: Final = {
    Part.CLIP: ("smartSearch", "SmartSearch"),
    Part.OCR: ("ocr", "Ocr"),
    Part.FACES: ("faceDetection", "AssetDetectFaces"),
}
"""Part → Immich's queue, and the name of its job there."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that was added."""

    part: Part
    asset: str
    number: str


class Outcome(StrEnum):
    """What became of a job."""

    DONE = "done"
    FAILED = "failed"
    WAITING = "waiting"


class Reprocessing:
    """Adds jobs to the queues of one Immich server."""

    def __init__(self, redis_url: str) -> None:
        """
        Args:
            redis_url: such as ``redis://immich_redis:6379``, with a password where there is one.
        """
        self.name = redact_url(redis_url)
        self._redis_url = redis_url
        self._queues: dict[str, Queue] = {}

    async def add(self, assets: Iterable[str], parts: Sequence[Part]) -> list[Job]:
        """Add a job for each part of each asset.

        Raises:
            UpstreamFailed: Redis cannot be reached.
        """
        jobs = []
        for asset in assets:
            for part in parts:
                queue, name = JOBS[part]
                added = await self._reach(self._queue(queue).add(name, {"id": asset}, dict(JOB_OPTIONS)))
                jobs.append(Job(part, asset, str(added.id)))
        return jobs

    async def outcome(self, job: Job) -> tuple[Outcome, str]:
        """What became of a job, and why where it failed; what is done Immich removes from its queue.

        Raises:
            UpstreamFailed: Redis cannot be reached.
        """
        queue = self._queue(JOBS[job.part][0])
        state = await self._reach(queue.getJobState(job.number))
        if state in ("completed", "unknown"):
            return Outcome.DONE, ""
        if state != "failed":
            return Outcome.WAITING, ""
        failed = await self._reach(queue.getJob(job.number))
        return Outcome.FAILED, "" if failed is None else str(failed.failedReason or "")

    async def close(self) -> None:
        """Close the connections."""
        queues, self._queues = list(self._queues.values()), {}
        for queue in queues:
            with suppress(Exception):
                await queue.close()

    def _queue(self, name: str) -> "Queue":
        from bullmq import Queue  # only here: a server that adds no jobs starts without it

        if name not in self._queues:
            self._queues[name] = Queue(name, {"connection": self._redis_url, "prefix": PREFIX})
        return self._queues[name]

    async def _reach(self, call: Awaitable[T]) -> T:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await call
        except (TimeoutError, RedisError, OSError) as error:
            message = tr(
                "Immich's Redis at {name} cannot be reached: {reason}; is MACHINE_LEARNING_IMMICH_REDIS_URL right?",
                name=self.name,
                reason=str(error) or type(error).__name__,
            )
            raise UpstreamFailed(message) from None


def asset_ids(text: str) -> list[str]:
    """The asset ids in a text: ids themselves, or links from Immich's address bar. The last one of a link counts."""
    return [found[-1].lower() for word in text.split() if (found := _ASSET_ID.findall(word))]


def is_asset_id(text: str) -> bool:
    """Whether a text is an asset's id and nothing else."""
    return _ASSET_ID.fullmatch(text) is not None
