"""Workers and lanes: a thread that never dies in silence, never hangs its callers, and knows its priority."""

import asyncio
import sys
import threading
from typing import Any, cast

import pytest
from serving_fakes import TIMEOUT_S, a_lane, happens, priority, settle, until

from immich_ml_cn.engines.session import LaneKind
from immich_ml_cn.serving.lanes import LaneClosed, Worker

pytestmark = pytest.mark.anyio
linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")


class Stop:
    """A job that says when it has begun and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.end = threading.Event()

    def __call__(self, result: int = 0) -> int:
        self.begun.set()
        assert self.end.wait(TIMEOUT_S)
        return result


def worker(fatal_errors: list[str], nice: int = 0) -> Worker:
    return Worker("worker", nice=nice, on_fatal=fatal_errors.append)


def closed(made: Worker) -> bool:
    made.close()
    return made.join(TIMEOUT_S)


def priority_of_a_thread_started_here() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(priority()))
    thread.start()
    thread.join()
    return found[0]


class TestWorker:
    async def test_jobs_run_one_after_the_other_on_one_thread(self) -> None:
        fatal_errors: list[str] = []
        made = worker(fatal_errors)
        order: list[int] = []

        def job(number: int) -> str:
            order.append(number)
            return threading.current_thread().name

        names = await asyncio.gather(*(made.run(job, number) for number in range(20)))
        assert set(names) == {"worker"}
        assert order == list(range(20))
        assert closed(made)
        assert not fatal_errors

    async def test_a_failure_is_the_callers_and_the_thread_lives_on(self) -> None:
        fatal_errors: list[str] = []
        made = worker(fatal_errors)
        with pytest.raises(ZeroDivisionError):
            await made.run(divmod, 1, 0)
        assert await made.run(abs, -1) == 1
        assert closed(made)
        assert not fatal_errors

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError])
    async def test_what_would_end_a_thread_or_a_loop_is_a_failure_of_the_job(self, kind: type[BaseException]) -> None:
        """Neither the event loop nor the thread ends because a library calls `sys.exit`, and the caller hears of it."""
        fatal_errors: list[str] = []
        made = worker(fatal_errors)

        def broken() -> None:
            raise kind

        with pytest.raises(RuntimeError, match=kind.__name__):
            await asyncio.wait_for(made.run(broken), TIMEOUT_S)
        assert await made.run(abs, -1) == 1
        assert closed(made)
        assert not fatal_errors

    async def test_a_caller_who_leaves_does_not_disturb_the_next(self) -> None:
        fatal_errors: list[str] = []
        made = worker(fatal_errors)
        stop, ran = Stop(), list[str]()
        running = asyncio.create_task(made.run(stop, 1))
        waiting = asyncio.create_task(made.run(ran.append, "cancelled before its turn"))
        last = asyncio.create_task(made.run(ran.append, "last"))
        await happens(stop.begun)
        running.cancel()
        waiting.cancel()
        await settle()
        stop.end.set()
        await last
        assert running.cancelled()
        assert ran == ["last"]
        assert closed(made)
        assert not fatal_errors

    def test_a_job_outlives_the_event_loop_that_asked_for_it(self) -> None:
        fatal_errors: list[str] = []
        made = worker(fatal_errors)
        stop = Stop()

        async def ask_and_leave() -> None:
            task = asyncio.create_task(made.run(stop))
            await happens(stop.begun)
            task.cancel()

        asyncio.run(ask_and_leave())
        stop.end.set()
        assert asyncio.run(made.run(abs, -1)) == 1
        assert closed(made)
        assert not fatal_errors

    async def test_close_lets_it_finish_what_it_has(self) -> None:
        fatal_errors: list[str] = []
        made = worker(fatal_errors)
        stop = Stop()
        tasks = [asyncio.create_task(made.run(stop, number)) for number in range(3)]
        await happens(stop.begun)
        made.close()
        made.close()
        with pytest.raises(LaneClosed, match="worker is closed"):
            await made.run(abs, -1)
        assert not made.join(0)
        stop.end.set()
        assert await asyncio.gather(*tasks) == [0, 1, 2]
        assert made.join(TIMEOUT_S)
        assert not fatal_errors

    @linux
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_loop_that_dies_says_so(self) -> None:
        fatal_errors: list[str] = []
        made = worker(fatal_errors, nice=cast(Any, "not a number"))
        assert made.join(TIMEOUT_S)
        (reason,) = fatal_errors
        assert "worker died: TypeError" in reason

    @linux
    def test_a_priority_that_the_system_refuses_is_no_reason_to_die(self) -> None:
        """Raising the priority needs a right that we lack (or have as root): either way the worker works."""
        fatal_errors: list[str] = []
        made = worker(fatal_errors, nice=-1)
        assert asyncio.run(made.run(abs, -1)) == 1
        assert closed(made)
        assert not fatal_errors


def timers(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """The timers that are started from now on."""
    loop = asyncio.get_running_loop()
    call_later, started = loop.call_later, list[asyncio.TimerHandle]()

    def noted(*args: Any) -> asyncio.TimerHandle:
        started.append(call_later(*args))
        return started[-1]

    monkeypatch.setattr(loop, "call_later", noted)
    return started


class TestLane:
    @linux
    @pytest.mark.parametrize(("kind", "nice"), [("bulk", 19), ("interactive", None)])
    async def test_priority_and_its_inheritance(self, kind: LaneKind, nice: int | None) -> None:
        """ONNX Runtime's own threads are started by the loader's thread and must be as modest as it is."""
        expected = priority() if nice is None else nice
        with a_lane(kind=kind) as lane:
            assert await lane.run(priority) == expected
            assert await lane.load(priority) == expected
            assert await lane.load(priority_of_a_thread_started_here) == expected
            assert await lane.run(priority_of_a_thread_started_here) == expected
        assert priority_of_a_thread_started_here() == priority()

    async def test_a_load_does_not_hold_up_batches(self) -> None:
        stop = Stop()
        with a_lane() as lane:
            loading = asyncio.create_task(lane.load(stop, 5))
            await happens(stop.begun)
            assert await lane.run(abs, -1) == 1
            stop.end.set()
            assert await loading == 5

    async def test_threads_bear_the_lanes_name(self) -> None:
        with a_lane("bulk-3") as lane:
            assert (await lane.run(threading.current_thread)).name == "bulk-3-run"
            assert (await lane.load(threading.current_thread)).name == "bulk-3-load"
            assert repr(lane) == "<Lane bulk-3 [idle]>"
            async with lane.lock:
                assert repr(lane) == "<Lane bulk-3 [busy]>"

    async def test_a_batch_over_the_time_limit_is_reported(self) -> None:
        fatal_errors: list[str] = []
        stop = Stop()
        with a_lane(time_limit_s=0.05, fatal_errors=fatal_errors) as lane:
            running = asyncio.create_task(lane.run(stop))
            await happens(stop.begun)
            await until(lambda: fatal_errors)
            stop.end.set()
            await running
        assert fatal_errors == ["a batch on bulk-0 has been running for over 0.05 s"]

    async def test_a_batch_that_is_done_is_not_watched_any_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watchdogs = timers(monkeypatch)
        with a_lane() as lane:
            await lane.run(abs, -1)
            with pytest.raises(ZeroDivisionError):
                await lane.run(divmod, 1, 0)
        assert [watchdog.cancelled() for watchdog in watchdogs] == [True, True]

    async def test_a_closed_lane_takes_no_work(self) -> None:
        with a_lane() as lane:
            lane.close()
            with pytest.raises(LaneClosed, match="bulk-0-run"):
                await lane.run(abs, -1)
            with pytest.raises(LaneClosed, match="bulk-0-load"):
                await lane.load(abs, -1)

    async def test_join_tells_of_a_thread_that_does_not_end(self) -> None:
        stop = Stop()
        with a_lane() as lane:
            loading = asyncio.create_task(lane.load(stop))
            await happens(stop.begun)
            lane.close()
            assert not lane.join(0.01)
            stop.end.set()
            await loading
            assert lane.join(TIMEOUT_S)

    async def test_turns_are_taken_in_the_order_asked(self) -> None:
        order: list[int] = []

        async def take(number: int) -> None:
            for _ in range(2):
                async with lane.lock:
                    order.append(number)
                    await lane.run(abs, -1)

        with a_lane() as lane:
            await asyncio.gather(*(take(number) for number in range(3)))
        assert order == [0, 1, 2, 0, 1, 2]

    async def test_a_load_over_the_time_limit_is_reported(self) -> None:
        fatal_errors: list[str] = []
        stop = Stop()
        with a_lane(time_limit_s=0.05, fatal_errors=fatal_errors) as lane:
            loading = asyncio.create_task(lane.load(stop))
            await happens(stop.begun)
            await until(lambda: fatal_errors)
            stop.end.set()
            await loading
        assert fatal_errors == ["a load on bulk-0 has been running for over 0.05 s"]

    async def test_loads_that_wait_for_one_another_have_their_time_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watchdogs = timers(monkeypatch)

        def watched() -> int:
            return sum(not watchdog.cancelled() for watchdog in watchdogs)

        with a_lane() as lane:
            assert await asyncio.gather(*(lane.load(watched) for _ in range(4))) == [1] * 4
        assert len(watchdogs) == 4

    async def test_a_device_that_fails_on_three_items_in_a_row_is_dead(self) -> None:
        fatal_errors: list[str] = []
        with a_lane(fatal_errors=fatal_errors) as lane:
            for reason in ("one", "two"):
                lane.device_failed(reason)
            lane.succeeded()
            for reason in ("three", "four"):
                lane.device_failed(reason)
            assert not fatal_errors
            lane.device_failed("five")
        assert fatal_errors == ["the device of bulk-0 failed 3 times in a row: five"]
