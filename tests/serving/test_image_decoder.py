"""What decodes where, and that processes come, answer as Pillow does, and go."""

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import corpus
import numpy as np
import pytest
from picture_files import encoded, gradient
from PIL import Image
from server import ROOT, wait_until

from immich_ml_cn.engines import child_process
from immich_ml_cn.errors import BadImage, TooLarge, Unavailable
from immich_ml_cn.models import images, pixel_memory
from immich_ml_cn.models.clip.transform import ImageTransform, chinese_clip_transform
from immich_ml_cn.models.ocr.pixels import opaque_rgb
from immich_ml_cn.serving.cpu_pool import CpuPool
from immich_ml_cn.serving.image_decoder import ImageDecoder

LIMIT = 178_956_970
SIZE = 40, 30
JPEG2000 = encoded(gradient(), "JPEG2000")


@asynccontextmanager
async def decoding(limit: int = LIMIT, idle_s: float = 60) -> AsyncIterator[ImageDecoder]:
    pool = CpuPool(1, nice=0)
    decoder = ImageDecoder(pool, limit, idle_s=idle_s)
    try:
        yield decoder
    finally:
        decoder.close()
        pool.close()


def play(scene: Callable[[ImageDecoder], Awaitable[None]], limit: int = LIMIT, idle_s: float = 60) -> None:
    async def run() -> None:
        async with decoding(limit, idle_s) as decoder:
            await scene(decoder)

    asyncio.run(run())


def children() -> set[int]:
    """The processes that decode for this one."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "status").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{os.getpid()}\n" in status and b"decoder_worker" in command and "State:\tZ" not in status:
            found.add(int(folder.name))
    return found


def test_all_pictures_are_as_on_a_thread() -> None:
    """Of every format and mode; most of them, but not JPEG and PNG, come from another process."""

    async def scene(decoder: ImageDecoder) -> None:
        elsewhere = set()
        for name, data in corpus.valid_pictures():
            try:
                expected = images.decode(data, LIMIT)
            except BadImage as error:
                with pytest.raises(BadImage, match=str(error)):
                    await decoder.decode(data, SIZE)
                continue
            size = await decoder.measure(data)
            picture = await decoder.decode(data, size)
            assert size == images.measure(data, LIMIT) == picture.size, name
            assert picture.image.mode.replace("X", "") == expected.image.mode, name
            assert picture.orientation == expected.orientation, name
            assert np.array_equal(picture.rgb, expected.rgb), name
            assert np.array_equal(opaque_rgb(picture), opaque_rgb(expected)), name
            elsewhere |= set() if images.decodes_on_thread(data) else {name.split()[0]}
        assert elsewhere >= {"JPEG2000", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "DDS", "QOI"}
        assert not elsewhere & {"JPEG", "PNG", "WEBP", "MPO"}
        assert len(children()) == 1, "one after the other needs one process"

    play(scene)
    assert not children()


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here and in the processes, pictures of a hundred pixels are large."""
    command = child_process.command

    def changed(*arguments: str) -> list[str]:
        python, c, program, *rest = command(*arguments)
        change = "from immich_ml_cn.models import pixel_memory; pixel_memory.MAX_ORDINARY_PIXELS = 100; main()"
        return [python, c, program.replace("main()", change), *rest]

    monkeypatch.setattr(child_process, "command", changed)
    monkeypatch.setattr(pixel_memory, "MAX_ORDINARY_PIXELS", 100)
    monkeypatch.setattr(pixel_memory, "MAPPED_BYTES", 100)


