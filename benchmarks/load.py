"""The load generator: clients that each send a request, wait for its answer and send the next, over one connection.

It runs in a process of its own and only needs the standard library, so that it takes next to nothing of the cores that
it measures; how much it took is part of the outcome.
"""

import asyncio
import itertools
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Stream:
    """Some clients that send the same kind of request.

    Attributes:
        requests: whole requests as bytes, sent in turn.
        clients: how many at once.
        count: requests of all clients together; None: as many as it takes until the other streams have finished.
        pause_s: seconds a client waits before each request.
        interval_s: seconds from one request to the next of all clients, whatever the answers take; there must be
            clients enough. A request's time counts from when it was due.
    """

    requests: tuple[bytes, ...]
    clients: int
    count: int | None
    pause_s: float = 0.0
    interval_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What one stream measured.

    Attributes:
        latencies_s: of each request that was answered with 200.
        elapsed_s: from the first request to the last answer.
        failures: status → how many answers; 0 stands for a broken connection.
    """

    latencies_s: list[float]
    elapsed_s: float
    failures: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.elapsed_s


@dataclass(frozen=True)
class Report:
    """All streams' outcomes, and the seconds of CPU the generator used."""

    outcomes: list[Outcome]
    cpu_s: float


def drive(host: str, port: int, *streams: Stream) -> Report:
    """Run streams side by side in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.load"]
    work = pickle.dumps((host, port, streams))
    done = subprocess.run(command, input=work, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[1])
    report: Report = pickle.loads(done.stdout)
    return report


class _Client:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> int:
        """Send a request and read its whole answer; the status, 0 when the connection broke."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._address, limit=1 << 22)
            reader, writer = self._streams
            writer.write(request)
            await writer.drain()
            return await _read_answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head:
        while (size := int(await reader.readline(), 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readline()
        return status
    await reader.readexactly(int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
    return status


async def _run(host: str, port: int, streams: tuple[Stream, ...]) -> list[Outcome]:
    finished = asyncio.Event()
    counted = [asyncio.create_task(_stream(host, port, s, finished)) for s in streams if s.count is not None]
    endless = [asyncio.create_task(_stream(host, port, s, finished)) for s in streams if s.count is None]
    await asyncio.gather(*counted)
    finished.set()
    await asyncio.gather(*endless)
    outcomes = {id(s): task.result() for s, task in zip(_sorted(streams), counted + endless, strict=True)}
    return [outcomes[id(stream)] for stream in streams]


def _sorted(streams: tuple[Stream, ...]) -> list[Stream]:
    return [s for s in streams if s.count is not None] + [s for s in streams if s.count is None]


async def _stream(host: str, port: int, stream: Stream, finished: asyncio.Event) -> Outcome:
    latencies: list[float] = []
    failures: dict[int, int] = {}
    numbers = itertools.count() if stream.count is None else iter(range(stream.count))
    started = time.perf_counter()

    async def work(numbers: Iterator[int]) -> None:
        client = _Client(host, port)
        for number in numbers:
            due = started + number * stream.interval_s if stream.interval_s else time.perf_counter() + stream.pause_s
            if await _is_set_by(due, finished):
                break
            begun = due if stream.interval_s else time.perf_counter()
            status = await client.send(stream.requests[number % len(stream.requests)])
            if status == 200:
                latencies.append(time.perf_counter() - begun)
            else:
                failures[status] = failures.get(status, 0) + 1
            if stream.interval_s:
                client.close()  # Immich's service closes a connection that is idle for two seconds
        client.close()

    await asyncio.gather(*(work(numbers) for _ in range(stream.clients)))
    return Outcome(latencies, time.perf_counter() - started, failures)


async def _is_set_by(due: float, event: asyncio.Event) -> bool:
    """Wait for a time of `time.perf_counter`, or until an event is set before; whether it is."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, due - time.perf_counter()))
    return event.is_set()


def _main() -> None:
    # The classes below are pickled as benchmarks.load's, not __main__'s.
    from benchmarks import load

    host, port, streams = pickle.load(sys.stdin.buffer)
    outcomes = asyncio.run(load._run(host, port, streams))
    sys.stdout.buffer.write(pickle.dumps(load.Report(outcomes, time.process_time())))


if __name__ == "__main__":
    _main()
