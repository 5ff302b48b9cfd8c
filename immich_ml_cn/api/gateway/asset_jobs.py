"""The menu entry *Refresh faces* of an unmodified Immich: it makes text and embedding again as well."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from immich_ml_cn.api.json_object import json_object
from immich_ml_cn.errors import NotAllowed, ServiceError, Unavailable
from immich_ml_cn.messages import tr

from .immich import Caller, Immich, Reply
from .reprocessing import Part, Reprocessing, is_asset_id

logger = logging.getLogger(__name__)

PATH: Final = "/api/assets/jobs"
REFRESH_FACES: Final = "refresh-faces"
MAX_ASSETS: Final = 1000
MAX_CONCURRENT: Final = 8


class AssetJobs:
    """Passes ``POST /api/assets/jobs`` to Immich, and adds what it does not offer."""

    def __init__(self, immich: Immich, reprocessing: Reprocessing | None) -> None:
        """
        Args:
            reprocessing: None where Immich's Redis is not known: then everything is only passed on.
        """
        self._immich = immich
        self._reprocessing = reprocessing
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, caller: Caller, body: bytes, content_type: str) -> Reply:
        """Immich's answer to the body; after a success, text and embedding of the same assets are queued.

        Raises:
            UpstreamFailed, UpstreamTimeout: Immich cannot be reached.
        """
        reply = await self._immich.post(PATH, caller, body, content_type)
        assets = refreshed_assets(body) if reply.is_success and self._reprocessing is not None else ()
        if assets and self._reprocessing is not None:
            task = asyncio.create_task(self._queue_own(self._reprocessing, caller, assets), name="reprocess")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return reply

    async def reprocess(self, caller: Caller, asset: str, parts: Sequence[Part]) -> int:
        """Queue parts of one photo of the caller's own; the number of jobs.

        Raises:
            NotAllowed: it is not the caller's, or nobody is logged in.
            UpstreamFailed, UpstreamTimeout: Immich or its Redis cannot be reached.
        """
        if self._reprocessing is None:
            raise Unavailable(tr("MACHINE_LEARNING_IMMICH_REDIS_URL is not set: such as redis://immich_redis:6379"))
        if not await self._owned(caller, [asset]):
            raise NotAllowed(tr("Immich does not know this photo as yours: are you logged in there, on this host?"))
        return len(await self._reprocessing.add([asset], parts))

    async def preview(self, caller: Caller, asset: str) -> Reply:
        """Immich's preview of a photo, or its refusal.

        Raises:
            UpstreamFailed, UpstreamTimeout: Immich cannot be reached.
        """
        return await self._immich.get(f"/api/assets/{asset}/thumbnail", replace(caller, query_string="size=preview"))

    async def close(self) -> None:
        """Give up what is still being queued."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _queue_own(self, reprocessing: Reprocessing, caller: Caller, assets: Sequence[str]) -> None:
        """Queue the assets that the caller owns."""
        try:
            own = await self._owned(caller, assets)
            jobs = await reprocessing.add(own, (Part.CLIP, Part.OCR))
        except ServiceError as error:
            logger.error("text and embedding are not made again: %s", error)
            return
        logger.info("text and embedding of %d photos are made again: %d jobs queued", len(own), len(jobs))

    async def _owned(self, caller: Caller, assets: Sequence[str]) -> list[str]:
        """Those that belong to the caller, as Immich says of each to the caller's own credentials."""
        me = _field(await self._immich.get("/api/users/me", caller), "id")
        if me is None:
            return []
        gate = asyncio.Semaphore(MAX_CONCURRENT)

        async def owner(asset: str) -> str | None:
            async with gate:
                return _field(await self._immich.get(f"/api/assets/{asset}", caller), "ownerId")

        owners = await asyncio.gather(*map(owner, assets))
        return [asset for asset, owner_id in zip(assets, owners, strict=True) if owner_id == me]


def refreshed_assets(body: bytes) -> tuple[str, ...]:
    """The assets of a request to refresh faces; () for any other request."""
    document = json_object(body) or {}
    assets = document.get("assetIds") if document.get("name") == REFRESH_FACES else None
    if not isinstance(assets, list) or not all(isinstance(asset, str) for asset in assets):
        return ()
    return tuple(dict.fromkeys(asset for asset in map(str, assets) if is_asset_id(asset)))[:MAX_ASSETS]


def _field(reply: Reply, name: str) -> str | None:
    document = json_object(reply.body) if reply.is_success else None
    value = document.get(name) if document else None
    return value if isinstance(value, str) else None
