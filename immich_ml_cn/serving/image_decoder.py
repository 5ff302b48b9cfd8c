"""Where pictures are measured and decoded: on the CPU pool, or in processes of their own."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.models import images, pixel_memory
from immich_ml_cn.models.images import Picture

from .cpu_pool import CpuPool
from .decoder_process import DecoderProcess

T = TypeVar("T")

PROCESSES: Final = 2
"""Two, so that one picture does not hold up all others of a slow codec."""

IDLE_S: Final = 60.0
"""Seconds without work after which the processes end: each has 30 MB."""


class ImageDecoder:
    """Decodes what `images.decodes_on_thread` allows on the CPU pool; everything else, and what is large, in another
    process.

    Processes are started when they are needed. A caller that is cancelled ends its process, and with it the work.
    """

    def __init__(self, pool: CpuPool, max_pixels: int, *, processes: int = PROCESSES, idle_s: float = IDLE_S) -> None:
        """
        Args:
            pool: where most pictures are decoded.
            max_pixels: width x height above which nothing is decoded.
            processes: how many at most.
            idle_s: seconds without work after which they end.
        """
        self._pool = pool
        self._max_pixels = max_pixels
        self._waiting = CpuPool(processes)
        self._idle_s = idle_s
        self._idle: list[DecoderProcess] = []
        self._timer: asyncio.TimerHandle | None = None

    async def measure(self, data: bytes) -> tuple[int, int]:
        """Width and height in pixels.

        Raises:
            Unavailable: no process can be had; else what `images.measure` raises.
        """
        if images.decodes_on_thread(data):
            return await self._pool.run(images.measure, data, self._max_pixels)
        return await self._in_process(lambda process: process.measure(data, self._max_pixels))

    async def decode(
        self, data: bytes, size: tuple[int, int], min_side: int | None = None, *, upright: bool = False
    ) -> Picture:
        """The first frame.

        Args:
            size: width and height as `measure` has found them.
            min_side: as `images.decode` has it.
            upright: turned as its EXIF orientation says.

        Raises:
            Unavailable: no process can be had; else what `images.decode` raises.
        """
        if images.decodes_on_thread(data) and not pixel_memory.is_large(*size):
            picture = await self._pool.run(images.decode, data, self._max_pixels, min_side)
            return await self._pool.run(images.upright, picture) if upright else picture
        return await self._in_process(lambda process: process.decode(data, self._max_pixels, min_side, upright=upright))

    def close(self) -> None:
        """End all processes that have nothing to do; the others end as their callers are cancelled."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.close()
        self._end_idle()

    async def _in_process(self, work: Callable[[DecoderProcess], T]) -> T:
        held: list[DecoderProcess] = []  # while it works; whoever takes it out decides what becomes of it

        def kill() -> None:
            if process := _popped(held):
                process.kill()

        try:
            return await self._waiting.run_abortable(kill, self._work, work, held)
        finally:
            self._end_idle_later()

    def _work(self, work: Callable[[DecoderProcess], T], held: list[DecoderProcess]) -> T:
        while True:
            process = self._taken()
            held.append(process)
            try:
                return work(process)
            except Unavailable:  # killed: once more where that may have been before it had this to do
                if not process.has_answered or not held:
                    raise
            finally:
                self._give_back(process, held)

    def _give_back(self, process: DecoderProcess, held: list[DecoderProcess]) -> None:
        if _popped(held) and process.is_alive:
            self._idle.append(process)
        else:
            process.close()

    def _taken(self) -> DecoderProcess:
        while process := _popped(self._idle):
            if process.is_alive:
                return process
            process.close()
        try:
            return DecoderProcess()
        except OSError as error:
            raise Unavailable(
                tr("no process can be started to decode the image: {reason}", reason=error), retry_after=10
            ) from error

    def _end_idle_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        while process := _popped(self._idle):
            process.close()


def _popped(processes: list[DecoderProcess]) -> DecoderProcess | None:
    """The last of a list that several threads take from, None where it is empty."""
    with suppress(IndexError):
        return processes.pop()
    return None
