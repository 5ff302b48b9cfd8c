"""The batcher: batches form when the lane is free, each item gets its own outcome, nobody is left waiting."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from serving_fakes import TIMEOUT_S, Doubler, a_lane, happens, settle

from immich_ml_cn.engines.session import Model
from immich_ml_cn.errors import BadImage, InferenceFailed, OutOfMemory, Unavailable
from immich_ml_cn.serving.batching import Batcher, Replica

pytestmark = pytest.mark.anyio
Submitted = asyncio.Task[Any]


@asynccontextmanager
async def batching(
    *models: Model[Any, Any], max_batch: int = 4, fatal_errors: list[str] | None = None, **more: Any
) -> AsyncIterator[Batcher[Any, Any]]:
    """A batcher with each model on a lane of its own."""
    with a_lane("bulk-0", fatal_errors=fatal_errors) as first, a_lane("bulk-1", fatal_errors=fatal_errors) as second:
        replicas = [Replica(lane, model) for lane, model in zip((first, second), models, strict=False)]
        batcher = Batcher("m", replicas, max_batch, **more)
        try:
            yield batcher
        finally:
            await batcher.close()


async def occupy(batcher: Batcher[int, int], model: Doubler) -> Submitted:
    """Send item 0 and hold it on the lane, so that what comes next has to wait."""
    model.gate.clear()
    task = asyncio.create_task(batcher.submit(0))
    await happens(model.running)
    return task


async def queue(batcher: Batcher[int, int], *items: int) -> list[Submitted]:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await settle()
    return tasks


async def outcomes(tasks: Sequence[Submitted]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT_S)


class TestForming:
    async def test_a_lone_item_runs_at_once(self) -> None:
        model = Doubler()
        async with batching(model) as batcher:
            assert await batcher.submit(21) == 42
        assert model.batches == [[21]]

    async def test_what_waits_while_a_batch_runs_becomes_the_next_batches(self) -> None:
        """Full batches in the order of arrival, without any timer."""
        model = Doubler()
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2, 3, 4, 5, 6)
            assert repr(batcher) == "<Batcher m [6 waiting]>"
            model.gate.set()
            assert await outcomes([first, *others]) == [0, 2, 4, 6, 8, 10, 12]
        assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]

    async def test_buckets_are_never_mixed_and_the_oldest_item_chooses(self) -> None:
        model = Doubler(bucket=lambda item: item % 2)
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2, 3, 4, 5)
            model.gate.set()
            assert await outcomes([first, *others]) == [0, 2, 4, 6, 8, 10]
        assert model.batches == [[0], [1, 3, 5], [2, 4]]

    async def test_cancelled_items_are_dropped_before_they_run(self) -> None:
        model = Doubler()
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            tasks = await queue(batcher, 1, 2, 3, 4, 5)
            for task in (tasks[0], tasks[2]):
                task.cancel()
            await settle()
            model.gate.set()
            assert await outcomes([first, tasks[1], tasks[3], tasks[4]]) == [0, 4, 8, 10]
        assert model.batches == [[0], [2, 4, 5]]

    async def test_a_queue_of_nothing_but_cancelled_items_runs_nothing(self) -> None:
        model = Doubler()
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            for task in await queue(batcher, 1, 2):
                task.cancel()
            await settle()
            model.gate.set()
            await first
            assert await batcher.submit(3) == 6
        assert model.batches == [[0], [3]]

    async def test_an_item_cancelled_while_it_runs_disturbs_nobody(self) -> None:
        model = Doubler()
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2)
            first.cancel()
            await settle()
            model.gate.set()
            assert await outcomes(others) == [2, 4]

    async def test_all_items_of_a_request_keep_their_order(self) -> None:
        async with batching(Doubler(bucket=lambda item: item % 3)) as batcher:
            assert await batcher.submit_all(range(20)) == [2 * item for item in range(20)]
            assert await batcher.submit_all([]) == []

    async def test_a_request_that_leaves_takes_all_its_items_along(self) -> None:
        model = Doubler()
        async with batching(model, max_batch=2) as batcher:
            first = await occupy(batcher, model)
            request = asyncio.create_task(batcher.submit_all([1, 2, 3, 4]))
            (other,) = await queue(batcher, 5)
            request.cancel()
            await settle()
            model.gate.set()
            assert await outcomes([first, other]) == [0, 10]
        assert model.batches == [[0], [5]]

    async def test_an_idle_queue_holds_no_items(self) -> None:
        class Item:
            pass

        class Taker:
            def bucket(self, item: Item) -> Hashable:
                return 0

            def infer(self, items: Sequence[Item]) -> Sequence[None]:
                return [None for _ in items]

        item = Item()
        reference = weakref.ref(item)
        async with batching(Taker()) as batcher:
            await batcher.submit(item)
            del item
            await batcher.submit_all([])
            await settle()
            gc.collect()
            assert reference() is None


class TestFailing:
    async def test_a_poisoned_item_fails_alone(self) -> None:
        model = Doubler(poison=[3])
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2, 3, 4)
            model.gate.set()
            one, two, three, four = (await outcomes([first, *others]))[1:]
        assert (one, two, four) == (2, 4, 8)
        assert isinstance(three, InferenceFailed)
        assert str(three) == "m failed on this input: poisoned by [3]"
        assert isinstance(three.__cause__, ValueError)

    async def test_a_failing_batch_runs_in_halves_then_alone(self) -> None:
        """What was too much for the memory gets through in smaller pieces; no item runs alone without need."""
        model = Doubler(poison=[6])
        async with batching(model, max_batch=8) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, *range(1, 9))
            model.gate.set()
            await outcomes([first, *others])
        assert model.batches[1:] == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8], [5, 6], [5], [6], [7, 8]]

    async def test_each_of_several_failures_is_an_exception_of_its_own(self) -> None:
        model = Doubler(poison=range(1, 5))
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2, 3, 4)
            model.gate.set()
            zero, *failures = await outcomes([first, *others])
            assert await batcher.submit(5) == 10
        assert zero == 0
        assert [str(failure) for failure in failures] == [
            f"m failed on this input: poisoned by [{item}]" for item in (1, 2, 3, 4)
        ]
        assert len({id(failure) for failure in failures}) == 4
        assert len({id(failure.__cause__) for failure in failures}) == 4

    async def test_who_leaves_during_the_repetition_is_not_run_again(self) -> None:
        leave: list[Submitted] = []

        class Leaving(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                if items == [1]:
                    loop.call_soon_threadsafe(leave[1].cancel)
                return super().infer(items)

        loop = asyncio.get_running_loop()
        model = Leaving(poison=[1])
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            leave += await queue(batcher, 1, 2)
            model.gate.set()
            await outcomes([first, *leave])
        assert model.batches == [[0], [1, 2], [1]]

    @pytest.mark.parametrize("wrong", [lambda items: items[1:], lambda items: [*items, 0]])
    async def test_a_wrong_number_of_outputs_is_a_failure(self, wrong: Callable[[Any], Any]) -> None:
        class Miscounting(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                outputs = super().infer(items)
                return outputs if items == [0] else list(wrong(outputs))

        model = Miscounting()
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2)
            model.gate.set()
            failures = (await outcomes([first, *others]))[1:]
        assert all(isinstance(failure, InferenceFailed) for failure in failures)
        assert "outputs for 1 inputs" in str(failures[0])

    @pytest.mark.parametrize("kind", [SystemExit, StopIteration, asyncio.CancelledError])
    async def test_whatever_a_model_raises_is_an_answer(self, kind: type[BaseException]) -> None:
        class Broken(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                if items == [1]:
                    raise kind
                return super().infer(items)

        async with batching(Broken()) as batcher:
            with pytest.raises(InferenceFailed):
                await asyncio.wait_for(batcher.submit(1), TIMEOUT_S)
            assert await batcher.submit(2) == 4

    async def test_a_failure_with_a_status_keeps_it(self) -> None:
        class Picky(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                raise BadImage("too small")

        async with batching(Picky()) as batcher:
            with pytest.raises(BadImage, match="too small"):
                await batcher.submit(1)

    async def test_one_failing_item_fails_its_request_and_takes_the_rest_out(self) -> None:
        model = Doubler(poison=[1])
        async with batching(model, max_batch=1) as batcher:
            first = await occupy(batcher, model)
            request = asyncio.create_task(batcher.submit_all([1, 2, 3]))
            await settle()
            model.gate.set()
            with pytest.raises(InferenceFailed):
                await request
            assert await first == 0
            assert await batcher.submit(4) == 8
        assert [3] not in model.batches

    async def test_an_unusable_bucket_fails_its_submitter_only(self) -> None:
        model = Doubler(bucket=lambda item: 1 // item)
        async with batching(model) as batcher:
            with pytest.raises(ZeroDivisionError):
                await batcher.submit(0)
            assert await batcher.submit(1) == 2


class TestDevice:
    """Failures of the device, by what it says of them."""

    async def test_memory_that_is_short_is_freed_and_the_halves_get_through(self) -> None:
        freed: list[int] = []

        class Small(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                self.batches.append(list(items))
                if len(items) > 2:
                    raise RuntimeError("Failed to allocate memory for requested buffer of size 4")
                self.batches.pop()
                return super().infer(items)

        async def free_memory() -> None:
            freed.append(len(model.batches))

        model = Small()
        async with batching(model, free_memory=free_memory) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2, 3, 4)
            model.gate.set()
            assert await outcomes([first, *others]) == [0, 2, 4, 6, 8]
        assert model.batches == [[0], [1, 2, 3, 4], [1, 2], [3, 4]]
        assert freed == [2], "once, after the batch that was too large"

    async def test_a_single_item_runs_once_more_with_more_memory(self) -> None:
        room = [False]

        class Tight(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                if not room[0]:
                    raise MemoryError
                return super().infer(items)

        async def free_memory() -> None:
            room[0] = True

        async with batching(Tight(), free_memory=free_memory) as batcher:
            assert await batcher.submit(4) == 8

    async def test_an_item_for_which_memory_never_suffices_is_told_so(self) -> None:
        class Tight(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                self.batches.append(list(items))
                raise MemoryError

        async def broken() -> None:
            raise ValueError("freeing failed too")

        model = Tight()
        async with batching(model, free_memory=broken) as batcher:
            with pytest.raises(OutOfMemory, match="does not have enough memory"):
                await batcher.submit(1)
        assert model.batches == [[1], [1]]

    async def test_a_poisoned_device_is_not_asked_again(self) -> None:
        class Poisoned(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                if items == [0]:
                    return super().infer(items)
                self.batches.append(list(items))
                raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")

        fatal_errors: list[str] = []
        model = Poisoned()
        async with batching(model, fatal_errors=fatal_errors) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2, 3)
            model.gate.set()
            zero, *failures = await outcomes([first, *others])
        assert zero == 0
        assert all(isinstance(failure, Unavailable) for failure in failures)
        assert model.batches == [[0], [1, 2, 3]]
        assert len(fatal_errors) == 1
        assert "the device of bulk-0 is lost: CUDA failure 700" in fatal_errors[0]


class TestClosing:
    async def test_who_waits_or_runs_is_told_at_once(self) -> None:
        model = Doubler()
        async with batching(model) as batcher:
            running = await occupy(batcher, model)
            waiting = await queue(batcher, 1, 2)
            await asyncio.wait_for(batcher.close(), TIMEOUT_S)
            results = await outcomes([running, *waiting])
            model.gate.set()
            with pytest.raises(Unavailable):
                await batcher.submit(3)
            with pytest.raises(Unavailable):
                await batcher.submit_all([3])
        assert all(isinstance(result, Unavailable) and result.retry_after == 1 for result in results)
        assert len({id(result) for result in results}) == 3
        assert model.batches == [[0]]

    async def test_nobody_hangs_when_it_is_closed_during_a_repetition(self) -> None:
        """The items of a failed batch that have not been repeated yet are in no queue."""
        repeated = Doubler(poison=[1])

        class Holding(Doubler):
            def infer(self, items: Sequence[int]) -> list[int]:
                if len(items) > 1:
                    raise ValueError
                return repeated.infer(items) if items != [0] else super().infer(items)

        model = Holding()
        repeated.gate.clear()
        async with batching(model) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2, 3, 4)
            model.gate.set()
            await happens(repeated.running)
            await asyncio.wait_for(batcher.close(), TIMEOUT_S)
            results = await outcomes([first, *others])
            repeated.gate.set()
        assert results[0] == 0
        assert all(isinstance(result, Unavailable) for result in results[1:])

    async def test_it_can_be_closed_twice_and_hands_its_replicas_over_once(self) -> None:
        model = Doubler()
        async with batching(model) as batcher:
            await batcher.close()
            await batcher.close()
            assert [replica.model for replica in batcher.take_replicas()] == [model]
            assert batcher.take_replicas() == []

    async def test_closing_is_not_fatal(self) -> None:
        fatal_errors: list[str] = []
        async with batching(Doubler(), fatal_errors=fatal_errors) as batcher:
            await batcher.submit(1)
        await settle()
        assert not fatal_errors

    async def test_a_serving_loop_that_dies_is_reported_and_leaves_nobody_waiting(self) -> None:
        """Buckets that cannot be compared break the loop itself, where no item is to blame."""

        class Incomparable:
            def __eq__(self, other: object) -> bool:
                raise TypeError("not comparable")

            __hash__ = object.__hash__

        fatal_errors: list[str] = []
        model = Doubler(bucket=lambda item: Incomparable())
        async with batching(model, fatal_errors=fatal_errors) as batcher:
            first = await occupy(batcher, model)
            others = await queue(batcher, 1, 2)
            model.gate.set()
            assert await first == 0
            await settle()
            assert fatal_errors == ["the queue of m stopped: TypeError('not comparable')"]
            await batcher.close()
            assert all(isinstance(result, Unavailable) for result in await outcomes(others))


class TestSharing:
    async def test_two_replicas_work_off_one_queue(self) -> None:
        one, two = Doubler(), Doubler()
        one.gate.clear()
        two.gate.clear()
        async with batching(one, two, max_batch=1) as batcher:
            tasks = await queue(batcher, 1, 2, 3)
            await happens(one.running)
            await happens(two.running)
            two.gate.set()
            assert await outcomes(tasks[1:]) == [4, 6]
            assert one.batches == [[1]]
            one.gate.set()
            assert await tasks[0] == 2
        assert two.batches == [[2], [3]]

    async def test_two_models_on_one_lane_take_turns(self) -> None:
        """A full queue of one model does not starve the other, and a batch runs alone on its lane."""
        order: list[str] = []

        class Logged(Doubler):
            def __init__(self, name: str) -> None:
                super().__init__()
                self._name = name

            def infer(self, items: Sequence[int]) -> list[int]:
                order.append(self._name)
                return super().infer(items)

        a, b = Logged("a"), Logged("b")
        with a_lane() as lane:
            batchers = [Batcher(name, [Replica(lane, model)], 1) for name, model in (("a", a), ("b", b))]
            first = await occupy(batchers[0], a)
            others = [*await queue(batchers[0], 1, 2, 3), *await queue(batchers[1], 1, 2, 3)]
            a.gate.set()
            await outcomes([first, *others])
            for batcher in batchers:
                await batcher.close()
        assert order == ["a", "b", "a", "b", "a", "b", "a"]
