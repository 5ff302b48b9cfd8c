"""What the first request would wait for, done after the start while nobody asks: imports, and the models used last."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from typing import Final

from immich_ml_cn import memory
from immich_ml_cn.engines import Engine
from immich_ml_cn.errors import UnknownModel

from .catalogue import Catalogue
from .recent_models import RecentModels
from .registry import Registry
from .spec import AnyModel, ModelSpec
from .tasks import Tasks

logger = logging.getLogger(__name__)

MODULES: Final = (
    *(f"immich_ml_cn.models.{name}" for name in ("clip", "faces", "ocr")),
    *(f"PIL.{name}ImagePlugin" for name in ("Jpeg", "Png", "Gif")),
)
"""What models are built with, with its libraries, and what Pillow imports for its first picture."""

DELAY_S: Final = 0.5
"""Seconds after the port has opened in which a request that waited for it has arrived: an import would hold it up."""

IDLE_POLL_S: Final = 0.2

TIME_LIMIT_S: Final = 60.0
"""Seconds after which nothing more is loaded: whoever was served meanwhile has loaded what is needed."""

MIN_FREE_BYTES: Final = 1 << 30
"""With less memory free, models wait until they are asked for: a machine of 2 GB has others to serve."""


class WarmStart:
    """Imports libraries and loads models, one after the other, each only while no request is being answered."""

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        registry: Registry,
        recent: RecentModels,
        *,
        more_modules: Sequence[str] = (),
    ) -> None:
        """
        Args:
            more_modules: that requests need, besides those of the models.
        """
        self._engine = engine
        self._modules = (*MODULES, *more_modules)
        self._catalogue = catalogue
        self._registry = registry
        self._recent = recent

    async def run(self) -> None:
        """Do it all, or as much as there is time for."""
        recent = await asyncio.to_thread(self._recent.take)
        await asyncio.sleep(DELAY_S)
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                await self._import_libraries()
                for spec in await asyncio.to_thread(self._specs, recent):
                    await self._idle()
                    if await asyncio.to_thread(memory.free_bytes) < MIN_FREE_BYTES:
                        logger.info("memory is short: what was used last is not loaded before it is asked for")
                        break
                    await self._registry.load_if_here(spec)
        except TimeoutError:
            logger.debug("what is left waits for the first requests")
        await asyncio.to_thread(self._recent.save)

    async def _import_libraries(self) -> None:
        imports: list[Callable[[], object]] = [partial(import_module, name) for name in self._modules]
        for import_one in (self._engine.import_library, *imports):
            await self._idle()
            try:
                await asyncio.to_thread(import_one)
            except ImportError as error:  # whoever needs it says so
                logger.debug("%s", error)

    def _specs(self, recent: Iterable[Tasks]) -> list[ModelSpec[AnyModel]]:
        """The models that tasks need: those first that a person waits for, then those of the most used."""
        specs: list[ModelSpec[AnyModel]] = []
        for tasks in recent:
            try:
                specs += self._catalogue.plan(tasks).specs()
            except UnknownModel as error:
                logger.debug("%s", error)
        return sorted(specs, key=lambda spec: spec.lane != "interactive")

    async def _idle(self) -> None:
        while self._registry.leases:  # noqa: ASYNC110 - whoever holds a lease need not know
            await asyncio.sleep(IDLE_POLL_S)
