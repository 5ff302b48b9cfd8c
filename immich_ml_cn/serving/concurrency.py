"""Concurrent calls whose failures arrive as one exception that can be awaited."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def gather_or_cancel(*coroutines: Coroutine[object, object, T]) -> list[T]:
    """Run coroutines concurrently and return their results in order.

    The first failure cancels the others and is raised as itself, once all have ended.
    """
    with first_failure():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]


@contextmanager
def first_failure() -> Iterator[None]:
    """Raise the first failure of the `asyncio.TaskGroup` in the block as itself, not as a group."""
    try:
        yield
    except BaseExceptionGroup as failures:
        failure = _first(failures)
        raise failure from failure.__cause__


def guarded_call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function on a worker thread so that whatever it raises can be handed to the task that waits for it.

    Raises:
        RuntimeError: it raised `StopIteration`, which no future takes (its waiter would wait for ever), or
            `SystemExit` or another exception that would end the event loop.
    """
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        raise RuntimeError(f"the function raised {error!r}") from error


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    failure = failures.exceptions[0]
    return _first(failure) if isinstance(failure, BaseExceptionGroup) else failure
