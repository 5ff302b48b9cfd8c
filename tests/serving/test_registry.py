"""The registry: one load for all who ask, nothing unloaded under anyone's hands, a failure that heals."""

import asyncio
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from serving_fakes import TIMEOUT_S, Clock, Doubler, FakeEngine, a_lane, happens, settle, states, until

from immich_ml_cn.engines import LoadError
from immich_ml_cn.engines.session import OpenSession
from immich_ml_cn.errors import DamagedModel, InferenceFailed, Unavailable
from immich_ml_cn.serving import registry as registry_module
from immich_ml_cn.serving.entry import MAX_RETRY_DELAY_S, RETRY_AFTER_FAILURE_S
from immich_ml_cn.serving.registry import IDLE_BEFORE_TRIM_S, Registry
from immich_ml_cn.serving.spec import Loaded, ModelSpec

pytestmark = pytest.mark.anyio


@dataclass
class Builder:
    """Builds models on the loader's thread: held by `gate`, failing while there are `failures`."""

    failures: list[BaseException] = field(default_factory=list)
    models: list[Doubler] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    builds: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, open_session: OpenSession) -> Doubler:
        self.builds += 1
        self.begun.set()
        assert self.gate.wait(TIMEOUT_S)
        if self.failures:
            raise self.failures.pop(0)
        open_session(Path("model.onnx"))
        self.models.append(Doubler(poison=[-1]))
        return self.models[-1]


@dataclass
class FetchCounter:
    """Brings nothing, and counts how often it was asked to."""

    count: int = 0

    async def __call__(self) -> None:
        self.count += 1


@dataclass
class Setup:
    registry: Registry
    engine: FakeEngine
    clock: Clock


@asynccontextmanager
async def setup(*, ttl_s: float = 300, wait_s: float = TIMEOUT_S, bulk_lanes: int = 1) -> AsyncIterator[Setup]:
    engine, clock = FakeEngine(), Clock()
    with a_lane("interactive", "interactive") as text, a_lane("bulk-0") as first, a_lane("bulk-1", device_id=1) as last:
        lanes = [text, first, last][: 1 + bulk_lanes]
        registry = Registry(engine, lanes, ttl_s=ttl_s, wait_s=wait_s, clock=clock)
        try:
            yield Setup(registry, engine, clock)
        finally:
            await registry.close()


def spec(build: Callable[[OpenSession], Any], key: str = "clip/m/visual", **kwargs: Any) -> ModelSpec[Doubler]:
    return ModelSpec(**{"key": key, "lane": "bulk", "max_batch": 4, "build": build, **kwargs})


async def double(registry: Registry, model: ModelSpec[Doubler], item: int = 1) -> int:
    """Lease a model and run one item through it."""
    async with registry.lease(model) as loaded:
        return await loaded.batcher.submit(item)


async def asking(registry: Registry, model: ModelSpec[Doubler], count: int = 1) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(double(registry, model, item)) for item in range(1, count + 1)]
    await settle()
    return tasks


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, logger="immich_ml_cn"):
        yield