@pytest.mark.usefixtures("nothing_is_small")
def test_large_pictures_are_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG and PNG come from another process as well, and CLIP converts them in bands."""
    monkeypatch.setattr(pixel_memory, "_BAND_PIXELS", 200)
    transforms = ImageTransform((16, 24)), chinese_clip_transform(16)

    async def scene(decoder: ImageDecoder) -> None:
        for name, data in corpus.valid_pictures():
            try:
                with monkeypatch.context() as small:
                    small.setattr(pixel_memory, "MAX_ORDINARY_PIXELS", LIMIT)
                    expected = images.decode(data, LIMIT)
                    tensors = [transform(expected) for transform in transforms]
            except BadImage:
                continue
            picture = await decoder.decode(data, expected.size)
            assert np.array_equal(picture.rgb, expected.rgb), name
            assert np.array_equal(opaque_rgb(picture), opaque_rgb(expected)), name
            # Of some they become RGB or RGBA before they are resized, not after.
            most = 0.02 if expected.image.mode in ("YCbCr", "LAB", "I", "F") or "RGB with" in name else 0
            for transform, tensor in zip(transforms, tensors, strict=True):
                assert np.abs(transform(picture) - tensor).mean() <= most, name
            shared = picture.image.mode in pixel_memory.MAPPED_MODES
            assert shared == bool(picture.image.readonly), name
            assert shared, name

    play(scene)


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_large_picture_is_scaled_and_turned_in_its_process(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient(size=(80, 48)), "JPEG", exif=exif)
    expected = images.upright(images.decode(data, LIMIT, 12))

    async def scene(decoder: ImageDecoder) -> None:
        picture = await decoder.decode(data, (80, 48), 12, upright=True)
        assert children()
        assert picture.size == expected.size == ((80, 48) if orientation == 3 else (48, 80))
        assert picture.image.size == expected.image.size
        assert picture.orientation == 1
        assert np.array_equal(picture.rgb, expected.rgb)

    play(scene)


def test_small_webps_are_decoded_on_threads_and_large_ones_are_not() -> None:
    small, large = (encoded(gradient(size=(side, 2000)), "WEBP", method=0) for side in (3000, 4001))
    assert images.decodes_on_thread(small)
    assert not images.decodes_on_thread(large)
    assert not images.decodes_on_thread(small[:16])


def test_no_process_is_started_for_what_immich_sends() -> None:
    async def scene(decoder: ImageDecoder) -> None:
        for kind in ("JPEG", "WEBP", "PNG"):
            await decoder.decode(encoded(gradient(), kind), SIZE)
        assert not children()

    play(scene)


def test_a_refusal_is_the_same() -> None:
    async def scene(decoder: ImageDecoder) -> None:
        for data in (b"nonsense", JPEG2000[:-40], encoded(gradient(), "EPS")):
            with pytest.raises(BadImage) as expected:
                images.decode(data, 1200)
            with pytest.raises(BadImage) as caught:
                await decoder.decode(data, SIZE)
            assert str(caught.value) == str(expected.value)
        with pytest.raises(TooLarge, match="60 x 30 pixels, more than the 1200 allowed"):
            await decoder.measure(encoded(gradient(size=(60, 30)), "JPEG2000"))
        assert (await decoder.decode(JPEG2000, SIZE)).size == (40, 30)
        assert len(children()) == 1, "a picture that is refused costs no process"

    play(scene, limit=1200)


def test_a_process_that_dies_is_replaced() -> None:
    async def scene(decoder: ImageDecoder) -> None:
        await decoder.measure(JPEG2000)
        (first,) = children()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not children())
        assert await decoder.measure(JPEG2000) == (40, 30)
        assert children() != {first}

    play(scene)


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGXCPU, "takes more than 60 s to decode"), (signal.SIGSEGV, "its codec ended with -11")],
)
def test_what_a_death_in_the_middle_of_the_work_means(number: signal.Signals, said: str) -> None:
    async def scene(decoder: ImageDecoder) -> None:
        await decoder.measure(JPEG2000)
        (process,) = children()
        os.kill(process, signal.SIGSTOP)
        call = asyncio.create_task(decoder.measure(JPEG2000))
        await asyncio.sleep(0.2)
        os.kill(process, number)
        os.kill(process, signal.SIGCONT)
        with pytest.raises(BadImage, match=said):
            await call
        assert await decoder.measure(JPEG2000) == (40, 30)

    play(scene)


def test_a_picture_for_which_a_new_process_is_killed_is_503() -> None:
    """The kernel does so where memory is short. One that had worked before may have been killed before it was asked."""

    async def scene(decoder: ImageDecoder) -> None:
        call = asyncio.create_task(decoder.measure(JPEG2000))
        while not (processes := children()):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.001)
        os.kill(processes.pop(), signal.SIGKILL)
        with pytest.raises(Unavailable, match="probably for want of memory"):
            await call
        assert await decoder.measure(JPEG2000) == (40, 30)

    play(scene)


def test_a_process_that_is_killed_while_pixels_come_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data, allocated = encoded(gradient(size=(1000, 1000)), "BMP"), pixel_memory.allocated
    killed: list[int] = []

    def kill_first(size: int) -> object:
        killed.extend(children())
        os.kill(killed[-1], signal.SIGKILL)
        return allocated(size)

    async def scene(decoder: ImageDecoder) -> None:
        assert await decoder.measure(data) == (1000, 1000)
        monkeypatch.setattr(pixel_memory, "allocated", kill_first)
        with pytest.raises(Unavailable, match="probably for want of memory"):
            await decoder.decode(data, (1000, 1000))
        assert len(set(killed)) == 2
        monkeypatch.setattr(pixel_memory, "allocated", allocated)
        assert (await decoder.decode(data, (1000, 1000))).size == (1000, 1000)

    play(scene)


def test_a_process_that_was_killed_while_idle_costs_no_picture() -> None:
    async def scene(decoder: ImageDecoder) -> None:
        await decoder.measure(JPEG2000)
        (process,) = children()
        os.kill(process, signal.SIGSTOP)
        call = asyncio.create_task(decoder.measure(JPEG2000))
        await asyncio.sleep(0.2)
        os.kill(process, signal.SIGKILL)
        assert await call == (40, 30)

    play(scene)


def pixel_by_pixel(side: int) -> bytes:
    """A QOI of black, each pixel written for itself: decoded in Python, a loop for each."""
    header = b"qoif" + struct.pack(">IIBB", side, side, 3, 0)
    return header + b"\x6a" * side**2 + b"\0" * 7 + b"\1"


def test_the_time_of_one_picture_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends a process that has worked for so long, whatever it does."""
    command = child_process.command

    def hurried(*arguments: str) -> list[str]:
        python, c, program, *rest = command(*arguments)
        return [python, c, program.replace("main()", "main.__globals__['CPU_LIMIT_S'] = 0; main()"), *rest]

    monkeypatch.setattr(child_process, "command", hurried)

    async def scene(decoder: ImageDecoder) -> None:
        with pytest.raises(BadImage, match="takes more than 60 s to decode"):
            await decoder.decode(pixel_by_pixel(3000), SIZE)

    play(scene)


