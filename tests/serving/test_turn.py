"""The turn on a lane: first come, first served, alone or together."""

import asyncio

import pytest
from serving_fakes import settle

from immich_ml_cn.serving.turn import Turn

pytestmark = pytest.mark.anyio


async def taking(turn: Turn, most: int = 1) -> "asyncio.Task[bool]":
    task = asyncio.create_task(turn.take(most))
    await settle()
    return task


async def test_one_at_a_time_in_the_order_of_asking() -> None:
    turn = Turn()
    assert await turn.take()
    waiting = [await taking(turn) for _ in range(3)]
    assert (turn.locked(), turn.wanted) == (True, True)
    for number, task in enumerate(waiting):
        assert [other.done() for other in waiting[number:]] == [False] * (3 - number)
        turn.leave()
        assert await task
    assert not turn.wanted
    turn.leave()
    assert not turn.locked()


async def test_several_have_it_together_and_no_more_than_they_allow() -> None:
    turn = Turn()
    assert await turn.take(3)
    turn.share()
    assert await turn.take(3) is False
    assert await turn.take(3) is False
    fourth = await taking(turn, 3)
    assert not fourth.done()
    turn.leave()
    assert await fourth is False
    for _ in range(3):
        assert turn.locked()
        turn.leave()
    assert not turn.locked()


async def test_who_wants_it_alone_waits_for_all_and_nobody_slips_in_before() -> None:
    turn = Turn()
    await turn.take(2)
    turn.share()
    alone = await taking(turn)
    together = await taking(turn, 2)
    assert (alone.done(), together.done()) == (False, False)
    turn.leave()
    assert await alone
    await settle()
    assert not together.done()
    turn.leave()
    assert await together, "nobody else has it"


async def test_sharing_lets_in_who_waits_to_share() -> None:
    turn = Turn()
    await turn.take(2)
    others = [await taking(turn, 2), await taking(turn, 2)]
    turn.share()
    await settle()
    assert [task.done() for task in others] == [True, False]
    turn.leave()
    assert [await task for task in others] == [False, False]


async def test_who_leaves_the_queue_does_not_hold_up_those_behind() -> None:
    turn = Turn()
    await turn.take(2)
    turn.share()
    alone, together = await taking(turn), await taking(turn, 2)
    alone.cancel()
    assert await together is False
    assert not turn.wanted


async def test_who_leaves_at_the_moment_of_his_turn_gives_it_on() -> None:
    turn = Turn()
    await turn.take()
    first, second = await taking(turn), await taking(turn)
    turn.leave()
    first.cancel()
    assert await second
    assert first.cancelled()
    turn.leave()
    assert not turn.locked()


async def test_it_is_given_back_when_the_work_fails() -> None:
    turn = Turn()

    async def work() -> None:
        async with turn:
            assert turn.locked()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert not turn.locked()
