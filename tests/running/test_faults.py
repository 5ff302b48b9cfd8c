"""Faults of the device and of the machine, each injected into the real server: what is answered, and how it ends."""

import hashlib
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from picture_files import encoded
from PIL import Image
from server import CLIP, ROOT, SMALL, TEXTUAL, VISUAL, Client, Reply, RunningServer, http_request, predict_form

from immich_ml_cn.serving import recent_models
from immich_ml_cn.serving.plan import DECODED_BYTES_PER_PIXEL, VisualPlan

SAMPLE = (ROOT / "docs" / "sample.jpg").read_bytes()


@pytest.fixture(scope="module")
def expected(cache: Path) -> Iterator[bytes]:
    """What a server without a fault answers for SMALL."""
    with RunningServer(cache) as running, running.client() as client:
        yield client.predict(VISUAL, SMALL).body


def counted(client: Client, status: int, task: str = "clip/visual") -> float:
    """How many requests of a task the metrics count under a status."""
    text = client.get("/metrics").body.decode()
    start = f'immich_ml_requests_total{{model="clip/{CLIP}/{task[5:]}",status="{status}",task="{task}"}} '
    return sum(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))


def test_a_session_that_always_fails_is_500_for_who_uses_it_and_nobody_else(cache: Path) -> None:
    with FaultyServer(cache, FAULT="always", FAULT_GRAPH="visual") as server, server.client() as client:
        for _ in range(5):
            reply = client.predict(VISUAL, SMALL)
            assert reply.status == 500
            assert "something nobody foresaw" in reply.detail
            assert client.predict(TEXTUAL, text="cat").status == 200
        assert client.get("/ping").body == b"pong"
        assert counted(client, 500) == 5
        errors = client.get("/status").json["lastErrors"]
        assert len(errors) == 5
        assert "something nobody foresaw" in errors[0]["message"]
        assert server.stop() == 0


def test_a_session_that_fails_once_works_afterwards(cache: Path, expected: bytes) -> None:
    with FaultyServer(cache, FAULT="once", FAULT_GRAPH="visual") as server, server.client() as client:
        assert client.predict(VISUAL, SMALL).status == 500
        assert client.predict(VISUAL, SMALL).body == expected


def test_memory_that_was_short_once_loses_nobody(cache: Path, expected: bytes) -> None:
    """Idle models are unloaded to make room, and the very request is answered."""
    with FaultyServer(cache, FAULT="memory-once", FAULT_GRAPH="visual") as server, server.client() as client:
        assert client.predict(TEXTUAL, text="cat").status == 200
        assert client.predict(VISUAL, SMALL).body == expected
        assert "unloaded 1 models that nobody used" in server.log
        assert list(client.get("/status").json["models"]) == [f"clip/{CLIP}/visual"]
        assert client.predict(TEXTUAL, text="cat").status == 200


def test_memory_that_stays_short_is_503_and_the_server_lives(cache: Path) -> None:
    with FaultyServer(cache, FAULT="memory", FAULT_GRAPH="visual") as server, server.client() as client:
        for _ in range(4):
            reply = client.predict(VISUAL, SMALL)
            assert (reply.status, reply.headers["retry-after"]) == (503, "30")
            assert "does not have enough memory for this input" in reply.detail
        assert client.predict(TEXTUAL, text="cat").status == 200
        assert "Traceback" not in server.log


def test_memory_that_is_short_while_a_model_loads_is_503(cache: Path) -> None:
    with FaultyServer(cache, FAULT="load-memory", FAULT_GRAPH="visual") as server, server.client() as client:
        reply = client.predict(VISUAL, SMALL)
        assert reply.status == 503
        assert "MemoryError" in reply.detail
        assert client.predict(TEXTUAL, text="cat").status == 200


def test_a_poisoned_device_ends_the_process_and_all_who_wait_are_answered(cache: Path) -> None:
    with FaultyServer(cache, FAULT="poison", FAULT_GRAPH="visual") as server:
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda _: _reply_or_refusal(server), range(6)))
        assert server.wait() == 1
        answered = [reply for reply in replies if reply is not None]
        assert answered
        assert {reply.status for reply in answered} == {503}
        assert "illegal memory access" in server.log
        assert "the process ends so that it can be started again" in server.log


def _reply_or_refusal(server: RunningServer) -> Reply | None:
    """None where the port was closed before the request went out."""
    try:
        return server.predict(VISUAL, SMALL)
    except ConnectionRefusedError:
        return None


def test_a_device_that_fails_three_times_in_a_row_ends_the_process(cache: Path) -> None:
    with FaultyServer(cache, FAULT="device", FAULT_GRAPH="visual") as server:
        assert [server.predict(VISUAL, SMALL).status for _ in range(3)] == [500, 500, 500]
        assert server.wait() == 1
        assert "the device of bulk-0 failed 3 times in a row" in server.log


def test_a_device_that_fails_now_and_then_goes_on(cache: Path) -> None:
    with FaultyServer(cache, FAULT="device-twice", FAULT_GRAPH="visual") as server:
        assert [server.predict(VISUAL, SMALL).status for _ in range(6)] == [500, 500, 200, 500, 500, 200]
        assert server.stop() == 0


