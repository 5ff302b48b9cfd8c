"""The CPU pool and the bound on decoded bytes."""

import asyncio
import sys
import threading

import pytest
from serving_fakes import TIMEOUT_S, happens, priority, settle

from immich_ml_cn.serving.cpu_pool import ByteBudget, CpuPool

pytestmark = pytest.mark.anyio
linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")


async def test_a_function_runs_on_a_thread_of_the_pool() -> None:
    pool = CpuPool(2)
    assert await pool.run(divmod, 7, 2) == (3, 1)
    assert (await pool.run(threading.current_thread)).name.startswith("cpu")
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 7, 0)
    pool.close()


async def test_many_items_are_shared_out_and_stay_in_order() -> None:
    pool = CpuPool(2)
    meeting = threading.Barrier(2)

    def work(number: int) -> int:
        if number in (0, 8):  # the first of each half: they only meet on two threads
            meeting.wait(TIMEOUT_S)
        return -number

    assert await pool.each(work, range(16)) == [-number for number in range(16)]
    assert await pool.each(abs, []) == []
    with pytest.raises(ZeroDivisionError):
        await pool.each(lambda number: 1 // (number - 17), range(20))
    pool.close()


async def test_a_few_items_are_not_worth_another_thread() -> None:
    pool = CpuPool(8)
    names = await pool.each(lambda _: threading.current_thread().name, range(8))
    assert names[:4] == names[:1] * 4
    assert names[4:] == names[4:5] * 4
    pool.close()


@pytest.mark.parametrize("kind", [StopIteration, SystemExit])
async def test_every_failure_reaches_the_caller(kind: type[BaseException]) -> None:
    """On Python 3.11 a future refuses `StopIteration`, and its waiter would wait for ever."""
    pool = CpuPool(1)

    def broken() -> None:
        raise kind

    with pytest.raises(RuntimeError, match=kind.__name__):
        await asyncio.wait_for(pool.run(broken), TIMEOUT_S)
    assert await pool.run(abs, -1) == 1
    pool.close()


@linux
async def test_threads_have_the_lowest_priority_unless_told_otherwise() -> None:
    bulk, text = CpuPool(1), CpuPool(1, nice=0)
    here = priority()
    assert await bulk.run(priority) == 19
    assert await text.run(priority) == here
    bulk.close()
    text.close()


async def test_no_threads_count_as_one() -> None:
    pool = CpuPool(0)
    assert await pool.run(abs, -1) == 1
    pool.close()


async def test_a_call_cancelled_before_its_start_never_runs() -> None:
    pool = CpuPool(1)
    gate, ran = threading.Event(), list[int]()
    first = asyncio.create_task(pool.run(gate.wait, TIMEOUT_S))
    second = asyncio.create_task(pool.run(ran.append, 2))
    third = asyncio.create_task(pool.run(ran.append, 3))
    await settle()
    second.cancel()
    await settle()
    gate.set()
    await asyncio.gather(first, third)
    assert second.cancelled()
    assert ran == [3]
    pool.close()


async def test_close_drops_what_has_not_begun_and_hangs_nobody() -> None:
    pool = CpuPool(1)
    gate, begun = threading.Event(), threading.Event()

    def first() -> bool:
        begun.set()
        return gate.wait(TIMEOUT_S)

    running = asyncio.create_task(pool.run(first))
    await happens(begun)
    waiting = asyncio.create_task(pool.run(pytest.fail, "ran after close"))
    await settle()
    pool.close()
    gate.set()
    assert await running
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(RuntimeError):
        await pool.run(abs, -1)


class Holder:
    """A task that holds bytes of a budget until it is let go."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self._size = size
        self._release = asyncio.Event()
        self.admitted = False
        self.task = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        async with self._budget.reserve(self._size):
            self.admitted = True
            await self._release.wait()

    async def let_go(self) -> None:
        self._release.set()
        await self.task
        await settle()


async def holders(budget: ByteBudget, *sizes: int) -> list[Holder]:
    made = [Holder(budget, size) for size in sizes]
    await settle()
    return made


def admitted(made: list[Holder]) -> list[bool]:
    return [holder.admitted for holder in made]


class TestByteBudget:
    async def test_who_fits_goes_in_at_once(self) -> None:
        budget = ByteBudget(100)
        made = await holders(budget, 60, 40, 1)
        assert admitted(made) == [True, True, False]
        assert repr(budget) == "<ByteBudget [100 of 100 bytes, 1 waiting]>"
        for holder in made:
            await holder.let_go()
        assert repr(budget) == "<ByteBudget [0 of 100 bytes, 0 waiting]>"

    async def test_first_come_first_served(self) -> None:
        """A small one that would fit does not overtake a big one, which would wait for ever under load."""
        budget = ByteBudget(100)
        made = await holders(budget, 60, 80, 10)
        assert admitted(made) == [True, False, False]
        await made[0].let_go()
        assert admitted(made) == [True, True, True]
        for holder in made:
            await holder.let_go()

    async def test_more_than_everything_counts_as_everything(self) -> None:
        budget = ByteBudget(100)
        made = await holders(budget, 1, 1000, 1)
        assert admitted(made) == [True, False, False]
        await made[0].let_go()
        assert admitted(made) == [True, True, False]
        await made[1].let_go()
        assert admitted(made)[2]
        await made[2].let_go()
        assert repr(budget) == "<ByteBudget [0 of 100 bytes, 0 waiting]>"

    async def test_who_leaves_the_head_of_the_queue_lets_the_next_in(self) -> None:
        budget = ByteBudget(100)
        made = await holders(budget, 60, 80, 40)
        made[1].task.cancel()
        await settle()
        assert admitted(made) == [True, False, True]
        await made[0].let_go()
        await made[2].let_go()
        assert repr(budget) == "<ByteBudget [0 of 100 bytes, 0 waiting]>"

    async def test_who_leaves_the_middle_of_the_queue_takes_nothing_along(self) -> None:
        budget = ByteBudget(100)
        made = await holders(budget, 100, 50, 50, 50)
        made[2].task.cancel()
        await settle()
        await made[0].let_go()
        assert admitted(made) == [True, True, False, True]
        await made[1].let_go()
        await made[3].let_go()
        assert repr(budget) == "<ByteBudget [0 of 100 bytes, 0 waiting]>"

    async def test_who_is_cancelled_between_admission_and_waking_gives_the_bytes_back(self) -> None:
        budget = ByteBudget(100)
        hold = budget.reserve(100)
        await hold.__aenter__()
        made = await holders(budget, 100, 100)
        await hold.__aexit__(None, None, None)  # admits the first holder, whose task has not run yet
        made[0].task.cancel()
        await settle()
        assert admitted(made) == [False, True]
        await made[1].let_go()
        assert repr(budget) == "<ByteBudget [0 of 100 bytes, 0 waiting]>"

    async def test_a_failing_block_gives_its_bytes_back(self) -> None:
        budget = ByteBudget(100)
        with pytest.raises(ValueError):
            async with budget.reserve(70):
                raise ValueError
        assert repr(budget) == "<ByteBudget [0 of 100 bytes, 0 waiting]>"
