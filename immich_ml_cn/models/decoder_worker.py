"""The other side of `serving.decoder_process`: measures and decodes pictures in a process of its own.

Reads a `Job` as a line of JSON from standard input, and the file after it. Answers on standard output with a `Decoded`
and the pixels after it, or with a `Refused`.
"""

import contextlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from immich_ml_cn.engines.child_process import end_first_when_memory_is_short
from immich_ml_cn.errors import BadImage, TooLarge

from . import images
from .images import Picture
from .pixel_memory import MAPPED_MODES, bands, image_of, is_large

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CPU_LIMIT_S: Final = 60
"""Seconds of CPU for one picture. The slowest real one takes ten: JPEG 2000 of the largest size allowed."""

BYTES_PER_PIXEL: Final = 32
"""Address space for decoding the largest picture allowed: OpenJPEG has four bytes for each of four components, Pillow
four, and as much again. WebP's decoder has eight before it says a size."""

SPARE_BYTES: Final = 1 << 30
"""Address space beside, libraries included."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        length: bytes of the file.
        max_pixels: width x height above which it is refused.
        decode: false to measure only.
        min_side: see `images.decode`.
        upright: see `images.upright`.
    """

    length: int
    max_pixels: int
    decode: bool
    min_side: int | None = None
    upright: bool = False


@dataclass(frozen=True)
class Decoded:
    """A picture. What follows the size is empty where it was only measured.

    Attributes:
        width: in pixels, as the file has them.
        height: likewise.
        mode: Pillow's, of the pixels: their raw bytes row by row.
        rows: of the pixels, which may be fewer than the file's.
        columns: likewise.
        row_bytes: of each row.
        orientation: what EXIF says, 1 to 8.
        palette_mode: Pillow's, of the palette; empty where there is none.
        palette: hexadecimal.
        transparency: the grey level or colour of the palette that is transparent; hexadecimal, the opacity of each
            colour; None where all are opaque.
    """

    width: int
    height: int
    mode: str = ""
    rows: int = 0
    columns: int = 0
    row_bytes: int = 0
    orientation: int = 1
    palette_mode: str = ""
    palette: str = ""
    transparency: int | str | None = None

    def picture(self, pixels: "NDArray[np.uint8]") -> Picture:
        """The picture of these bytes of pixels, whose memory it shares in most modes."""
        of = image_of if self.mode in MAPPED_MODES else _copied
        image = of(pixels, self.mode, (self.columns, self.rows))
        if self.palette_mode:
            image.putpalette(bytes.fromhex(self.palette), self.palette_mode)
        if self.transparency is not None:
            opacity = self.transparency
            image.info["transparency"] = bytes.fromhex(opacity) if isinstance(opacity, str) else opacity
        return Picture(image, (self.width, self.height), self.orientation)


def _copied(pixels: "NDArray[np.uint8]", mode: str, size: tuple[int, int]) -> Image.Image:
    return Image.frombytes(mode, size, pixels)


@dataclass(frozen=True)
class Refused:
    """Why there is no picture."""

    too_large: bool
    message: str

    def error(self) -> BadImage | TooLarge:
        """The failure as it was raised."""
        return TooLarge(self.message) if self.too_large else BadImage(self.message)


def main() -> None:
    """Work until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries that print do not answer
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the parent, which closes standard input
        signal.signal(number, signal.SIG_IGN)
    end_first_when_memory_is_short()
    warnings.simplefilter("ignore")
    jobs = sys.stdin.buffer
    while line := jobs.readline():
        job = Job(**json.loads(line))
        for piece in _answer(job, jobs.read(job.length)):
            _write(answers, piece)


def _answer(job: Job, data: bytes) -> Iterator[bytes]:
    """What is written: a line, and the pixels."""
    try:
        found, pixels = _found(job, data)
    except (BadImage, TooLarge) as error:
        yield _line(Refused(isinstance(error, TooLarge), str(error)))
    except MemoryError:
        yield _line(Refused(True, "the image does not fit in memory"))
    else:
        yield _line(found)
        yield from pixels


def _line(answer: "Decoded | Refused") -> bytes:
    return json.dumps(asdict(answer)).encode() + b"\n"


def _write(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _found(job: Job, data: bytes) -> tuple[Decoded, Iterator[bytes]]:
    _limit(SPARE_BYTES + 4 * len(data) + BYTES_PER_PIXEL * job.max_pixels)
    if not job.decode:
        return Decoded(*images.measure(data, job.max_pixels)), iter(())
    picture = images.decode(data, job.max_pixels, job.min_side)
    if job.upright:
        picture = images.upright(picture)
    image, mode = picture.image, _written_mode(picture.image)
    row_bytes = len(_pixels(image.crop((0, 0, image.width, 1)), mode))
    palette_mode, palette, transparency = _colours(image, mode)
    found = Decoded(
        *picture.size,
        mode=mode,
        rows=image.height,
        columns=image.width,
        row_bytes=row_bytes,
        orientation=picture.orientation,
        palette_mode=palette_mode,
        palette=palette,
        transparency=transparency,
    )
    return found, (_pixels(band, mode) for _, band in bands(image))


def _pixels(image: Image.Image, mode: str) -> bytes:
    return (image if image.mode == mode else image.convert(mode)).tobytes()


def _written_mode(image: Image.Image) -> str:
    """The mode in which pixels are written: their own but for RGB, and for large pictures of modes that are copied."""
    if image.mode in MAPPED_MODES:
        return image.mode
    if image.mode == "1" and is_large(*image.size):
        return "P"  # which is resized in the same way
    if image.has_transparency_data and (image.mode == "RGB" or is_large(*image.size)):
        return "RGBA"
    return "RGBX" if image.mode == "RGB" or is_large(*image.size) else image.mode


def _colours(image: Image.Image, mode: str) -> tuple[str, str, int | str | None]:
    """Mode and colours of the palette, and what is transparent."""
    transparency = image.info.get("transparency") if mode in ("1", "L", "P") else None
    opacity = transparency.hex() if isinstance(transparency, bytes) else transparency
    if mode not in ("P", "PA"):
        return "", "", opacity
    if image.palette is None:
        return "RGB", bytes(level for level in range(256) for _ in "RGB").hex(), opacity
    return image.palette.mode, bytes(image.getpalette(image.palette.mode) or ()).hex(), opacity


def _limit(more_bytes: int) -> None:
    """Let this process have so much more memory, and the time of one picture."""
    import resource  # not on Windows

    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + CPU_LIMIT_S, most))
    with contextlib.suppress(OSError):  # only Linux says how much it has
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