class TestLoading:
    async def test_a_hundred_who_ask_at_once_share_one_load(self) -> None:
        build = Builder()
        build.gate.clear()
        async with setup() as h:
            tasks = await asking(h.registry, spec(build), 100)
            await happens(build.begun)
            assert states(h.registry) == {"clip/m/visual": "loading"}
            build.gate.set()
            assert await asyncio.gather(*tasks) == [2 * item for item in range(1, 101)]
            assert states(h.registry) == {"clip/m/visual": "ready"}
            assert repr(h.registry) == "<Registry [1 models, 1 ready, 0 leases]>"
        assert build.builds == 1

    async def test_models_go_to_the_lanes_of_their_kind(self) -> None:
        async with setup(bulk_lanes=2) as h:
            await double(h.registry, spec(Builder(), "text", lane="interactive"))
            assert h.engine.opened == [("interactive", 0)]
            await double(h.registry, spec(Builder(), "image"))
            assert h.engine.opened[1:] == [("bulk", 0), ("bulk", 1)]

    async def test_models_that_are_ready_are_lent_while_another_loads(self) -> None:
        slow = Builder()
        async with setup() as h:
            await double(h.registry, spec(Builder(), "ready"))
            slow.gate.clear()
            loading = await asking(h.registry, spec(slow, "slow"))
            await happens(slow.begun)
            assert await asyncio.wait_for(double(h.registry, spec(Builder(), "ready"), 4), TIMEOUT_S) == 8
            slow.gate.set()
            assert await loading[0] == 2

    async def test_a_client_that_leaves_does_not_cancel_the_others_load(self) -> None:
        build = Builder()
        build.gate.clear()
        async with setup() as h:
            one, two, three = await asking(h.registry, spec(build), 3)
            await happens(build.begun)
            one.cancel()
            await settle()
            build.gate.set()
            assert list(await asyncio.gather(two, three)) == [4, 6]
            assert one.cancelled()
        assert build.builds == 1

    async def test_a_load_that_everybody_left_still_succeeds(self) -> None:
        build = Builder()
        build.gate.clear()
        async with setup() as h:
            (only,) = await asking(h.registry, spec(build))
            await happens(build.begun)
            only.cancel()
            build.gate.set()
            assert await double(h.registry, spec(build)) == 2
        assert build.builds == 1

    async def test_several_models_are_loaded_concurrently_and_leased_together(self) -> None:
        slow, quick = Builder(), Builder()
        slow.gate.clear()
        async with setup() as h:
            specs = spec(slow, "slow"), spec(quick, "quick", lane="interactive")

            async def lease() -> list[int]:
                async with h.registry.lease_all(specs) as models:
                    assert [detail["leases"] for detail in h.registry.details().values()] == [1, 1]
                    return [await models[model].batcher.submit(3) for model in specs]

            task = asyncio.create_task(lease())
            await happens(slow.begun)
            await until(lambda: states(h.registry) == {"slow": "loading", "quick": "ready"})
            slow.gate.set()
            assert await task == [6, 6]
            assert [detail["leases"] for detail in h.registry.details().values()] == [0, 0]

    async def test_of_several_models_one_that_fails_gives_the_others_back(self) -> None:
        async with setup() as h:
            specs = spec(Builder(), "good"), spec(Builder([LoadError("bad")]), "bad")
            with pytest.raises(Unavailable, match="bad"):
                async with h.registry.lease_all(specs):
                    pytest.fail("it was leased")
            await until(lambda: states(h.registry) == {"good": "ready"})
            assert h.registry.details()["good"]["leases"] == 0

    async def test_who_waited_long_enough_is_sent_away_and_the_load_goes_on(self) -> None:
        build = Builder()
        build.gate.clear()
        async with setup(wait_s=0.01) as h:
            with pytest.raises(Unavailable, match="still on its way") as caught:
                await double(h.registry, spec(build))
            assert caught.value.retry_after == 10
            build.gate.set()
            await until(lambda: states(h.registry) == {"clip/m/visual": "ready"})
            assert await double(h.registry, spec(build)) == 2
        assert build.builds == 1


