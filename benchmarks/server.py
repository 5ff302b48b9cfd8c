"""The servers that are measured: ours in a process of its own, or any at an address."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from .load import Outcome, Report, Stream, drive
from .requests import Task, post

ROOT = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A server at an address; `pid` is None where its process is not ours to look at."""

    def __init__(self, name: str, url: str) -> None:
        parts = urlsplit(url)
        self.name = name
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self._path = parts.path.rstrip("/") + "/predict"
        self.pid: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to stop: it is not ours."""

    def stream(
        self, task: Task, clients: int, count: int | None, *, pause_s: float = 0.0, interval_s: float = 0.0
    ) -> Stream:
        """Clients that send a task's requests to this server."""
        requests = tuple(post(f"{self.host}:{self.port}", self._path, body) for body in task.bodies())
        return Stream(requests, clients, count, pause_s, interval_s)

    def drive(self, *streams: Stream) -> Report:
        """Run streams side by side.

        Raises:
            RuntimeError: a request was not answered with 200.
        """
        report = drive(self.host, self.port, *streams)
        failures = [outcome.failures for outcome in report.outcomes if outcome.failures]
        if failures:
            raise RuntimeError(f"{self.name} failed: status → number {failures}")
        return report

    def measure(self, task: Task, clients: int, count: int) -> Outcome:
        """One stream of one task."""
        return self.drive(self.stream(task, clients, count)).outcomes[0]

    def answer(self, task: Task, number: int = 0) -> bytes:
        """The body of the answer to one of a task's requests.

        Raises:
            RuntimeError: it was refused.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        head, _, body = post(f"{self.host}:{self.port}", self._path, task.bodies()[number]).partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        connection.request("POST", self._path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{self.name} answered {response.status}: {answer[:500]!r}")
        return answer

    def status(self) -> Any:
        """What /status says."""
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=5)) as connection:
            connection.request("GET", "/status")
            return json.loads(connection.getresponse().read())

    def is_up(self) -> bool:
        """Whether /ping is answered with 200."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


class LocalServer(Server):
    """A server that is started here, with nothing in its environment but what is given; stopped at the end of a `with`.

    It is told what to do by Immich's own variables.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        cache: Path,
        *,
        cores: Collection[int] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            command: starts it, in the root of this repository.
            cache: the models' folder.
            cores: the numbers of the CPU cores it may use, None for all of ours.
            environ: added to its environment.
        """
        port = _free_port()
        super().__init__(name, f"http://127.0.0.1:{port}")
        self._command = command
        self._cores = cores
        self._environ = {
            **{key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ},
            "HOME": str(cache),
            "IMMICH_HOST": "127.0.0.1",
            "IMMICH_PORT": str(port),
            "IMMICH_LOG_LEVEL": "warn",
            "MACHINE_LEARNING_CACHE_FOLDER": str(cache),
            "MACHINE_LEARNING_MODEL_TTL": "0",
            "HF_HUB_OFFLINE": "1",
            **(environ or {}),
        }
        self.started_in_s = 0.0

    def __enter__(self) -> Self:
        """Start it and wait for /ping; `started_in_s` is the time from the process's start to there."""
        begun = time.perf_counter()
        self._process = subprocess.Popen(self._command, cwd=ROOT, env=self._environ, start_new_session=True)
        if self._cores is not None:
            os.sched_setaffinity(self._process.pid, self._cores)
        while not self.is_up():
            if self._process.poll() is not None or time.perf_counter() - begun > 120:
                self.stop()
                raise RuntimeError(f"{self.name} did not start: {' '.join(self._command)}")
            time.sleep(0.005)
        self.started_in_s = time.perf_counter() - begun
        self.pid = self._process.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and those that it has started, and wait for it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class OurServer(LocalServer):
    """`python -m immich_ml_cn` on the CPU."""

    def __init__(
        self,
        cache: Path,
        *,
        name: str = "ours",
        cores: Collection[int] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """See `LocalServer`."""
        command = [sys.executable, "-m", "immich_ml_cn"]
        super().__init__(
            name, command, cache, cores=cores, environ={"MACHINE_LEARNING_PROVIDER": "cpu", **(environ or {})}
        )


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its children in MB (10^6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    own = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return own + sum(resident_mb(child) for child in _children(pid))


def loaded_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process in MB, a page that is mapped twice counted once; and that which no file backs."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    whole, anonymous = (int(text.partition(f"\n{name}:")[2].split()[0]) for name in ("Pss", "Pss_Anon"))
    return whole * 1024 / 1e6, anonymous * 1024 / 1e6


def tree_mb(pid: int) -> float:
    """Resident memory of a process and its children in MB, a page of several of them counted once."""
    return loaded_mb(pid)[0] + sum(map(tree_mb, _children(pid)))


def process_count(pid: int) -> int:
    """A process and its children."""
    return 1 + sum(process_count(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
