"""Everything in front of one Immich server."""

from immich_ml_cn.settings import Settings

from .asset_jobs import AssetJobs
from .immich import Immich
from .reprocessing import Reprocessing
from .search import SearchGateway


class ImmichGateway:
    """Answers Immich's search calls, and its jobs for single photos."""

    def __init__(self, settings: Settings) -> None:
        """Opens no connection; `Settings.immich_url` is set."""
        self._immich = Immich(settings.immich_url)
        self._reprocessing = Reprocessing(settings.immich_redis_url) if settings.immich_redis_url else None
        self.search = SearchGateway(self._immich, hybrid=settings.text_search == "hybrid")
        self.asset_jobs = AssetJobs(self._immich, self._reprocessing)

    async def close(self) -> None:
        """Close all connections."""
        await self.asset_jobs.close()
        await self._immich.close()
        if self._reprocessing is not None:
            await self._reprocessing.close()