def test_a_caller_that_leaves_ends_the_work() -> None:
    async def scene(decoder: ImageDecoder) -> None:
        await decoder.measure(JPEG2000)
        (process,) = children()
        os.kill(process, signal.SIGSTOP)
        call = asyncio.create_task(decoder.decode(JPEG2000, SIZE))
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        wait_until(lambda: not children())
        assert (await decoder.decode(JPEG2000, SIZE)).size == (40, 30)

    play(scene)


def test_one_picture_does_not_hold_all_processes() -> None:
    async def scene(decoder: ImageDecoder) -> None:
        await decoder.measure(JPEG2000)
        (process,) = children()
        os.kill(process, signal.SIGSTOP)
        stuck = asyncio.create_task(decoder.measure(JPEG2000))
        await asyncio.sleep(0.2)
        assert await decoder.measure(JPEG2000) == (40, 30)
        assert (await decoder.decode(encoded(gradient(), "JPEG"), SIZE)).size == (40, 30)
        assert not stuck.done()
        os.kill(process, signal.SIGCONT)
        assert await stuck == (40, 30)
        assert len(children()) == 2

    play(scene)


def test_processes_that_are_idle_end() -> None:
    async def scene(decoder: ImageDecoder) -> None:
        await asyncio.gather(*(decoder.measure(JPEG2000) for _ in range(4)))
        assert 1 <= len(children()) <= 2
        for _ in range(200):
            await asyncio.sleep(0.05)
            if not children():
                break
        assert not children()
        assert await decoder.measure(JPEG2000) == (40, 30)

    play(scene, idle_s=0.3)


ORPHANED = """
import asyncio, sys
sys.path[:0] = ["tests", "."]
import corpus
from test_image_decoder import JPEG2000, children, decoding

async def main():
    async with decoding() as decoder:
        await decoder.measure(JPEG2000)
        print(*children(), flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


def test_a_process_ends_with_its_parent_even_in_the_middle_of_its_work() -> None:
    """Stopped, it does not see that standard input has ended."""
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANED],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "tests/serving"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)
        parent.kill()
    wait_until(lambda: _is_gone(child))


def _is_gone(process: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True


def test_signals_are_for_the_parent() -> None:
    """systemd and terminals send them to every process, while requests are still being answered."""

    async def scene(decoder: ImageDecoder) -> None:
        await decoder.measure(JPEG2000)
        (process,) = children()
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process, number)
        assert await decoder.measure(JPEG2000) == (40, 30)
        assert children() == {process}

    play(scene)


def test_where_no_process_can_be_started_it_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **how: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async def scene(decoder: ImageDecoder) -> None:
        with pytest.raises(Unavailable, match="no process can be started to decode the image"):
            await decoder.measure(JPEG2000)

    play(scene)
    assert len(os.listdir("/proc/self/fd")) <= files  # noqa: PTH208
