"""The running service: lanes, registry and pipeline put together, and their lifetimes."""

import asyncio
import importlib.metadata
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from . import __version__, memory
from .api.forwarding import Gateway, Upstream
from .api.mt_photos import MtPhotos
from .engines import Engine, bulk_lane_count, usable_cores
from .errors import UnknownModel
from .metrics import Gauge, Metrics, Snapshot, exposition
from .serving.catalogue import Catalogue
from .serving.cpu_pool import ByteBudget, CpuPool
from .serving.lanes import Lane
from .serving.pipeline import Pipeline
from .serving.registry import Registry
from .serving.spec import ModelSpec
from .settings import Settings
from .sources.tasks import Component, ModelTask
from .store.downloader import Downloader

if TYPE_CHECKING:
    from .search.text_search import TextSearch

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 3.0
"""Seconds that a lane's threads have at shutdown to end what they are loading, and to end what they are running."""


class Service:
    """Everything behind the routes; alive inside `running`."""

    pipeline: Pipeline
    gateway: Gateway
    mt_photos: MtPhotos
    registry: Registry
    stuck: tuple[str, ...] = ()
    """After `running`, the lanes whose threads still run native code: a normal exit of the process would abort."""

    def __init__(self, settings: Settings, engine: Engine, on_death: Callable[[str], None]) -> None:
        """
        Args:
            engine: opens sessions.
            on_death: told why, from any thread, when the service can never work again.
        """
        self._settings = settings
        self._engine = engine
        self._report_death = on_death
        self.metrics = Metrics()
        self._preloading: asyncio.Task[None] | None = None
        self._budget = ByteBudget(settings.max_decoded_bytes)
        self._running_lanes: tuple[Lane, ...] = ()
        self._text_search: TextSearch | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start everything, preload what the settings name, and close it all at the end."""
        settings = self._settings
        lanes = self._lanes()
        self._running_lanes = tuple(lanes)
        downloader = Downloader(settings, self.metrics)
        pool = CpuPool(settings.request_threads)
        text_pool = CpuPool(1, nice=0)
        self.registry = Registry(
            self._engine, lanes, ttl_s=settings.model_ttl_s, wait_s=settings.model_wait_s, metrics=self.metrics
        )
        catalogue = Catalogue(settings, downloader, on_gpu=self._engine.on_gpu)
        self.pipeline = Pipeline(
            catalogue,
            self.registry,
            pool=pool,
            text_pool=text_pool,
            budget=self._budget,
            max_pixels=settings.max_image_pixels,
            scaled_decoding=settings.clip_preprocessing == "fast",
            metrics=self.metrics,
        )
        upstream = self._upstream()
        self._text_search = self._search(catalogue, pool)
        self.gateway = Gateway(self._text_search or self.pipeline, upstream, settings.forwarded_tasks)
        self.mt_photos = MtPhotos(settings, self.pipeline)
        sweeper = self._sweeper()
        try:
            self._preloading = asyncio.create_task(self._preload(catalogue), name="preload")
            await asyncio.wait([self._preloading])
            yield
        finally:
            if sweeper is not None:
                sweeper.cancel()
            downloader.close()
            if upstream is not None:
                await upstream.close()
            patience_s = min(PATIENCE_S, settings.shutdown_timeout_s)
            if self._text_search is not None:
                await self._text_search.close()
            await self.registry.close(patience_s)
            for lane in lanes:
                lane.close()
            pool.close()
            text_pool.close()
            await self._join(lanes, patience_s)
            if downloader.busy:
                self.stuck += ("fetch",)

    def stop_preloading(self) -> None:
        """Give up what is being preloaded; may be called by a signal handler, at any time."""
        task = self._preloading
        if task is not None and not task.done():
            task.get_loop().call_soon_threadsafe(task.cancel)

    def status(self) -> dict[str, Any]:
        """What runs here, for people and scripts."""
        return {
            "version": __version__,
            "device": self._engine.description,
            "provider": self._engine.provider,
            "runtime": _runtime_versions(),
            "uptimeSeconds": round(self.metrics.uptime()),
            "models": self.registry.details(),
            "aliases": dict(self._settings.clip_aliases),
            "lanes": [
                {"name": lane.name, "device": lane.device_id, "busy": lane.lock.locked()}
                for lane in self._running_lanes
            ],
            "decodedBytes": {"held": self._budget.held, "limit": self._budget.total, "waiting": self._budget.waiting},
            "residentBytes": memory.resident_bytes(),
            "threads": threading.active_count(),
            "openFiles": memory.open_files(),
            "lastErrors": self.metrics.last_errors(),
        }

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
            Gauge("lane_busy", "1 while a lane runs.", {x.name: x.lock.locked() for x in self._running_lanes}, "lane"),
            Gauge("decoded_bytes", "Memory held by decoded images.", {"": self._budget.held}),
            Gauge("decode_waiting", "Requests that wait for memory to decode.", {"": self._budget.waiting}),
            Gauge("threads", "Threads of Python.", {"": threading.active_count()}),
            *([] if self._text_search is None else await self._text_search.gauges()),
        ]
        snapshot = Snapshot(self.metrics.copy(), __version__, self._engine.provider, gauges)
        return await asyncio.to_thread(self._exposition, snapshot)

    def _exposition(self, snapshot: Snapshot) -> bytes:
        on_gpu = memory.gpu_bytes(self._settings.device_ids) if self._engine.on_gpu else {}
        gpus = [
            Gauge("gpu_memory_used_bytes", "Used, by all.", {str(n): used for n, (used, _) in on_gpu.items()}, "gpu"),
            Gauge("gpu_memory_bytes", "Memory of a GPU.", {str(n): whole for n, (_, whole) in on_gpu.items()}, "gpu"),
        ]
        return exposition(replace(snapshot, gauges=[*snapshot.gauges, *gpus]))

    def _on_death(self, reason: str) -> None:
        self.metrics.record_error(reason)
        self._report_death(reason)

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

    def _lanes(self) -> list[Lane]:
        make = partial(Lane, time_limit_s=self._settings.worker_timeout_s, on_death=self._on_death)
        devices = self._settings.device_ids
        bulk = [
            make(f"bulk-{number}", "bulk", device_id=devices[number % len(devices)])
            for number in range(bulk_lane_count(self._settings, on_gpu=self._engine.on_gpu))
        ]
        texts = self._settings.task_devices.get(ModelTask.CLIP, devices[0])
        return [make("interactive", "interactive", device_id=texts), *bulk]

    async def _join(self, lanes: list[Lane], patience_s: float) -> None:
        ended = await asyncio.gather(*(asyncio.to_thread(lane.join, patience_s) for lane in lanes))
        self.stuck = tuple(lane.name for lane, over in zip(lanes, ended, strict=True) if not over)
        if self.stuck:
            logger.warning("still busy at the end: %s", ", ".join(self.stuck))

    def _sweeper(self) -> "asyncio.Task[None] | None":
        if self._settings.model_ttl_s <= 0 or self._settings.model_ttl_poll_s <= 0:
            return None
        return asyncio.create_task(self.registry.sweep_forever(self._settings.model_ttl_poll_s), name="sweeper")

    async def _preload(self, catalogue: Catalogue) -> None:
        """Load what the settings name; what cannot be had is logged and left for the first request."""
        for spec in preloaded(self._settings, catalogue):
            try:
                await self.registry.preload(spec)
            except Exception as error:
                logger.warning("not preloaded: %s", error)


def _runtime_versions() -> dict[str, str]:
    """Versions of what runs the models, by the packages that are installed."""
    packages = {
        "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
        "cuda": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
        "cudnn": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
    }
    found: dict[str, str] = {}
    for what, names in packages.items():
        for name in names:
            with suppress(importlib.metadata.PackageNotFoundError):
                found.setdefault(what, importlib.metadata.version(name))
    return found


def preloaded(settings: Settings, catalogue: Catalogue) -> list[ModelSpec[Any]]:
    """The models that the settings want loaded before the port opens; names that nobody knows are logged."""
    clip, faces = settings.preload_clip, settings.preload_faces
    wanted = [
        (ModelTask.CLIP, Component.TEXTUAL, settings.preload_clip_textual + clip),
        (ModelTask.CLIP, Component.VISUAL, settings.preload_clip_visual + clip),
        (ModelTask.FACES, Component.DETECTION, settings.preload_face_detection + faces),
        (ModelTask.FACES, Component.RECOGNITION, settings.preload_face_recognition + faces),
        (ModelTask.OCR, Component.DETECTION, settings.preload_ocr_detection),
        (ModelTask.OCR, Component.RECOGNITION, settings.preload_ocr_recognition),
    ]
    specs: dict[str, ModelSpec[Any]] = {}
    for task, component, names in wanted:
        for name in names:
            try:
                spec = catalogue.spec(task, component, name)
            except UnknownModel as error:
                logger.error("cannot preload: %s", error)
                continue
            specs[spec.key] = spec
    return list(specs.values())
