"""Whose turn it is on a lane: one alone, or several who take a core each."""

import asyncio
from collections import deque
from types import TracebackType


class Turn:
    """First come, first served. Made and used on the event loop's thread."""

    def __init__(self) -> None:
        self._alone = False
        self._beside = 0
        self._waiting: deque[tuple[int, asyncio.Future[bool]]] = deque()

    async def take(self, most: int = 1) -> bool:
        """Wait for the turn; `leave` gives it back.

        Args:
            most: how many may have it together; 1 wants it alone.

        Returns:
            Whether it is had alone, which it is where nobody else had it; else it is shared with others.
        """
        taken = None if self._waiting else self._take_now(most)
        if taken is not None:
            return taken
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((most, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._hand_on()  # it may have stood before one that could go on
            else:
                self.leave()
            raise

    def share(self) -> None:
        """Let others in who want it together; it has to be had alone."""
        self._alone, self._beside = False, 1
        self._hand_on()

    def leave(self) -> None:
        """Give it back, or a share of it."""
        if self._alone:
            self._alone = False
        else:
            self._beside -= 1
        self._hand_on()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it."""
        return any(not future.done() for _, future in self._waiting)

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._alone or self._beside > 0

    async def __aenter__(self) -> None:
        """Take it alone."""
        await self.take()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def _take_now(self, most: int) -> bool | None:
        """What `take` returns, None where it has to wait."""
        if not self.locked():
            self._alone = True
            return True
        if not self._alone and self._beside < most:
            self._beside += 1
            return False
        return None

    def _hand_on(self) -> None:
        while self._waiting:
            most, future = self._waiting[0]
            if not future.done():
                taken = self._take_now(most)
                if taken is None:
                    return
                future.set_result(taken)
            self._waiting.popleft()
