"""Processes that decode pictures whose codecs would hold up this one: `models.decoder_worker` is the other side."""

import io
import json
import signal
import subprocess
from contextlib import suppress
from dataclasses import asdict
from typing import cast

from immich_ml_cn.engines import child_process
from immich_ml_cn.errors import BadImage, ServiceError, Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.models import pixel_memory
from immich_ml_cn.models.decoder_worker import CPU_LIMIT_S, Decoded, Job, Refused
from immich_ml_cn.models.images import Picture


class DecoderProcess:
    """One process, which decodes one picture at a time. It ends when this process does, however that ends.

    Attributes:
        has_answered: whether it has done anything yet, from beginning to end.
    """

    def __init__(self) -> None:
        """
        Raises:
            OSError: it cannot be started.
        """
        self.has_answered = False
        command = child_process.command("immich_ml_cn.models.decoder_worker", "main")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - ours
        self._jobs = cast(io.BufferedWriter, self._process.stdin)
        self._answers = cast(io.BufferedReader, self._process.stdout)

    def measure(self, data: bytes, max_pixels: int) -> tuple[int, int]:
        """As `images.measure`.

        Raises:
            BadImage: also where it takes too long, or the process dies of it.
            Unavailable: the process was killed.
        """
        found = self._ask(data, Job(len(data), max_pixels, decode=False))
        self.has_answered = True
        return found.width, found.height

    def decode(self, data: bytes, max_pixels: int, min_side: int | None, *, upright: bool) -> Picture:
        """As `images.decode`, and `images.upright`. Raises what `measure` does."""
        found = self._ask(data, Job(len(data), max_pixels, True, min_side, upright))
        pixels = pixel_memory.allocated(found.rows * found.row_bytes)
        if self._answers.readinto(pixels.data) < len(pixels):
            raise _cause_of_death(self._process.wait())
        self.has_answered = True
        return found.picture(pixels)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it, from any thread: whoever waits for its answer hears of it."""
        self._process.kill()

    def close(self) -> None:
        """End it, and give all it had back."""
        self.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # of a job that it never read
            self._jobs.close()
        self._answers.close()

    def _ask(self, data: bytes, job: Job) -> Decoded:
        answer = self._answer(json.dumps(asdict(job)).encode() + b"\n", data)
        if not answer:
            raise _cause_of_death(self._process.wait())
        values = json.loads(answer)
        if "message" in values:
            self.has_answered = True
            raise Refused(**values).error()
        return Decoded(**values)

    def _answer(self, line: bytes, data: bytes) -> bytes:
        """The answer to a line and a file, empty where the process has ended."""
        try:
            self._jobs.write(line)
            self._jobs.write(data)
            self._jobs.flush()
        except BrokenPipeError:
            return b""
        return self._answers.readline()


def _cause_of_death(code: int) -> ServiceError:
    """What it means that a process ended in the middle of its work."""
    if code == -signal.SIGXCPU:
        return BadImage(tr("the image takes more than {seconds} s to decode", seconds=CPU_LIMIT_S))
    if code == -signal.SIGKILL:
        return Unavailable(
            tr("the process that decoded the image was ended, probably for want of memory"), retry_after=10
        )
    return BadImage(tr("the image cannot be decoded: its codec ended with {code}", code=code))
