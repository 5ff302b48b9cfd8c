"""Running coroutines together, and functions whose failures can be awaited."""

import asyncio

import pytest
from serving_fakes import settle

from immich_ml_cn.serving.concurrency import gather_or_cancel, guarded_call

pytestmark = pytest.mark.anyio


async def echo(value: int, turns: int = 0) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return value


async def fail(error: Exception, turns: int = 0) -> int:
    await echo(0, turns)
    raise error


async def test_results_are_in_the_order_of_the_coroutines() -> None:
    assert await gather_or_cancel(echo(1, turns=5), echo(2), echo(3, turns=2)) == [1, 2, 3]
    assert await gather_or_cancel() == []


async def test_a_failure_is_raised_as_itself_once_the_others_have_ended() -> None:
    cleaned = asyncio.Event()

    async def slow() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()
        return 0

    error = ValueError("broken")
    with pytest.raises(ValueError, match="broken") as caught:
        await gather_or_cancel(slow(), fail(error, turns=2))
    assert caught.value is error
    assert cleaned.is_set()


async def test_a_failure_keeps_its_cause() -> None:
    error = ValueError("broken")
    error.__cause__ = KeyError("why")
    with pytest.raises(ValueError, match="broken") as caught:
        await gather_or_cancel(echo(1), fail(error))
    assert isinstance(caught.value.__cause__, KeyError)


async def test_of_several_failures_the_first_is_raised() -> None:
    with pytest.raises(KeyError):
        await gather_or_cancel(fail(ValueError(), turns=3), fail(KeyError()))


async def test_a_failure_of_a_group_within_comes_out_alone() -> None:
    async def inner() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(OSError("deep")))
        return 0

    with pytest.raises(OSError, match="deep"):
        await gather_or_cancel(inner(), echo(1))


async def test_cancelling_the_caller_cancels_them_all() -> None:
    ended: list[int] = []

    async def wait(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    caller = asyncio.create_task(gather_or_cancel(wait(1), wait(2)))
    await settle()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert sorted(ended) == [1, 2]


def test_contained_passes_results_and_failures_on() -> None:
    error = ValueError()

    def broken() -> None:
        raise error

    assert guarded_call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ValueError) as caught:
        guarded_call(broken)
    assert caught.value is error


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_contained_turns_what_nobody_could_await_into_a_failure(kind: type[BaseException]) -> None:
    def broken() -> None:
        raise kind

    with pytest.raises(RuntimeError, match=kind.__name__) as caught:
        guarded_call(broken)
    assert isinstance(caught.value.__cause__, kind)
