"""Which models are in memory: single-flight load, lease, idle unload.

absent → loading → ready → closing → absent. A failed load goes back to absent with a next-try time; nothing on disk is
touched because of it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal

from immich_ml_cn import memory
from immich_ml_cn.engines import Engine, LoadError
from immich_ml_cn.engines.graphs.files import Graph, graph_bytes
from immich_ml_cn.engines.session import Model, OpenSession, Session
from immich_ml_cn.errors import DamagedModel, ServiceError, Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.metrics import Metrics

from .batching import Batcher, Replica
from .concurrency import gather_or_cancel
from .lanes import Lane
from .spec import Leases, Loaded, ModelSpec, ModelT

logger = logging.getLogger(__name__)

RETRY_AFTER_FAILURE_S: Final = 30.0
"""Seconds after a failed load during which requests for that model are refused at once, or answered by its fallback."""

MAX_RETRY_DELAY_S: Final = 3600.0
"""Seconds up to which the pauses grow in which a fallback answers."""

IDLE_BEFORE_TRIM_S: Final = 10.0
"""Seconds without a request after which the memory that the last ones needed is returned to the system."""

MAX_UNLOAD_WAIT_S: Final = 2.0
"""Seconds that an inference which ran out of memory waits for unused models to be unloaded."""

CLOSE_TIMEOUT_S: Final = 3.0
"""Seconds that `Registry.close` waits for lanes that are still loading something."""

ModelState = Literal["loading", "ready"]


@dataclass(eq=False)
class _Entry(Generic[ModelT]):
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
    """Its files could not be had, and its fallback answers until they can."""


class Registry:
    """Loads models when they are first asked for, lends them, and unloads them when nobody used them for a while."""

    def __init__(
        self,
        engine: Engine,
        lanes: Sequence[Lane],
        *,
        ttl_s: float,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
    ) -> None:
        """
        Args:
            engine: opens sessions.
            lanes: a model is copied to each lane of its kind.
            ttl_s: seconds without use after which a model may be unloaded; 0 or less means never.
            wait_s: seconds a request waits for a model that is being fetched or loaded.
            clock: monotonic seconds.
            metrics: where the batches are counted.
        """
        self._engine = engine
        self._metrics = metrics or Metrics()
        self._lanes = tuple(lanes)
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._clock = clock
        # Models of every type, by key: a key belongs to one spec, so an entry is of that spec's type.
        self._entries: dict[str, _Entry[Any]] = {}
        self._unloads: set[asyncio.Task[None]] = set()
        self._closed = False
        self._leases = 0
        self._trimmed = True
        self._last_lease = 0.0

    @asynccontextmanager
    async def lease(self, spec: ModelSpec[ModelT]) -> AsyncIterator[Loaded[ModelT]]:
        """Hold a model in memory for the length of a `with` block, loading it first if need be.

        While its files cannot be had, its fallback is lent, under its own name.

        Raises:
            Unavailable: it cannot be had at the moment, nor a fallback.
        """
        entry = self._entry(spec)
        with self._leased(entry):
            loaded = await self._own_or_none(entry)
            if loaded is not None:
                yield loaded
                return
        async with self.lease(_fallback_of(entry)) as stand_in:
            yield stand_in

    @asynccontextmanager
    async def lease_all(self, specs: Iterable[ModelSpec[Any]]) -> AsyncIterator[Leases]:
        """Lease several models, which are loaded concurrently; see `lease`.

        Raises:
            Unavailable: one of them is not available; the others go on loading.
        """
        wanted = list(specs)
        async with AsyncExitStack() as stack:
            loaded = await gather_or_cancel(*(stack.enter_async_context(self.lease(spec)) for spec in wanted))
            yield Leases({spec.key: model for spec, model in zip(wanted, loaded, strict=True)})

    @contextmanager
    def _leased(self, entry: _Entry[Any]) -> Iterator[None]:
        entry.leases += 1
        self._leases += 1
        try:
            yield
        finally:
            entry.leases -= 1
            self._leases -= 1
            entry.last_used = self._last_lease = self._clock()
            self._trimmed = False

    def name_of(self, spec: ModelSpec[Any]) -> str:
        """The key of what answers for a model: its fallback's while that does, else its own."""
        entry = self._entries.get(spec.key)
        return _fallback_of(entry).key if entry is not None and entry.falls_back else spec.key

    async def preload(self, spec: ModelSpec[ModelT]) -> None:
        """Load a model, warm it up, and keep it for good, also if it can only be loaded later.

        Raises:
            Unavailable: it cannot be had at the moment.
        """
        self._entry(spec).pinned = True
        async with self.lease(spec) as loaded:
            if spec.warm_up is not None:
                await spec.warm_up(loaded)

    async def load_if_here(self, spec: ModelSpec[Any]) -> None:
        """Load a model for whoever asks next, if all its files are here, and warm it up unless somebody does.

        Nothing is fetched, and after a failure the next request tries again.
        """
        if spec.is_here is not None and not await asyncio.to_thread(spec.is_here):
            return
        entry = self._entry(spec)
        if self._closed or entry.loaded is not None or entry.task is not None or entry.failure:
            return
        load = self._begin_load(entry, fetch=False)
        await asyncio.wait([load])
        if entry.loaded is None:
            entry.failure, entry.retry_at = "", 0.0
        elif spec.warm_up is not None and not self._leases:
            with self._leased(entry):
                try:
                    await spec.warm_up(entry.loaded)
                except Exception as error:  # a request is told
                    logger.debug("%s failed its first run: %s", spec.key, error)

    async def unload_idle(self, *, at_once: bool = False) -> int:
        """Unload the models without a lease that were not used for the time to live; their number.

        Args:
            at_once: regardless of the time to live.
        """
        unloads = self._begin_unloading(at_once=at_once)
        if unloads:
            for unload in (await asyncio.wait(unloads))[0]:
                unload.result()
        return len(unloads)

    async def sweep_forever(self, poll_s: float) -> None:
        """Unload idle models every `poll_s` seconds, and return memory to the system when there are no requests."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                await self.unload_idle()
                await self.trim_memory()
            except Exception:
                logger.exception("unloading idle models failed; trying again in %g s", poll_s)

    async def trim_memory(self) -> bool:
        """Return free memory to the system, once after each busy period: `IDLE_BEFORE_TRIM_S` after the last lease.

        The heap and the engine keep what the runs of loaded models needed: hundreds of MB.

        Returns:
            True if it was done.
        """
        if self._trimmed or self._leases or self._clock() - self._last_lease < IDLE_BEFORE_TRIM_S:
            return False
        self._trimmed = True
        await asyncio.to_thread(self._engine.release_memory)
        return True

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Unload everything. Later leases are refused, and so are items that are still queued.

        Args:
            timeout_s: how long to wait for lanes that are still loading a model.
        """
        self._closed = True
        entries, self._entries = list(self._entries.values()), {}
        loads = [entry.task for entry in entries if entry.task is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        await asyncio.gather(*(entry.loaded.batcher.close() for entry in entries if entry.loaded is not None))
        try:
            async with asyncio.timeout(timeout_s):
                for entry in entries:
                    await self._unload(entry)
                await asyncio.gather(*self._unloads, return_exceptions=True)
        except TimeoutError:
            logger.warning("a lane is still busy loading a model; not waiting for it")

    def retry(self, key: str) -> bool:
        """Load a model that failed now, without waiting for its next try; False where nobody has asked for it."""
        entry = self._entries.get(key)
        if entry is None or self._closed:
            return False
        if entry.task is None and (entry.loaded is None or entry.falls_back):
            self._begin_load(entry)
        return True

    @property
    def leases(self) -> int:
        """How many models are lent, each as often as it is."""
        return self._leases

    @property
    def waiting(self) -> int:
        """How many items wait for a batch, of all models."""
        return sum(entry.loaded.batcher.waiting for entry in self._entries.values() if entry.loaded is not None)

    def states(self) -> dict[str, ModelState]:
        """The models in memory or being loaded."""
        return {
            key: "ready" if entry.loaded else "loading"
            for key, entry in self._entries.items()
            if entry.loaded or entry.task
        }

    def details(self) -> dict[str, dict[str, Any]]:
        """The models of `states` and those that failed to load, with size, leases, queue and idle time."""
        now = self._clock()
        details = {key: _detail(entry, now) for key, entry in self._entries.items()}
        return {key: detail for key, detail in details.items() if detail["state"] != "absent"}

    async def free_memory(self) -> None:
        """Memory is short: unload the models that nobody uses and return free memory to the system.

        Whoever calls this holds a lane, and a model is dropped on the thread that also loads models: a load may take
        minutes, so unloading is not waited for longer than `MAX_UNLOAD_WAIT_S`. It goes on after that.
        """
        unloads = self._begin_unloading(at_once=True)
        if unloads:
            await asyncio.wait(unloads, timeout=MAX_UNLOAD_WAIT_S)
        logger.warning("memory is short: unloaded %d models that nobody used", sum(task.done() for task in unloads))
        await asyncio.to_thread(self._engine.release_memory)

    def _entry(self, spec: ModelSpec[ModelT]) -> _Entry[ModelT]:
        return self._entries.setdefault(spec.key, _Entry(spec))

    def _is_idle(self, entry: _Entry[Any], at_once: bool) -> bool:
        if entry.loaded is None or entry.leases or entry.pinned:
            return False
        return at_once or (0 < self._ttl_s <= self._clock() - entry.last_used)

    async def _own_or_none(self, entry: _Entry[ModelT]) -> Loaded[ModelT] | None:
        """The model itself, None where its fallback is to answer; nobody waits for another try then."""
        if entry.falls_back and not self._closed:
            if entry.task is None and self._clock() >= entry.retry_at:
                self._begin_load(entry)
            return None
        try:
            return await self._ready(entry)
        except Unavailable:
            if entry.falls_back and not self._closed:
                return None
            raise

    async def _ready(self, entry: _Entry[ModelT]) -> Loaded[ModelT]:
        if self._closed:
            raise Unavailable(tr("the server is shutting down"), retry_after=5)
        if entry.loaded is not None:
            return entry.loaded
        if entry.task is None and self._clock() < entry.retry_at:
            raise self._unavailable(entry)
        return await self._await_load(entry, entry.task or self._begin_load(entry))

    def _begin_load(self, entry: _Entry[ModelT], *, fetch: bool = True) -> "asyncio.Task[Loaded[ModelT]]":
        task = entry.task = asyncio.create_task(self._load(entry, fetch=fetch), name=f"load {entry.spec.key}")
        task.add_done_callback(_mark_retrieved)
        return task

    async def _await_load(self, entry: _Entry[ModelT], task: "asyncio.Task[Loaded[ModelT]]") -> Loaded[ModelT]:
        """Wait for a load that is shared: a client that leaves must not cancel it for the others."""
        done, _ = await asyncio.wait([task], timeout=self._wait_s)
        if not done:
            progress = entry.spec.progress() if entry.spec.progress is not None else ""
            raise Unavailable(
                tr("{model} is still on its way{progress}; try again", model=entry.spec.key, progress=progress),
                retry_after=10,
            )
        if task.cancelled():
            raise Unavailable(tr("the server is shutting down"), retry_after=5)
        if task.exception() is not None:
            raise self._unavailable(entry) from task.exception()
        return task.result()

    def _unavailable(self, entry: _Entry[Any]) -> Unavailable:
        """Why a model is not available until its next try: a new exception for each caller."""
        wait = entry.retry_at - self._clock()
        return Unavailable(entry.failure, retry_after=max(1, round(wait)))

    async def _load(self, entry: _Entry[ModelT], *, fetch: bool) -> Loaded[ModelT]:
        started = self._clock()
        try:
            loaded = entry.loaded = await (self._fetch_and_build(entry) if fetch else self._build(entry))
        except Exception as error:
            entry.failure = self._failure(entry.spec, error)
            wait = _retry_delay(entry, error)
            entry.retry_at = self._clock() + wait
            entry.failures += 1
            if entry.falls_back:
                logger.warning("%s; %s answers in its place", entry.failure, _fallback_of(entry).key)
            elif not entry.leases:  # each request that waits for it is refused with a line of its own
                logger.error("%s", entry.failure)
            raise Unavailable(entry.failure, retry_after=round(wait)) from error
        finally:
            entry.task = None
            entry.last_used = self._clock()
        entry.failures = 0
        logger.info("loaded %s in %.1f s", loaded.name, self._clock() - started)
        return loaded

    async def _fetch_and_build(self, entry: _Entry[ModelT]) -> Loaded[ModelT]:
        """Fetch and load; a damaged file is quarantined and fetched again once."""
        try:
            await self._fetch(entry)
            return await self._build(entry)
        except DamagedModel as damage:
            if entry.spec.quarantine is None or not entry.spec.quarantine(damage):
                raise
        await self._fetch(entry)
        return await self._build(entry)

    @staticmethod
    async def _fetch(entry: _Entry[Any]) -> None:
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

    async def _build(self, entry: _Entry[ModelT]) -> Loaded[ModelT]:
        spec = entry.spec
        lanes = [lane for lane in self._lanes if lane.kind == spec.lane and spec.device in (None, lane.device_id)]
        logger.info("loading %s", spec.key)
        sizes: list[int] = []
        models = [await lane.load(_build_model, spec, self._opener(entry, lane, sizes)) for lane in lanes]
        replicas = [Replica(lane, model) for lane, model in zip(lanes, models, strict=True)]
        batcher = Batcher(spec.key, replicas, spec.max_batch, metrics=self._metrics, free_memory=self.free_memory)
        return Loaded(models[0], batcher, spec.key, sum(sizes))

    def _opener(self, entry: _Entry[Any], lane: Lane, sizes: list[int]) -> OpenSession:
        def open_session(graph: Graph) -> Session:
            session = self._engine.open(
                graph, lane.kind, lane.device_id, parallel=entry.spec.parallel, pinned=entry.pinned
            )
            with suppress(OSError):  # the file may be gone by now
                sizes.append(graph_bytes(graph))
            return session

        return open_session

    @staticmethod
    def _failure(spec: ModelSpec[Any], error: Exception) -> str:
        if isinstance(error, ServiceError | LoadError):
            return tr("{model} is not available: {reason}", model=spec.key, reason=error)
        reason = f"{type(error).__name__}: {error}"
        return tr("{model} is not available, loading it failed: {reason}", model=spec.key, reason=reason)

    def _begin_unloading(self, *, at_once: bool) -> list["asyncio.Task[None]"]:
        """Take the idle models out, so that nobody can lease them any more, and unload them in tasks of their own."""
        idle = [entry for entry in self._entries.values() if self._is_idle(entry, at_once)]
        for entry in idle:
            del self._entries[entry.spec.key]
        unloads = [asyncio.create_task(self._unload(entry), name=f"unload {entry.spec.key}") for entry in idle]
        self._unloads.update(unloads)
        for unload in unloads:
            unload.add_done_callback(self._unloads.discard)
        return unloads

    async def _unload(self, entry: _Entry[Any]) -> None:
        if entry.loaded is None:
            return
        batcher, entry.loaded = entry.loaded.batcher, None
        await batcher.close()
        replicas = batcher.take_replicas()
        while replicas:
            await replicas[-1].lane.load(_drop_last_replica, replicas, self._engine)
        logger.info("unloaded %s, %d MB resident", entry.spec.key, memory.resident_bytes() >> 20)

    def __repr__(self) -> str:
        ready = sum(entry.loaded is not None for entry in self._entries.values())
        leases = sum(entry.leases for entry in self._entries.values())
        return f"<Registry [{len(self._entries)} models, {ready} ready, {leases} leases]>"


def _fallback_of(entry: _Entry[ModelT]) -> ModelSpec[ModelT]:
    """
    Raises:
        LookupError: it has none.
    """
    if entry.spec.fallback is None:
        raise LookupError(entry.spec.key)
    return entry.spec.fallback


def _retry_delay(entry: _Entry[Any], error: Exception) -> float:
    """Seconds until a model that could not be loaded is tried again: longer each time while its fallback answers."""
    wait = (error.retry_after if isinstance(error, ServiceError) else None) or RETRY_AFTER_FAILURE_S
    return min(wait * 2 ** min(entry.failures, 10), MAX_RETRY_DELAY_S) if entry.falls_back else wait


def _detail(entry: _Entry[Any], now: float) -> dict[str, Any]:
    if entry.loaded is not None and not entry.falls_back:
        return {
            "state": "ready",
            "bytes": entry.loaded.bytes,
            "leases": entry.leases,
            "waiting": entry.loaded.batcher.waiting,
            "secondsIdle": 0 if entry.leases else round(now - entry.last_used, 1),
            "kept": entry.pinned,
        }
    if entry.task is None and not entry.failure:
        return {"state": "absent"}
    fallback = {"fallback": _fallback_of(entry).key} if entry.falls_back else {}
    failure = {"error": entry.failure} if entry.failure else {}
    if entry.task is not None:
        progress = entry.spec.progress() if entry.spec.progress is not None else ""
        return {"state": "loading", "progress": progress.strip(" ()"), **failure, **fallback}
    return {"state": "failed", **failure, "retryInSeconds": max(0, round(entry.retry_at - now)), **fallback}


def _build_model(spec: ModelSpec[ModelT], open_session: OpenSession) -> ModelT:
    """Build a model on the loader thread, and return the memory that only building it needed: over half its size."""
    model = spec.build(open_session)
    memory.release()
    return model


def _drop_last_replica(replicas: list[Replica[Any, Any]], engine: Engine) -> None:
    """Free one replica's session on the lane's own thread: freeing hundreds of MB takes a while."""
    replicas.pop()
    engine.release_memory()


def _mark_retrieved(task: "asyncio.Task[Loaded[Model[Any, Any]]]") -> None:
    """Mark a failed load's exception as retrieved even when every client that waited for it has left."""
    if not task.cancelled():
        task.exception()
