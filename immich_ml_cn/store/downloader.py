"""Downloads a model's missing files into the cache without blocking the event loop."""

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from immich_ml_cn import memory, sources
from immich_ml_cn.engines import checking_engine
from immich_ml_cn.errors import DamagedModel, ServiceError, Unavailable, UnknownModel
from immich_ml_cn.messages import tr
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.tasks import Component, ModelTask

from . import fetch, joint_graphs
from .checkpoints import CheckpointConverter
from .conversion.architecture import ARCHITECTURES
from .conversion.convert import graph_name
from .conversion.graph import Precision
from .fetch.lock import locked
from .fetch.monitor import TransferMonitor
from .inventory import is_inside
from .tower_check import check_tower

logger = logging.getLogger(__name__)

MAX_CONCURRENT_DOWNLOADS: Final = 3


class Downloader:
    """Fetches models on threads of its own, one fetch per component of a model."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None, *, on_gpu: bool = False) -> None:
        """
        Args:
            metrics: where fetches are counted.
            on_gpu: whether models run on a GPU: a Chinese-CLIP is then converted to fp16 as well.
        """
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._options = fetch_options(settings)
        self._host_health = fetch.HostHealth()
        self._cancelled = threading.Event()
        self._precisions = _precisions(settings, on_gpu=on_gpu)
        self._checkpoints = CheckpointConverter(settings, self._options, self._host_health, self._cancelled)
        self._under_way: set[int] = set()
        self._progress: dict[tuple[str, str], fetch.ProgressState] = {}
        self._executor = ThreadPoolExecutor(MAX_CONCURRENT_DOWNLOADS, thread_name_prefix="fetch")

    async def ensure(self, task: ModelTask, model: str, component: Component) -> None:
        """Make sure that the files of one component of a model are in the cache.

        Raises:
            Unavailable: they are not and cannot be had; the message says what was tried and what to do.
        """
        # Not on the fetching threads: what is here already must not wait for somebody's download.
        if await asyncio.to_thread(self.is_here, task, model, component):
            return
        outcome = "failed"
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self.ensure_now, task, model, component)
            outcome = "ok"
        finally:
            self._metrics.count_fetch(f"{task}/{model}/{component}", outcome)

    def progress(self, task: ModelTask, model: str) -> str:
        """How far the fetch of a model is, as an addition to a sentence; "" when none is under way."""
        state = self._progress.get((task, model))
        return "" if state is None or state.now is None else tr(" ({progress})", progress=state.now.said)

    def quarantine(self, task: ModelTask, model: str, component: Component, damage: DamagedModel) -> bool:
        """Rename a damaged file in the cache, so that it is fetched again.

        Returns:
            False when that was done before, or where it cannot be had again: then it stays as it is.
        """
        if not is_inside(self._settings.cache_folder, damage.path.parent) or fetch.times_quarantined(damage.path):
            return False
        if not self._is_offered(task, model, component):
            return False
        try:
            quarantined = fetch.quarantine(damage.path)
        except ServiceError as error:
            logger.error("%s, and it cannot be set aside: %s", damage, error)
            return False
        logger.error("%s; it is set aside as %s and fetched again", damage, quarantined.name)
        return True

    @property
    def busy(self) -> bool:
        """True while a fetch is under way on one of the threads."""
        return bool(self._under_way)

    def close(self) -> None:
        """Stop what is being fetched; what has arrived is kept for the next time."""
        self._cancelled.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _folder(self, task: ModelTask, model: str, component: Component) -> Path:
        relative = sources.folder_for(task, model, component, revision=self._settings.model_revision)
        return self._settings.cache_folder / relative

    def is_here(self, task: ModelTask, model: str, component: Component) -> bool:
        """Whether `ensure` has nothing to do."""
        return (self._folder(task, model, component) / component / "model.onnx").is_file()

    def ensure_now(self, task: ModelTask, model: str, component: Component) -> None:
        """`ensure` on the calling thread."""
        with self._working():
            if task == ModelTask.CLIP and model in ARCHITECTURES:
                self._ensure_chinese_clip(model, component)
            else:
                self._fetch(task, model, component)

    def ensure_precisions(self, model: str, precisions: Sequence[Precision]) -> None:
        """Make sure that a Chinese-CLIP is here in these precisions, too. Blocks.

        Raises:
            Unavailable: one has to be converted, and its checkpoint cannot be had.
        """
        folder = self._folder(ModelTask.CLIP, model, Component.VISUAL).absolute()
        wanted = tuple(dict.fromkeys((*self._precisions, *precisions)))
        with self._working():
            if not _has_all(folder, wanted):
                self._checkpoints.convert(
                    model, folder, wanted, self._observers(ModelTask.CLIP, model), lambda: _has_all(folder, wanted)
                )

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._under_way.add(threading.get_ident())
        try:
            yield
        finally:
            self._under_way.discard(threading.get_ident())

    def _ensure_chinese_clip(self, model: str, component: Component) -> None:
        """Make it from the official checkpoint; where there is none to be had, fetch what others made of it."""
        folder = self._folder(ModelTask.CLIP, model, component).absolute()
        others = self._sources(ModelTask.CLIP, model, component)
        if others and not fetch.missing_files(others, folder):
            self._fetch(ModelTask.CLIP, model, component)  # placed by hand
        else:
            self._convert_or_fetch(model, component, folder, others)
        if _has_all(folder, ("fp32",)):
            self._checkpoints.discard_partial(model, folder)

    def _convert_or_fetch(
        self, model: str, component: Component, folder: Path, others: tuple[sources.Source, ...]
    ) -> None:
        try:
            self._checkpoints.convert(
                model,
                folder,
                self._precisions,
                self._observers(ModelTask.CLIP, model),
                lambda: self.is_here(ModelTask.CLIP, model, component),
            )
        except (fetch.Cancelled, fetch.DiskFailed):
            raise
        except Unavailable as error:
            if not others or self._options.offline:
                raise
            logger.warning("%s; trying what others made of it", error)
            try:
                self._fetch(ModelTask.CLIP, model, component)
            except fetch.DiskFailed:
                raise
            except Unavailable as failure:
                message = tr("{official}; and of what others made of it: {others}", official=error, others=failure)
                raise Unavailable(message, retry_after=error.retry_after) from None

    def _observers(self, task: ModelTask, model: str) -> fetch.Progress:
        state = self._progress.setdefault((task, model), fetch.ProgressState())
        return fetch.MultiProgress(state, fetch.display_progress(sys.stderr, logger))

    def _fetch(self, task: ModelTask, model: str, component: Component) -> None:
        folder = self._folder(task, model, component).absolute()
        report = fetch.fetch_model(
            self._sources(task, model, component),
            folder,
            self._options,
            self._observers(task, model),
            self._cancelled,
            host_health=self._host_health,
            verify=lambda path, graph: self._check_third_party(model, path, graph),
            name=f"{task}/{model}",
        )
        if report.source is not None:
            size, seconds = report.bytes / 1e6, report.seconds
            logger.info(
                "fetched %s/%s/%s from %s: %.0f MB in %.0f s", task, model, component, report.source, size, seconds
            )
        if task == ModelTask.CLIP and sources.joint_source(model) is not None:
            self._split_joint(task, model, component, folder)

    def _check_third_party(self, model: str, path: PurePosixPath, graph: Path) -> None:
        """A tower is tried; a joint graph when it has been split."""
        if path.name == "model.onnx" and path.parts[0] in ModelTask.CLIP.components:
            try:
                check_tower(checking_engine(self._settings), model, path.parts[0], graph)
            except Unavailable as error:
                raise fetch.SourceFailed(str(error)) from error
            finally:
                memory.release()

    def _sources(self, task: ModelTask, model: str, component: Component) -> tuple[sources.Source, ...]:
        """
        Raises:
            UnknownModel: nobody has a model of that name.
        """
        offered = sources.sources_for(
            task,
            model,
            component,
            organization=self._settings.model_organization,
            revision=self._settings.model_revision,
        )
        joint = sources.joint_source(model) if task == ModelTask.CLIP else None
        return offered if joint is None else (*offered, joint)

    def _is_offered(self, task: ModelTask, model: str, component: Component) -> bool:
        """True if a model can be fetched again."""
        if task == ModelTask.CLIP and model in ARCHITECTURES:
            folder = self._folder(task, model, component)
            return not self._options.offline or self._checkpoints.find(model, folder) is not None
        try:
            return not self._options.offline and bool(self._sources(task, model, component))
        except UnknownModel:
            return False

    def _split_joint(self, task: ModelTask, model: str, component: Component, folder: Path) -> None:
        """Make the towers where what arrived is one graph with both."""
        with locked(folder, TransferMonitor(self._options, fetch.NullProgress(), self._cancelled)):
            if not self.is_here(task, model, component):
                engine = checking_engine(self._settings)

                def check(graph: Path) -> None:
                    check_tower(engine, model, graph.parent.name, graph)

                joint_graphs.split_joint(folder, check)


def _precisions(settings: Settings, *, on_gpu: bool) -> tuple[Precision, ...]:
    """Those that a Chinese-CLIP is converted to: fp32, which everything can run, and what the settings load."""
    if settings.clip_precision == "auto":
        return ("fp32", "fp16") if on_gpu else ("fp32",)
    return ("fp32",) if settings.clip_precision == "fp32" else ("fp32", settings.clip_precision)


def _has_all(folder: Path, precisions: Sequence[Precision]) -> bool:
    return all(
        (folder / component / graph_name(precision)).is_file()
        for component in ModelTask.CLIP.components
        for precision in precisions
    )


def fetch_options(settings: Settings) -> fetch.FetchOptions:
    """How to fetch, from the settings."""
    return fetch.FetchOptions(
        preference=settings.model_source,
        hf_endpoint=settings.hf_endpoint or None,
        hf_token=settings.hf_token or None,
        offline=settings.hf_hub_offline,
    )
