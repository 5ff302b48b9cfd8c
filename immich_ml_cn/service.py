"""The running service: lanes, registry and pipeline put together, and their lifetimes."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from . import __version__, memory
from .api.forwarding import Gateway, Upstream
from .api.mt_photos import MtPhotos
from .engines import Engine, bulk_lane_count, explain, usable_cores
from .engines.packages import runtime_versions
from .metrics import Gauge, Metrics, exposition
from .serving.catalogue import Catalogue
from .serving.cpu_pool import ByteBudget, CpuPool
from .serving.image_decoder import ImageDecoder
from .serving.lanes import Lane
from .serving.pipeline import Pipeline
from .serving.preloading import preloaded
from .serving.recent_models import RecentModels
from .serving.registry import Registry
from .serving.tasks import Tasks
from .serving.warm_start import WarmStart
from .settings import Settings
from .sources.tasks import ModelTask
from .store.downloader import Downloader

if TYPE_CHECKING:
    from .api.gateway.gateway import ImmichGateway
    from .search.text_search import TextSearch

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S: Final = 3.0
"""Seconds that a lane's threads have at shutdown to finish loading, and to finish running."""


class Service:
    """Everything behind the routes; it runs inside `running`."""

    pipeline: Pipeline
    gateway: Gateway
    immich: "ImmichGateway | None"
    """In front of Immich's own API, where the settings say where that is."""
    mt_photos: MtPhotos
    registry: Registry
    stuck: tuple[str, ...] = ()
    """After `running`, what still runs native code on its threads: a normal exit of the process would abort."""

    def __init__(self, settings: Settings, engine: Engine, on_fatal: Callable[[str], None]) -> None:
        """
        Args:
            engine: opens sessions.
            on_fatal: called with the reason, from any thread, when the service can never work again.
        """
        self._settings = settings
        self._engine = engine
        self._report_fatal = on_fatal
        self.metrics = Metrics()
        self._preloading: asyncio.Task[None] | None = None
        self._budget = ByteBudget(settings.max_decoded_bytes)
        self._text_search: TextSearch | None = None
        self._lanes: tuple[Lane, ...] = ()
        self._listening = asyncio.Event()
        self._recent: RecentModels | None = None
        if settings.warm_start:
            self._recent = RecentModels(settings.cache_folder, forwarded=settings.forwarded_tasks)
        self._saving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start everything, preload what the settings name, and close it all at the end."""
        async with AsyncExitStack() as stack:
            catalogue = self._start(stack)
            self._preloading = _background(stack, self._preload(catalogue), "preload")
            await asyncio.wait([self._preloading])
            if self._recent is not None:
                stack.push_async_callback(asyncio.to_thread, self._recent.save)
                more_modules = () if self._text_search is None else (f"{__package__}.search.index",)
                warm_start = WarmStart(self._engine, catalogue, self.registry, self._recent, more_modules=more_modules)
                _background(stack, self._when_listening(warm_start), "warm start")
            yield

    def _start(self, stack: AsyncExitStack) -> Catalogue:
        """Put everything together; `stack` closes it in reverse order, each part even when closing another failed."""
        settings = self._settings
        close_timeout_s = min(CLOSE_TIMEOUT_S, settings.shutdown_timeout_s)
        downloader = Downloader(settings, self.metrics, on_gpu=self._engine.on_gpu)
        stack.push_async_callback(self._find_stuck, downloader, close_timeout_s)
        pool, text_pool = CpuPool(settings.request_threads), CpuPool(1, nice=0)
        stack.callback(pool.close)
        stack.callback(text_pool.close)
        decoder = ImageDecoder(pool, settings.max_image_pixels)
        stack.callback(decoder.close)
        self._lanes = self._make_lanes()
        for lane in self._lanes:
            stack.callback(lane.close)
        self.registry = Registry(
            self._engine, self._lanes, ttl_s=settings.model_ttl_s, wait_s=settings.model_wait_s, metrics=self.metrics
        )
        stack.push_async_callback(self.registry.close, close_timeout_s)
        catalogue = Catalogue(settings, downloader, on_gpu=self._engine.on_gpu)
        self.pipeline = Pipeline(
            catalogue,
            self.registry,
            pool=pool,
            text_pool=text_pool,
            budget=self._budget,
            decoder=decoder,
            scaled_decoding=settings.clip_preprocessing == "fast",
            metrics=self.metrics,
            answered=self._count,
        )
        upstream = self._upstream()
        self._text_search = self._search(catalogue, pool)
        if self._text_search is not None:
            stack.push_async_callback(self._text_search.close)
        if upstream is not None:
            stack.push_async_callback(upstream.close)
        self.gateway = Gateway(self._text_search or self.pipeline, upstream, settings.forwarded_tasks)
        self.mt_photos = MtPhotos(settings, self.pipeline)
        self.immich = self._immich_gateway(stack)
        stack.callback(downloader.close)
        if settings.model_ttl_s > 0 and settings.model_ttl_poll_s > 0:
            _background(stack, self.registry.sweep_forever(settings.model_ttl_poll_s), "sweeper")
        return catalogue

    def _immich_gateway(self, stack: AsyncExitStack) -> "ImmichGateway | None":
        if not self._settings.immich_url:
            return None
        from .api.gateway.gateway import ImmichGateway

        gateway = ImmichGateway(self._settings)
        stack.push_async_callback(gateway.close)
        return gateway

    def listening(self) -> None:
        """Report that the port is open: the warm start may begin."""
        self._listening.set()

    async def _when_listening(self, warm_start: WarmStart) -> None:
        await self._listening.wait()
        await warm_start.run()

    def _count(self, tasks: Tasks) -> None:
        """Count an answered request, and keep what it used for the next start."""
        if self._recent is not None and self._recent.count(tasks):
            saving = asyncio.create_task(asyncio.to_thread(self._recent.save))
            self._saving.add(saving)
            saving.add_done_callback(self._saving.discard)

    def stop_preloading(self) -> None:
        """Stop preloading; may be called by a signal handler, at any time."""
        task = self._preloading
        if task is not None and not task.done():
            task.get_loop().call_soon_threadsafe(task.cancel)

    def status(self) -> dict[str, Any]:
        """What runs here, for people and scripts."""
        return {
            "version": __version__,
            "device": self._engine.description,
            "deviceReason": self._device_reason,
            "provider": self._engine.provider,
            "runtime": runtime_versions(),
            "uptimeSeconds": round(self.metrics.uptime()),
            "models": self.registry.details(),
            "aliases": dict(self._settings.clip_aliases),
            "lanes": [
                {"name": lane.name, "device": lane.device_id, "busy": lane.lock.locked()} for lane in self._lanes
            ],
            "decodedBytes": {"held": self._budget.held, "limit": self._budget.total, "waiting": self._budget.waiting},
            "residentBytes": memory.resident_bytes(),
            "threads": threading.active_count(),
            "openFiles": memory.open_files(),
            "lastErrors": self.metrics.last_errors(),
            "lastHour": self.pipeline.last_hour.minutes(),
            "immich": self.immich is not None,
        }

    @cached_property
    def _device_reason(self) -> str:
        return str(explain(self._engine, self._settings))

    async def look_up(self, text: str, limit: int) -> dict[str, Any] | None:
        """What a search for text finds, None where nothing is kept for it; see `TextSearch.look_up`."""
        return None if self._text_search is None else await self._text_search.look_up(text, limit)

    async def text_search_status(self) -> dict[str, Any]:
        """An addition to the status: what is kept for text search, and how the last one went."""
        return {"textSearch": {"mode": "off"} if self._text_search is None else await self._text_search.status()}

    async def exposition(self) -> bytes:
        """The numbers for Prometheus."""
        models = self.registry.details()
        ready = {key: detail for key, detail in models.items() if detail["state"] == "ready"}
        gauges = [
            Gauge("up_seconds", "Seconds since the start.", {"": self.metrics.uptime()}),
            Gauge("queue_length", "Items that wait for a batch.", {k: d["waiting"] for k, d in ready.items()}, "model"),
            Gauge(
                "model_bytes", "Bytes of a loaded model's graphs.", {k: d["bytes"] for k, d in ready.items()}, "model"
            ),
            Gauge("model_leases", "Requests that hold a model.", {k: d["leases"] for k, d in ready.items()}, "model"),
            Gauge("lane_busy", "1 while a lane runs.", {x.name: x.lock.locked() for x in self._lanes}, "lane"),
            Gauge("decoded_bytes", "Memory held by decoded images.", {"": self._budget.held}),
            Gauge("decode_waiting", "Requests that wait for memory to decode.", {"": self._budget.waiting}),
            Gauge("threads", "Threads of Python.", {"": threading.active_count()}),
            *([] if self._text_search is None else await self._text_search.gauges()),
        ]
        return await asyncio.to_thread(self._exposition, gauges)

    def _exposition(self, gauges: list[Gauge]) -> bytes:
        on_gpu = memory.gpu_bytes(self._settings.device_ids) if self._engine.on_gpu else {}
        gpus = [
            Gauge("gpu_memory_used_bytes", "Used, by all.", {str(n): used for n, (used, _) in on_gpu.items()}, "gpu"),
            Gauge("gpu_memory_bytes", "Memory of a GPU.", {str(n): whole for n, (_, whole) in on_gpu.items()}, "gpu"),
        ]
        info = {"version": __version__, "provider": self._engine.provider}
        return exposition(self.metrics, info, [*gauges, *gpus])

    def _fail(self, reason: str) -> None:
        self.metrics.record_error(reason)
        self._report_fatal(reason)

    def _upstream(self) -> Upstream | None:
        settings = self._settings
        if not settings.upstream:
            return None
        return Upstream(
            settings.upstream,
            connect_timeout_s=settings.forward_connect_timeout_s,
            timeout_s=settings.forward_timeout_s,
        )

    def _search(self, catalogue: Catalogue, pool: CpuPool) -> "TextSearch | None":
        """Text search around the pipeline. MT Photos, which searches by itself, goes past it."""
        settings = self._settings
        if settings.text_search == "off":
            return None
        from .search.text_search import TextSearch

        return TextSearch(
            self.pipeline,
            catalogue,
            cache=settings.cache_folder,
            max_photos=settings.search_max_photos,
            plain_queries=settings.text_search == "hybrid",
            pool=pool,
            metrics=self.metrics,
            threads=min(2, usable_cores()),
        )

    def _make_lanes(self) -> tuple[Lane, ...]:
        make = partial(Lane, time_limit_s=self._settings.worker_timeout_s, on_fatal=self._fail)
        devices = self._settings.device_ids
        bulk = [
            make(f"bulk-{number}", "bulk", device_id=devices[number % len(devices)])
            for number in range(bulk_lane_count(self._settings, on_gpu=self._engine.on_gpu))
        ]
        texts = self._settings.task_devices.get(ModelTask.CLIP, devices[0])
        return make("interactive", "interactive", device_id=texts), *bulk

    async def _find_stuck(self, downloader: Downloader, timeout_s: float) -> None:
        """Wait for the threads of what was closed, and remember those that do not end."""
        ended = await asyncio.gather(*(asyncio.to_thread(lane.join, timeout_s) for lane in self._lanes))
        self.stuck = tuple(lane.name for lane, has_ended in zip(self._lanes, ended, strict=True) if not has_ended)
        if self.stuck:
            logger.warning("still busy at the end: %s", ", ".join(self.stuck))
        if downloader.busy:
            self.stuck += ("fetch",)

    async def _preload(self, catalogue: Catalogue) -> None:
        """Load what the settings name; what is not available is logged and left to the first request."""
        for spec in preloaded(self._settings, catalogue):
            try:
                await self.registry.preload(spec)
            except Exception as error:
                logger.warning("not preloaded: %s", error)


def _background(stack: AsyncExitStack, coroutine: Coroutine[object, object, None], name: str) -> "asyncio.Task[None]":
    """Run a coroutine in a task that ends with the stack."""

    async def cancel() -> None:
        task.cancel()
        await asyncio.wait([task])

    task = asyncio.create_task(coroutine, name=name)
    stack.push_async_callback(cancel)
    return task
