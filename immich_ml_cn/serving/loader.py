"""How a model comes into memory: its files are fetched, its graphs opened on the lanes, its batcher started."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from immich_ml_cn import memory
from immich_ml_cn.engines import Engine, LoadError
from immich_ml_cn.engines.graphs.files import Graph, graph_bytes
from immich_ml_cn.engines.session import OpenSession, Session
from immich_ml_cn.errors import DamagedModel, ServiceError
from immich_ml_cn.messages import Message, tr
from immich_ml_cn.metrics import Metrics

from .batching import Batcher, ItemT, OutputT, Replica
from .entry import Entry
from .lanes import Lane
from .spec import AnyModel, Loaded, ModelSpec, ModelT

logger = logging.getLogger(__name__)


class Loader:
    """Loads models onto the lanes of their kind, and drops them there."""

    def __init__(
        self,
        engine: Engine,
        lanes: Sequence[Lane],
        *,
        metrics: Metrics,
        free_memory: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            engine: opens sessions.
            lanes: a model is copied to each lane of its kind.
            metrics: where the batches are counted.
            free_memory: called when an inference had too little memory.
        """
        self._engine = engine
        self._lanes = tuple(lanes)
        self._metrics = metrics
        self._free_memory = free_memory

    async def load(self, entry: Entry[ModelT]) -> Loaded[ModelT]:
        """Fetch and build a model; a damaged file is quarantined and fetched again once."""
        try:
            await _fetch(entry)
            return await self.build(entry)
        except DamagedModel as damage:
            if entry.spec.quarantine is None or not entry.spec.quarantine(damage):
                raise
        await _fetch(entry)
        return await self.build(entry)

    async def unload(self, batcher: Batcher[ItemT, OutputT]) -> None:
        """Close a model's batcher and drop its sessions, each on its lane's loader thread."""
        await batcher.close()
        replicas = batcher.take_replicas()
        while replicas:
            await replicas[-1].lane.load(_drop_last, replicas, self._engine)

    async def build(self, entry: Entry[ModelT]) -> Loaded[ModelT]:
        """Open its graphs, which are here."""
        spec = entry.spec
        lanes = [lane for lane in self._lanes if lane.kind == spec.lane and spec.device in (None, lane.device_id)]
        logger.info("loading %s", spec.key)
        sizes: list[int] = []
        models = [await lane.load(_build_model, spec, self._opener(entry, lane, sizes)) for lane in lanes]
        replicas = [Replica(lane, model) for lane, model in zip(lanes, models, strict=True)]
        batcher = Batcher(spec.key, replicas, spec.max_batch, metrics=self._metrics, free_memory=self._free_memory)
        return Loaded(models[0], batcher, spec.key, sum(sizes))

    def _opener(self, entry: Entry[ModelT], lane: Lane, sizes: list[int]) -> OpenSession:
        def open_session(graph: Graph) -> Session:
            session = self._engine.open(
                graph, lane.kind, lane.device_id, parallel=entry.spec.parallel, pinned=entry.pinned
            )
            with suppress(OSError):  # the file may be gone by now
                sizes.append(graph_bytes(graph))
            return session

        return open_session


def failure_message(spec: ModelSpec[AnyModel], error: Exception) -> Message:
    """Why a model could not be loaded, for people."""
    if isinstance(error, ServiceError | LoadError):
        return tr("{model} is not available: {reason}", model=spec.key, reason=error)
    reason = f"{type(error).__name__}: {error}"
    return tr("{model} is not available, loading it failed: {reason}", model=spec.key, reason=reason)


async def _fetch(entry: Entry[ModelT]) -> None:
    """Have the model's files brought; where they cannot be had, its fallback answers from now on."""
    if entry.spec.fetch is None:
        return
    try:
        await entry.spec.fetch()
    except ServiceError:
        entry.falls_back = entry.spec.fallback is not None
        raise
    if entry.falls_back:
        logger.info("%s is here and answers again", entry.spec.key)
    entry.falls_back = False


def _build_model(spec: ModelSpec[ModelT], open_session: OpenSession) -> ModelT:
    """Build a model on the loader thread, and return the memory that only building it needed: over half its size."""
    model = spec.build(open_session)
    memory.release()
    return model


def _drop_last(replicas: list[Replica[ItemT, OutputT]], engine: Engine) -> None:
    """Free one replica's session on the lane's own thread: freeing hundreds of MB takes a while."""
    replicas.pop()
    engine.release_memory()