@pytest.mark.parametrize(("fault", "said"), [("hang", "a batch on bulk-0"), ("load-hangs", "a load on bulk-0")])
def test_what_hangs_ends_the_process_and_its_clients_are_told(cache: Path, fault: str, said: str) -> None:
    environ = {"MACHINE_LEARNING_WORKER_TIMEOUT": "5", "MACHINE_LEARNING_SHUTDOWN_TIMEOUT_S": "1"}
    with FaultyServer(cache, FAULT=fault, FAULT_GRAPH="visual", **environ) as server:
        assert server.predict(VISUAL, SMALL).status == 503
        assert server.wait() == 1
        assert f"{said} has been running for over 5 s" in server.log


@pytest.mark.parametrize(("fault", "code"), [("decoding-hangs", 0), ("counting-hangs", 1)])
def test_a_thread_that_never_returns_does_not_keep_the_process(cache: Path, fault: str, code: int) -> None:
    """Its client is answered; asyncio waits for its own threads until the process is ended from outside of Python."""
    with FaultyServer(cache, FAULT=fault, MACHINE_LEARNING_SHUTDOWN_TIMEOUT_S="1") as server:
        with server.connect() as connection:
            request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
            connection.sendall(request if fault == "counting-hangs" else http_request(predict_form(VISUAL, SMALL)))
            with server.client() as client:
                client.get("/ping")
            server.terminate()
            assert (b"503 Service Unavailable" in connection.recv(65536)) == (fault == "decoding-hangs")
        assert server.wait() == code
        assert ("in _hang\n" in server.log) == (fault == "counting-hangs"), "where each thread was"


def test_clients_that_leave_are_not_worked_for(cache: Path) -> None:
    """One leaves while its batch runs, four while they are queued: one batch ran, and the next client's."""
    with FaultyServer(cache, FAULT="slow", FAULT_GRAPH="visual") as server, server.client() as client:
        assert client.predict(VISUAL, SMALL).status == 200
        leaving = [server.connect() for _ in range(5)]
        leaving[0].sendall(http_request(predict_form(VISUAL, SMALL)))
        _wait_for_metric(client, 'immich_ml_lane_busy{lane="bulk-0"} 1.0')
        for connection in leaving[1:]:
            connection.sendall(http_request(predict_form(VISUAL, SMALL)))
        _wait_for_metric(client, f'immich_ml_queue_length{{model="clip/{CLIP}/visual"}} 4.0')
        for connection in leaving:
            connection.close()
        assert client.predict(VISUAL, SMALL).status == 200
        assert (counted(client, 200), counted(client, 499)) == (2, 5)
        batches = f'immich_ml_batch_size_count{{model="clip/{CLIP}/visual"}} 3.0'
        assert batches in client.get("/metrics").body.decode()


def _wait_for_metric(client: Client, line: str) -> None:
    for _ in range(1000):
        if line in client.get("/metrics").body.decode():
            return
    raise AssertionError(f"never: {line}")


@pytest.mark.parametrize("size", [(5000, 4000), (6000, 5000)], ids=["on a thread", "in a process"])
def test_clients_that_leave_while_their_picture_is_decoded(cache: Path, size: tuple[int, int]) -> None:
    """Nothing is left of them: no reserved memory, no request inside."""
    large = encoded(Image.effect_noise(size, 80).convert("RGB"), "JPEG", quality=80)
    environ = {"MACHINE_LEARNING_REQUEST_THREADS": "1", "MACHINE_LEARNING_MAX_DECODED_BYTES": "300000000"}
    with RunningServer(cache, **environ) as server, server.client() as client:
        leaving = [server.connect() for _ in range(4)]
        for connection in leaving:
            connection.sendall(http_request(predict_form(VISUAL, large)))
        for _ in range(500):
            held = client.get("/status").json["decodedBytes"]
            if held["held"] == size[0] * size[1] * (DECODED_BYTES_PER_PIXEL + VisualPlan.bytes_per_pixel):
                break
        else:
            pytest.fail(f"never decoding: {held}")
        for connection in leaving:
            connection.close()
        assert client.predict(VISUAL, SMALL).status == 200
        for _ in range(500):  # a process that decodes takes a moment to end
            held = client.get("/status").json["decodedBytes"]
            if not held["held"]:
                break
        assert held == {"held": 0, "limit": 300_000_000, "waiting": 0}
        assert 'immich_ml_responses_total{route="/predict",status="499"} 4.0' in client.get("/metrics").body.decode()


def test_a_kill_leaves_the_cache_as_it_was(cache: Path, expected: bytes) -> None:
    """SIGKILL in the middle of work: not a byte of the cache changes, and the next server answers the same.

    But for the list of what was used: it is gone while that is being loaded.
    """
    before = checksums(cache)
    with RunningServer(cache) as server:
        failed = threading.Event()

        def ask() -> None:
            try:
                while True:
                    server.predict(VISUAL, SMALL)
            except OSError:
                failed.set()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        server.wait_for_log(f"loading clip/{CLIP}/visual")
        server.process.kill()
        assert server.wait() == -signal.SIGKILL
        for thread in threads:
            thread.join()
        assert failed.is_set()
    assert checksums(cache) == before
    with RunningServer(cache) as server:
        assert server.predict(VISUAL, SMALL).body == expected


def checksums(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".log" and p.name != recent_models.FILE]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
