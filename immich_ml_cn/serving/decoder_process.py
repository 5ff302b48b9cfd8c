"""Processes that decode pictures whose codecs would hold up this one: `models.decoder_worker` is the other side."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from typing import IO, cast

from immich_ml_cn.engines import child_process
from immich_ml_cn.errors import BadImage, ServiceError, Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.models import pixel_memory
from immich_ml_cn.models.decoder_worker import CPU_LIMIT_S, Decoded, Job, Refused
from immich_ml_cn.models.images import Picture


class DecoderProcess:
    """One process, which decodes one picture at a time. It ends with this one, whatever becomes of it.

    Attributes:
        has_answered: whether it has done anything yet.
    """

    def __init__(self) -> None:
        """
        Raises:
            OSError: it cannot be started.
        """
        self.has_answered = False
        self._memory = _memory()
        file = self._memory.fileno()
        command = child_process.command("immich_ml_cn.models.decoder_worker", "main", str(file))
        try:
            self._process = subprocess.Popen(  # noqa: S603 - ours
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(file,)
            )
        except OSError:
            self._memory.close()
            raise
        self._jobs = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    def measure(self, data: bytes, max_pixels: int) -> tuple[int, int]:
        """As `images.measure`.

        Raises:
            BadImage: also where it takes too long, or the process dies of it.
            Unavailable: the process was killed.
        """
        found = self._ask(data, Job(len(data), max_pixels, decode=False))
        return found.width, found.height

    def decode(self, data: bytes, max_pixels: int, min_side: int | None, *, upright: bool) -> Picture:
        """As `images.decode`, and `images.upright`. Raises what `measure` does."""
        found = self._ask(data, Job(len(data), max_pixels, True, min_side, upright))
        pixels = pixel_memory.allocated(self._memory.seek(0, os.SEEK_END))
        _read(self._memory, memoryview(pixels))
        self._memory.truncate(0)
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
        self._memory.close()

    def _ask(self, data: bytes, job: Job) -> Decoded:
        _write(self._memory, data)
        answer = self._answer(json.dumps(asdict(job)).encode() + b"\n")
        if not answer:
            raise _cause_of_death(self._process.wait())
        self.has_answered = True
        values = json.loads(answer)
        if "message" in values:
            raise Refused(**values).error()
        return Decoded(**values)

    def _answer(self, line: bytes) -> bytes:
        """The answer to a line, empty where the process has ended."""
        try:
            self._jobs.write(line)
            self._jobs.flush()
        except BrokenPipeError:
            return b""
        return self._answers.readline()


def _memory() -> IO[bytes]:
    """A file that is no file: memory that another process can open by its number."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("picture"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _write(memory: IO[bytes], data: bytes) -> None:
    memory.seek(0)
    rest = memoryview(data)
    while rest:
        rest = rest[memory.write(rest) :]


def _read(memory: IO[bytes], rest: memoryview) -> None:
    """Fill it from the start of the file, while other threads of Python run."""
    memory.seek(0)
    while rest:
        rest = rest[cast(io.FileIO, memory).readinto(rest) :]


def _cause_of_death(code: int) -> ServiceError:
    """What it means that a process ended in the middle of its work."""
    if code == -signal.SIGXCPU:
        return BadImage(tr("the image takes more than {seconds} s to decode", seconds=CPU_LIMIT_S))
    if code == -signal.SIGKILL:
        return Unavailable(
            tr("the process that decoded the image was ended, probably for want of memory"), retry_after=10
        )
    return BadImage(tr("the image cannot be decoded: its codec ended with {code}", code=code))
