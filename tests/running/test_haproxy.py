"""Three replicas behind deploy/haproxy/haproxy.cfg: whatever happens to one of them, no client sees a failure.

HAProxy is Debian's (`apt install haproxy`); without it these tests are skipped.
"""

import http.client
import io
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from server import OCR_TASK, ROOT, TEXTUAL, VISUAL, Client, RunningServer, fill_cache, free_port, wait_until

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
CONFIGURATION = ROOT / "deploy" / "haproxy" / "haproxy.cfg"

REPLICAS = 3
CLIENTS = 6

Request = tuple[dict[str, Any], bytes | None, str | None]
"""Entries, image and text of one request."""

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed (apt install haproxy)")


class HaProxy:
    """HAProxy with the configuration that is shipped, but its replicas at ports of this machine."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.port = free_port()
        servers = "\n".join(f"    server replica{number} 127.0.0.1:{port}" for number, port in enumerate(ports, 1))
        text, templates = re.subn(r"^    server-template .*$", servers, CONFIGURATION.read_text(), flags=re.MULTILINE)
        text, binds = re.subn(r"bind :::3003 v4v6", f"bind 127.0.0.1:{self.port}", text)
        assert (templates, binds) == (1, 1)
        self._file = folder / "haproxy.cfg"
        self._file.write_text(text)
        self._log = folder / "haproxy.log"

    def __enter__(self) -> "HaProxy":
        assert HAPROXY
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([HAPROXY, "-db", "-f", str(self._file)], stdout=log, stderr=log)
        wait_until(lambda: self._answers() or self._process.poll() is not None)
        assert self._process.poll() is None, self.log
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _answers(self) -> bool:
        try:
            with Client(self.port, timeout=2) as client:
                return client.get("/ping").status == 200
        except OSError:
            return False


class Load:
    """Clients that each send a request, compare the answer, and send the next, until told to stop."""

    def __init__(self, port: int, work: list[Request]) -> None:
        self._port = port
        self._work = work
        with Client(port) as client:
            self._expected = [ask(client, *request) for request in work]
        self._over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Wait until so many more answers have come, or one is wrong."""
        target = self.answers.total() + more
        wait_until(lambda: self.answers.total() >= target or bool(self.failures))

    def _client(self, number: int) -> None:
        with Client(self._port) as client:
            while not self._over.is_set():
                number = (number + 1) % len(self._work)
                self._ask_once(client, number)

    def _ask_once(self, client: Client, number: int) -> None:
        try:
            answer = ask(client, *self._work[number])
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self.failures.append(f"{time.monotonic():.3f} request {number}: {error!r}")
            return
        if differs(answer, self._expected[number]):
            self.failures.append(f"request {number} was answered with {answer}")
        self.answers[str(number)] += 1


def ask(client: Client, entries: dict[str, Any], image: bytes | None, text: str | None) -> Any:
    reply = client.predict(entries, image, text)
    assert reply.status == 200, reply.body
    return reply.json


def differs(answer: Any, expected: Any) -> bool:
    """Whether two answers are not the same; embeddings as numbers, which a batch's size moves in the last digits."""
    if set(answer) != set(expected):
        return True
    if "clip" not in expected:
        return bool(answer["ocr"]["text"] != expected["ocr"]["text"])
    numbers, right = (vector(value["clip"]) for value in (answer, expected))
    return len(numbers) != len(right) or max(abs(a - b) for a, b in zip(numbers, right, strict=True)) > 1e-4


def vector(text: str) -> list[float]:
    """The numbers of an embedding, which Immich's protocol sends as a string."""
    return [float(number) for number in text.strip("[]").split(",")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with small models, shared by all replicas, that none of them may write."""
    folder = fill_cache(tmp_path_factory.mktemp("cache"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


@pytest.fixture
def replicas(cache: Path, tmp_path: Path) -> Iterator[list[RunningServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(replica(cache, tmp_path, free_port())) for _ in range(REPLICAS)]


def replica(cache: Path, folder: Path, port: int) -> RunningServer:
    """One that leaves cores to the others."""
    return RunningServer(
        folder,
        IMMICH_PORT=str(port),
        MACHINE_LEARNING_CACHE_FOLDER=str(cache),
        MACHINE_LEARNING_MODEL_INTRA_OP_THREADS="1",
        MACHINE_LEARNING_REQUEST_THREADS="1",
    )


def requests() -> list[Request]:
    """One of each kind, with a small photo: many answers count here, not large ones."""
    buffer = io.BytesIO()
    with Image.open(ROOT / "docs" / "sample.jpg") as image:
        image.resize((image.width // 3, image.height // 3)).save(buffer, "JPEG", quality=90)
    photo = buffer.getvalue()
    return [(VISUAL, photo, None), (OCR_TASK, photo, None), (TEXTUAL, None, "海边的日落")]


def test_a_replica_killed_and_one_restarted_under_load_lose_nothing(
    cache: Path, replicas: list[RunningServer], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(HaProxy(tmp_path, [one.port for one in replicas]))
        load = stack.enter_context(Load(proxy.port, requests()))
        load.wait_for(20)
        assert all("loaded" in one.log for one in replicas)

        replicas[0].process.kill()
        load.wait_for(20)

        assert replicas[1].stop() == 0
        load.wait_for(20)
        again = stack.enter_context(replica(cache, tmp_path, replicas[1].port))
        wait_until(lambda: "loaded" in again.log or bool(load.failures))
        load.wait_for(20)
    assert load.failures == [], proxy.log
    assert load.answers.keys() == {"0", "1", "2"}
    assert "replica1 is DOWN" in proxy.log
    assert "replica2 is UP" in proxy.log


def test_the_ping_tells_whether_any_replica_answers(replicas: list[RunningServer], tmp_path: Path) -> None:
    with HaProxy(tmp_path, [one.port for one in replicas]) as proxy, Client(proxy.port) as client:
        replicas[0].process.kill()
        replicas[1].process.kill()
        assert client.get("/ping").body == b"pong"
        replicas[2].process.kill()

        def nobody_is_left() -> bool:
            return client.get("/ping").status == 503

        wait_until(nobody_is_left)


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    assert HAPROXY
    command = [HAPROXY, "-c", "-f", str(CONFIGURATION)]
    environ = {**os.environ, "REPLICAS": "immich-machine-learning-replica"}
    checked = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
