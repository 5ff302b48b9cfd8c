"""What `immich-ml-cn reprocess` does: queues jobs in Immich, waits, and says what became of each."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from immich_ml_cn.api.gateway.reprocessing import Job, Outcome, Part, Reprocessing, asset_ids
from immich_ml_cn.errors import UpstreamFailed
from immich_ml_cn.messages import tr
from immich_ml_cn.settings import Settings

from .console import Console

POLL_S: Final = 0.5


def run(settings: Settings, words: Sequence[str], parts: Sequence[str], wait_s: float) -> int:
    """Queue what is asked for and wait for it; 0 if all of it was done, 1 if not, 2 if it could not be asked for.

    Args:
        words: ids or links of assets.
        parts: some of `Part`.
        wait_s: seconds to wait for Immich.
    """
    console = Console(settings)
    assets = [found for word in words for found in asset_ids(word)]
    if not settings.immich_redis_url:
        console.complain(tr("MACHINE_LEARNING_IMMICH_REDIS_URL is not set: such as redis://immich_redis:6379"))
        return 2
    if len(assets) < len(words):
        console.complain(tr("every ASSET must be an id such as 0a1b2c3d-…, or a link that ends in one"))
        return 2
    wanted = [Part(part) for part in parts]
    try:
        return asyncio.run(_reprocess(Reprocessing(settings.immich_redis_url), console, assets, wanted, wait_s))
    except UpstreamFailed as error:
        console.complain(error.args[0])
        return 2


async def _reprocess(
    reprocessing: Reprocessing, console: Console, assets: Sequence[str], parts: Sequence[Part], wait_s: float
) -> int:
    try:
        waiting = await reprocessing.add(assets, parts)
        console.print(tr("{count} jobs queued in Immich", count=len(waiting)))
        deadline, failed = time.monotonic() + wait_s, 0
        while waiting and time.monotonic() < deadline:
            waiting, failures = await _look(reprocessing, console, waiting)
            failed += failures
            if waiting:
                await asyncio.sleep(POLL_S)
    finally:
        await reprocessing.close()
    for job in waiting:
        console.print(tr("{asset} {part}: still waiting, Immich goes on with it", asset=job.asset, part=job.part))
    return int(bool(waiting) or failed > 0)


async def _look(reprocessing: Reprocessing, console: Console, jobs: Sequence[Job]) -> tuple[list[Job], int]:
    """Say what has ended; what has not, and how many failed."""
    waiting, failed = [], 0
    for job in jobs:
        outcome, reason = await reprocessing.outcome(job)
        if outcome is Outcome.WAITING:
            waiting.append(job)
        elif outcome is Outcome.DONE:
            console.print(tr("{asset} {part}: done", asset=job.asset, part=job.part))
        else:
            failed += 1
            console.print(tr("{asset} {part}: failed: {reason}", asset=job.asset, part=job.part, reason=reason))
    return waiting, failed
