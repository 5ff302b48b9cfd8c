"""Whether memory stays flat over many different shapes: sizes of pictures with text, numbers of faces at once."""

import asyncio
import io
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from immich_ml_cn import memory
from immich_ml_cn.engines import select_engine
from immich_ml_cn.service import Service
from immich_ml_cn.settings import Settings

from .requests import Task
from .service import answer, give_up, settings_for

MOST_AT_ONCE = 8
"""Requests with faces that are sent together: their crops make batches of every size."""


def memory_over_shapes(
    cache: Path, ocr: Task, faces: Task, count: int, environ: Mapping[str, str]
) -> dict[str, list[float]]:
    """The service's memory in MB (10^6 bytes) after each of many shapes: on GPUs theirs, else resident memory.

    Args:
        ocr: its first picture is cut to `count` sizes.
        faces: its pictures are sent in groups, half as many as `count`, of one to eight.
        environ: settings beyond the defaults.

    Returns:
        The values of each of the two tasks, by its name.
    """
    return asyncio.run(_measure(settings_for(cache, environ), ocr, faces, count))


async def _measure(settings: Settings, ocr: Task, faces: Task, count: int) -> dict[str, list[float]]:
    engine = select_engine(settings)
    service = Service(settings, engine, give_up)

    def held() -> float:
        if engine.on_gpu:
            return sum(used for used, _ in memory.gpu_bytes(settings.device_ids).values()) / 1e6
        return memory.resident_bytes() / 1e6

    async def read(number: int) -> None:
        await answer(service, ocr, _cut(ocr.images[0], number))

    async def look(number: int) -> None:
        together = (faces.images[index % len(faces.images)] for index in range(1 + number % MOST_AT_ONCE))
        await asyncio.gather(*(answer(service, faces, image) for image in together))

    async with service.running():
        return {ocr.name: await _each(read, count, held), faces.name: await _each(look, count // 2, held)}


async def _each(work: Callable[[int], Coroutine[Any, Any, None]], count: int, held: Callable[[], float]) -> list[float]:
    values = []
    for number in range(count):
        await work(number)
        values.append(await asyncio.to_thread(held))
    return values


def _cut(image: bytes, number: int) -> bytes:
    """The upper left of a picture: 32 widths, and a height for each of them that comes once in 1,000."""
    page = Image.open(io.BytesIO(image)).convert("RGB")
    size = 128 + 32 * (number % 32), 128 + 32 * (number // 32 % 32)
    stream = io.BytesIO()
    page.resize((page.width // 2, page.height // 2)).crop((0, 0, *size)).save(stream, "PNG")
    return stream.getvalue()