class TestFailing:
    async def test_a_failure_is_unavailable_to_each_in_its_own_words(self) -> None:
        build = Builder([LoadError("/cache/m.onnx cannot be loaded: cut short")])
        build.gate.clear()
        async with setup() as h:
            tasks = await asking(h.registry, spec(build), 3)
            build.gate.set()
            failures = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(failure) for failure in failures] == [
            "clip/m/visual is not available: /cache/m.onnx cannot be loaded: cut short"
        ] * 3
        assert all(isinstance(f, Unavailable) and f.retry_after == RETRY_AFTER_FAILURE_S for f in failures)
        assert len({id(failure) for failure in failures}) == 3
        assert build.builds == 1

    async def test_it_is_tried_again_when_its_time_has_come_and_not_before(self) -> None:
        build = Builder([LoadError("no memory")])
        async with setup() as h:
            with pytest.raises(Unavailable, match="no memory"):
                await double(h.registry, spec(build))
            assert states(h.registry) == {}
            h.clock.now += RETRY_AFTER_FAILURE_S - 10
            with pytest.raises(Unavailable, match="no memory") as refused:
                await double(h.registry, spec(build))
            assert refused.value.retry_after == 10
            assert build.builds == 1
            h.clock.now += 10
            assert await double(h.registry, spec(build)) == 2
        assert build.builds == 2

    @pytest.mark.parametrize("kind", [KeyError, MemoryError, SystemExit, StopIteration])
    async def test_whatever_a_builder_raises_heals(self, kind: type[BaseException]) -> None:
        build = Builder([kind("?")])
        async with setup() as h:
            with pytest.raises(Unavailable, match=kind.__name__):
                await asyncio.wait_for(double(h.registry, spec(build)), TIMEOUT_S)
            h.clock.now += RETRY_AFTER_FAILURE_S
            assert await double(h.registry, spec(build)) == 2

    async def test_a_kind_without_a_lane_is_a_failure_and_no_hang(self) -> None:
        async with setup(bulk_lanes=0) as h:
            with pytest.raises(Unavailable, match="not available"):
                await double(h.registry, spec(Builder()))

    async def test_a_failing_batch_leaves_the_model_ready(self) -> None:
        build = Builder()
        async with setup() as h:
            await double(h.registry, spec(build))
            with pytest.raises(InferenceFailed):
                await double(h.registry, spec(build), -1)
            assert await double(h.registry, spec(build)) == 2
        assert build.builds == 1


class TestFetching:
    async def test_files_are_fetched_before_the_build(self) -> None:
        order: list[str] = []

        async def fetch() -> None:
            order.append("fetch")

        def build(open_session: OpenSession) -> Doubler:
            order.append("build")
            return Doubler()

        async with setup() as h:
            await double(h.registry, spec(build, fetch=fetch))
            await double(h.registry, spec(build, fetch=fetch))
        assert order == ["fetch", "build"]

    async def test_a_fetch_in_vain_is_unavailable_and_tried_again(self) -> None:
        outcomes: list[Exception | None] = [Unavailable("no route"), None]

        async def fetch() -> None:
            if (error := outcomes.pop(0)) is not None:
                raise error

        build = Builder()
        async with setup() as h:
            with pytest.raises(Unavailable, match="no route"):
                await double(h.registry, spec(build, fetch=fetch))
            assert build.builds == 0
            h.clock.now += RETRY_AFTER_FAILURE_S
            assert await double(h.registry, spec(build, fetch=fetch)) == 2

    @pytest.mark.parametrize(("again", "builds"), [(True, 2), (False, 1)])
    async def test_a_damaged_file_is_set_aside_and_fetched_once_more(self, again: bool, builds: int) -> None:
        fetches: list[int] = []
        aside: list[Path] = []

        async def fetch() -> None:
            fetches.append(1)

        def quarantine(damage: DamagedModel) -> bool:
            aside.append(damage.path)
            return again

        build = Builder([DamagedModel(Path("/m.onnx"), "cut short")])
        async with setup() as h:
            model = spec(build, fetch=fetch, quarantine=quarantine)
            if again:
                assert await double(h.registry, model) == 2
            else:
                with pytest.raises(Unavailable, match="cut short"):
                    await double(h.registry, model)
        assert aside == [Path("/m.onnx")]
        assert (build.builds, len(fetches)) == (builds, builds)


