"""The other side of `serving.decoder_process`: measures and decodes pictures in a process of its own.

Reads a `Job` as a line of JSON from standard input and answers with a `Decoded` or a `Refused`. The file lies in memory
that both processes have open, and its pixels are written in its place.
"""

import contextlib
import json
import os
import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from immich_ml_cn.engines.child_process import end_first_when_memory_is_short
from immich_ml_cn.errors import BadImage, TooLarge

from . import images

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

_BAND_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        length: bytes of the file.
        max_pixels: width x height above which it is refused.
        decode: false to measure only.
    """

    length: int
    max_pixels: int
    decode: bool


@dataclass(frozen=True)
class Decoded:
    """A picture. What follows the size is empty where it was only measured.

    Attributes:
        width: in pixels.
        height: in pixels.
        mode: Pillow's, of the pixels: their raw bytes row by row.
        orientation: what EXIF says, 1 to 8.
        palette_mode: Pillow's, of the palette; empty where there is none.
        palette: hexadecimal.
    """

    width: int
    height: int
    mode: str = ""
    orientation: int = 1
    palette_mode: str = ""
    palette: str = ""

    def image(self, pixels: "NDArray[np.uint8]") -> Image.Image:
        """The picture of these bytes, which are copied."""
        image = Image.frombytes(self.mode, (self.width, self.height), pixels)
        if self.palette_mode:
            image.putpalette(bytes.fromhex(self.palette), self.palette_mode)
        return image


@dataclass(frozen=True)
class Refused:
    """Why there is no picture."""

    too_large: bool
    message: str

    def error(self) -> BadImage | TooLarge:
        """The failure as it was raised."""
        return TooLarge(self.message) if self.too_large else BadImage(self.message)


def main() -> None:
    """Work until standard input ends; the argument is the number of the open file with the shared memory."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print do not answer
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the parent, which closes standard input
        signal.signal(number, signal.SIG_IGN)
    end_first_when_memory_is_short()
    warnings.simplefilter("ignore")
    with FileIO(int(sys.argv[1]), "r+") as memory:
        for line in sys.stdin:
            answer = _answer(Job(**json.loads(line)), memory)
            print(json.dumps(asdict(answer)), file=answers, flush=True)


def _answer(job: Job, memory: FileIO) -> Decoded | Refused:
    try:
        memory.seek(0)
        data = memory.read(job.length)
        memory.truncate(0)
        return _decoded(data, job, memory)
    except (BadImage, TooLarge) as error:
        return Refused(isinstance(error, TooLarge), str(error))
    except MemoryError:
        return Refused(True, "the image does not fit in memory")


def _decoded(data: bytes, job: Job, memory: FileIO) -> Decoded:
    _limit(SPARE_BYTES + 4 * len(data) + BYTES_PER_PIXEL * job.max_pixels)
    if not job.decode:
        return Decoded(*images.measure(data, job.max_pixels))
    picture = images.decode(data, job.max_pixels)
    image = picture.image
    _write_pixels(image, memory)
    if image.palette is None or image.mode not in ("P", "PA"):
        return Decoded(*image.size, image.mode, picture.orientation)
    palette = bytes(image.getpalette(image.palette.mode) or ())
    return Decoded(*image.size, image.mode, picture.orientation, image.palette.mode, palette.hex())


def _write_pixels(image: Image.Image, memory: FileIO) -> None:
    rows = max(1, _BAND_BYTES // (image.width * 4))
    memory.seek(0)
    for top in range(0, image.height, rows):
        band = memoryview(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
        while band:
            band = band[memory.write(band) :]


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
