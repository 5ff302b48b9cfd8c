"""Running things side by side so that one failure is one exception, and one that can be awaited."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def together(*coroutines: Coroutine[Any, Any, T]) -> list[T]:
    """Run coroutines concurrently and return their results in order.

    The first failure cancels the others and is raised as itself, once all have ended.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return [task.result() for task in tasks]


def contained(function: Callable[..., T], *args: Any) -> T:
    """Call a function on a worker thread so that whatever it raises can be handed to the task that waits for it.

    Raises:
        RuntimeError: it raised `StopIteration`, which no future takes (its waiter would wait for ever), or
            `SystemExit` or another exception that would end the event loop.
    """
    try:
        return function(*args)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        raise RuntimeError(f"the function raised {error!r}") from error


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    failure = failures.exceptions[0]
    return _first(failure) if isinstance(failure, BaseExceptionGroup) else failure