class TestFallingBack:
    """The model whose files cannot be had, `wanted`, and the one that answers meanwhile, `carried`."""

    @staticmethod
    def models(outcomes: list[Exception | None]) -> tuple[ModelSpec[Doubler], Builder, Builder]:
        async def fetch() -> None:
            if (error := outcomes.pop(0)) is not None:
                raise error

        wanted, carried = Builder(), Builder()
        return spec(wanted, "ocr/big", fetch=fetch, fallback=spec(carried, "ocr/small")), wanted, carried

    async def test_the_fallback_answers_under_its_own_name(self, caplog: pytest.LogCaptureFixture) -> None:
        model, wanted, carried = self.models([Unavailable("no route")])
        async with setup() as h:
            assert h.registry.name_of(model) == "ocr/big"
            async with h.registry.lease(model) as loaded:
                assert loaded.name == "ocr/small"
            assert h.registry.name_of(model) == "ocr/small"
            assert states(h.registry) == {"ocr/small": "ready"}
            details = h.registry.details()
            assert details["ocr/big"]["state"] == "failed"
            assert details["ocr/big"]["fallback"] == "ocr/small"
            assert "no route" in details["ocr/big"]["error"]
            assert details["ocr/small"]["state"] == "ready"
        assert (wanted.builds, carried.builds) == (0, 1)
        assert "ocr/big is not available: no route; ocr/small answers in its place" in caplog.text

    async def test_the_model_is_tried_again_with_growing_pauses(self) -> None:
        outcomes: list[Exception | None] = [Unavailable("no route")] * 12
        model, wanted, _ = self.models(outcomes)
        pauses: list[float] = []
        async with setup() as h:
            await double(h.registry, model)
            while outcomes:
                left, began = len(outcomes), h.clock.now
                while len(outcomes) == left:
                    h.clock.now += RETRY_AFTER_FAILURE_S
                    await double(h.registry, model)
                    await settle()
                pauses.append(h.clock.now - began)
        assert pauses[:3] == [RETRY_AFTER_FAILURE_S, 2 * RETRY_AFTER_FAILURE_S, 4 * RETRY_AFTER_FAILURE_S]
        assert pauses == sorted(pauses)
        assert pauses[-1] == MAX_RETRY_DELAY_S
        assert wanted.builds == 0

    async def test_nobody_waits_while_it_is_tried_again_and_it_takes_over(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        arrived = asyncio.Event()
        tries: list[int] = []

        async def fetch() -> None:
            tries.append(1)
            if len(tries) == 1:
                raise Unavailable("no route")
            await arrived.wait()

        wanted, carried = Builder(), Builder()
        model = spec(wanted, "ocr/big", fetch=fetch, fallback=spec(carried, "ocr/small"))
        async with setup() as h:
            await double(h.registry, model)
            h.clock.now += RETRY_AFTER_FAILURE_S
            async with h.registry.lease(model) as loaded:
                assert loaded.name == "ocr/small"
            await settle()
            assert len(tries) == 2
            assert h.registry.details()["ocr/big"]["state"] == "loading"
            arrived.set()
            await until(lambda: states(h.registry).get("ocr/big") == "ready")
            async with h.registry.lease(model) as loaded:
                assert loaded.name == "ocr/big"
            assert h.registry.name_of(model) == "ocr/big"
            assert "fallback" not in h.registry.details()["ocr/big"]
            h.clock.now += 1000
            await h.registry.unload_idle()
            assert states(h.registry) == {}
        assert "ocr/big is here and answers again" in caplog.text

    async def test_a_preloaded_model_does_not_keep_its_fallback(self) -> None:
        model, _, _ = self.models([Unavailable("no route")])
        async with setup() as h:
            await h.registry.preload(model)
            assert states(h.registry)["ocr/small"] == "ready"
            h.clock.now += 1000
            await h.registry.unload_idle()
            assert states(h.registry) == {}

    async def test_the_fallback_is_not_unloaded_under_anyones_hands(self) -> None:
        model, _, _ = self.models([Unavailable("no route")])
        async with setup() as h, h.registry.lease(model):
            await h.registry.unload_idle(at_once=True)
            assert states(h.registry) == {"ocr/small": "ready"}

    async def test_files_that_are_here_but_cannot_be_loaded_are_a_failure(self) -> None:
        """Not to be read by another model: the operator has to hear of it."""
        model, wanted, carried = self.models([None])
        wanted.failures = [LoadError("no ONNX")]
        async with setup() as h:
            with pytest.raises(Unavailable, match="no ONNX"):
                await double(h.registry, model)
        assert carried.builds == 0

    async def test_nothing_answers_once_it_is_closed(self) -> None:
        model, _, _ = self.models([Unavailable("no route")])
        async with setup() as h:
            await double(h.registry, model)
            await h.registry.close()
            with pytest.raises(Unavailable, match="shutting down"):
                await double(h.registry, model)


class TestUnloading:
    async def test_after_the_time_to_live_without_use(self) -> None:
        build = Builder()
        async with setup(ttl_s=300) as h:
            await double(h.registry, spec(build))
            h.clock.now += 299
            assert await h.registry.unload_idle() == 0
            await double(h.registry, spec(build))
            h.clock.now += 299
            assert await h.registry.unload_idle() == 0
            h.clock.now += 1
            assert await h.registry.unload_idle() == 1
            assert states(h.registry) == {}
            assert await double(h.registry, spec(build)) == 2
        assert build.builds == 2

    @pytest.mark.parametrize("ttl_s", [0, -1])
    async def test_a_time_to_live_of_zero_means_never(self, ttl_s: float) -> None:
        async with setup(ttl_s=ttl_s) as h:
            await double(h.registry, spec(Builder()))
            h.clock.now += 1e9
            assert await h.registry.unload_idle() == 0
            assert await h.registry.unload_idle(at_once=True) == 1

    async def test_a_lease_holds_it_off(self) -> None:
        async with setup() as h:
            async with h.registry.lease(spec(Builder())) as loaded:
                h.clock.now += 1e9
                assert await h.registry.unload_idle(at_once=True) == 0
                assert await loaded.batcher.submit(3) == 6
            assert await h.registry.unload_idle() == 0, "its last use is the lease's end"
            assert await h.registry.unload_idle(at_once=True) == 1

    async def test_a_failing_request_gives_its_lease_back(self) -> None:
        async with setup() as h:
            with pytest.raises(ValueError):
                async with h.registry.lease(spec(Builder())):
                    raise ValueError
            assert await h.registry.unload_idle(at_once=True) == 1

    async def test_what_is_loading_is_not_idle(self) -> None:
        build = Builder()
        build.gate.clear()
        async with setup() as h:
            (task,) = await asking(h.registry, spec(build))
            await happens(build.begun)
            task.cancel()
            await settle()
            assert await h.registry.unload_idle(at_once=True) == 0
            build.gate.set()
            assert await double(h.registry, spec(build)) == 2

    async def test_preloaded_models_stay(self) -> None:
        async with setup() as h:
            await h.registry.preload(spec(Builder()))
            h.clock.now += 1e9
            assert await h.registry.unload_idle(at_once=True) == 0
            assert states(h.registry) == {"clip/m/visual": "ready"}

    async def test_a_preloaded_model_is_warmed_up_one_that_is_asked_for_is_not(self) -> None:
        build = Builder()

        async def warm_up(loaded: Loaded[Doubler]) -> None:
            await loaded.batcher.submit(7)

        async with setup() as h:
            await h.registry.preload(spec(build, "first", warm_up=warm_up))
            await double(h.registry, spec(build, "second", warm_up=warm_up))
        assert [model.batches for model in build.models] == [[[7]], [[1]]]

    async def test_what_is_here_is_loaded_for_whoever_asks_next_and_unloaded_as_usual(self) -> None:
        fetched, built = FetchCounter(), Builder()
        spec = ModelSpec("m", "bulk", 1, built, fetch=fetched, is_here=lambda: True)
        async with setup(ttl_s=5) as its:
            await its.registry.load_if_here(spec)
            assert states(its.registry) == {"m": "ready"}
            await its.registry.load_if_here(spec)
            async with its.registry.lease(spec):
                pass
            assert (built.builds, fetched.count) == (1, 0)
            its.clock.now += 6
            assert await its.registry.unload_idle() == 1

    async def test_what_is_here_is_warmed_up_and_stays_where_that_fails(self) -> None:
        async def warm_up(loaded: Loaded[Doubler]) -> None:
            await loaded.batcher.submit(-1)

        built = Builder()
        async with setup() as its:
            await its.registry.load_if_here(ModelSpec("m", "bulk", 1, built, warm_up=warm_up))
            assert built.models[0].batches == [[-1]]
            assert (states(its.registry), its.registry.leases) == ({"m": "ready"}, 0)

    async def test_what_is_not_here_is_left_to_a_request(self) -> None:
        fetched, built = FetchCounter(), Builder()
        spec = ModelSpec("m", "bulk", 1, built, fetch=fetched, is_here=lambda: False)
        async with setup() as its:
            await its.registry.load_if_here(spec)
            assert states(its.registry) == {}
            async with its.registry.lease(spec):
                assert fetched.count == 1

    async def test_what_is_here_and_cannot_be_loaded_is_tried_again_at_once_by_a_request(self) -> None:
        fetched, built = FetchCounter(), Builder([LoadError("damaged")])
        spec = ModelSpec("m", "bulk", 1, built, fetch=fetched, is_here=lambda: True)
        async with setup() as its:
            await its.registry.load_if_here(spec)
            assert (its.registry.details(), fetched.count) == ({}, 0)
            async with its.registry.lease(spec):
                assert fetched.count == 1

    async def test_a_preloaded_model_that_came_late_stays_too(self) -> None:
        build = Builder([LoadError("not yet")])
        async with setup() as h:
            with pytest.raises(Unavailable):
                await h.registry.preload(spec(build))
            h.clock.now += RETRY_AFTER_FAILURE_S
            await double(h.registry, spec(build))
            assert await h.registry.unload_idle(at_once=True) == 0

    async def test_a_model_asked_for_while_it_is_unloaded_is_loaded_anew(self) -> None:
        build = Builder()
        async with setup() as h:
            await double(h.registry, spec(build))
            unloading = asyncio.create_task(h.registry.unload_idle(at_once=True))
            asked = asyncio.create_task(double(h.registry, spec(build), 5))
            assert list(await asyncio.gather(unloading, asked)) == [1, 10]
        assert build.builds == 2

    async def test_sessions_are_freed_on_their_lanes_loader_thread(self) -> None:
        """Freeing hundreds of MB takes a while: never on the event loop."""
        freed: list[str] = []

        def build(open_session: OpenSession) -> Doubler:
            model = Doubler()
            weakref.finalize(model, lambda: freed.append(threading.current_thread().name))
            return model

        async with setup(bulk_lanes=2) as h:
            await double(h.registry, spec(build))
            await settle()
            await h.registry.unload_idle(at_once=True)
            assert sorted(freed) == ["bulk-0-load", "bulk-1-load"]

    async def test_a_sweep_that_fails_is_repeated(self, caplog: pytest.LogCaptureFixture) -> None:
        class Failing(Registry):
            sweeps = 0

            async def unload_idle(self, *, at_once: bool = False) -> int:
                self.sweeps += 1
                raise ValueError("broken sweep")

        registry = Failing(FakeEngine(), [], ttl_s=1, wait_s=1)
        task = asyncio.create_task(registry.sweep_forever(0))
        await until(lambda: registry.sweeps >= 2)
        task.cancel()
        assert "broken sweep" in caplog.text

    async def test_who_is_short_of_memory_does_not_wait_for_a_load(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The model that nobody uses is dropped on the thread that loads another; its own lane is held meanwhile."""
        monkeypatch.setattr(registry_module, "MAX_UNLOAD_WAIT_S", 0.05)
        idle, slow, ready = Builder(), Builder(), Builder()
        slow.gate.clear()
        async with setup() as h:
            await double(h.registry, spec(idle, "idle"))
            await double(h.registry, spec(ready, "ready"))
            ready.models[0].short_of_memory = 1
            (loading,) = await asking(h.registry, spec(slow, "slow"))
            await happens(slow.begun)
            assert await asyncio.wait_for(double(h.registry, spec(ready, "ready"), 4), TIMEOUT_S) == 8
            assert "memory is short: unloaded 0 models" in caplog.text
            assert states(h.registry) == {"ready": "ready", "slow": "loading"}
            reference = weakref.ref(idle.models.pop())
            slow.gate.set()
            assert await loading == 2
            await until(lambda: reference() is None)


class TestTidying:
    async def test_memory_is_given_back_once_after_a_time_of_work(self) -> None:
        async with setup() as h:
            assert not await h.registry.trim_memory()
            for _ in range(2):
                await double(h.registry, spec(Builder()))
                assert not await h.registry.trim_memory()
                h.clock.now += IDLE_BEFORE_TRIM_S
                assert await h.registry.trim_memory()
                h.clock.now += IDLE_BEFORE_TRIM_S
                assert not await h.registry.trim_memory()
            assert h.engine.releases == 2

    async def test_not_while_somebody_holds_a_model(self) -> None:
        async with setup() as h:
            async with h.registry.lease(spec(Builder())):
                h.clock.now += 2 * IDLE_BEFORE_TRIM_S
                assert not await h.registry.trim_memory()
            h.clock.now += IDLE_BEFORE_TRIM_S
            assert await h.registry.trim_memory()


class TestClosing:
    async def test_everything_is_unloaded_and_later_leases_are_refused(self) -> None:
        build = Builder()
        async with setup() as h:
            await h.registry.preload(spec(build))
            reference = weakref.ref(build.models.pop())
            await h.registry.close()
            assert reference() is None
            assert states(h.registry) == {}
            with pytest.raises(Unavailable, match="shutting down"):
                await double(h.registry, spec(build))
            await h.registry.close()

    async def test_requests_that_wait_for_a_batch_are_answered(self) -> None:
        build = Builder()
        async with setup() as h:
            await double(h.registry, spec(build))
            build.models[0].gate.clear()
            build.models[0].running.clear()
            tasks = await asking(h.registry, spec(build), 3)
            await happens(build.models[0].running)
            await asyncio.wait_for(h.registry.close(), TIMEOUT_S)
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT_S)
            build.models[0].gate.set()
        assert all(isinstance(result, Unavailable) for result in results)

    async def test_a_load_that_does_not_end_holds_up_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither those who wait for it, nor those who wait on another model of the lane, nor `close` itself."""
        slow, ready = Builder(), Builder()
        slow.gate.clear()
        async with setup() as h:
            await double(h.registry, spec(ready, "ready"))
            ready.models[0].gate.clear()
            ready.models[0].running.clear()
            (running,) = await asking(h.registry, spec(ready, "ready"))
            (loading,) = await asking(h.registry, spec(slow, "slow"))
            await happens(slow.begun)
            await happens(ready.models[0].running)
            await asyncio.wait_for(h.registry.close(timeout_s=0.05), TIMEOUT_S)
            with pytest.raises(Unavailable, match="shutting down"):
                await loading
            with pytest.raises(Unavailable, match="unloaded"):
                await running
            ready.models[0].gate.set()
            slow.gate.set()
        assert "still busy loading" in caplog.text

    async def test_a_fetch_under_way_is_cancelled(self) -> None:
        begun = asyncio.Event()

        async def fetch() -> None:
            begun.set()
            await asyncio.Event().wait()

        build = Builder()
        async with setup() as h:
            (task,) = await asking(h.registry, replace(spec(build), fetch=fetch))
            await begun.wait()
            await asyncio.wait_for(h.registry.close(), TIMEOUT_S)
            with pytest.raises(Unavailable, match="shutting down"):
                await task
        assert build.builds == 0
