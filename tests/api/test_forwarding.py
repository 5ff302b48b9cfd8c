"""Forwarding: what the server does not serve is asked of another one, a second instance of ours or a stub."""

import asyncio
import json
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server import (
    CLIP,
    FACE_DETECTION,
    FACE_TASK,
    OCR_TASK,
    ROOT,
    TEXTUAL,
    VISUAL,
    RunningServer,
    fill_cache,
    predict_form,
)

from immich_ml_cn.api.forwarding import HEADER, Gateway, Upstream
from immich_ml_cn.errors import ServiceError, UpstreamFailed, UpstreamTimeout
from immich_ml_cn.logs import redact_url
from immich_ml_cn.models.results import Answer
from immich_ml_cn.serving.tasks import Tasks

SAMPLE = (ROOT / "docs" / "sample.jpg").read_bytes()
THEIRS = "a-model-of-theirs"
VISUAL_OF_THEIRS = {"clip": {"visual": {"modelName": THEIRS}}}
TEXTUAL_OF_THEIRS = {"clip": {"textual": {"modelName": THEIRS}}}
TIMEOUT_S = 8
"""What the upstream has for one request."""


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ours, and theirs with one model more."""
    ours = fill_cache(tmp_path_factory.mktemp("ours"))
    theirs = fill_cache(tmp_path_factory.mktemp("theirs"))
    shutil.copytree(theirs / "clip" / CLIP, theirs / "clip" / THEIRS)
    return ours, theirs


@contextmanager
def pair(caches: tuple[Path, Path]) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Ours, which forwards faces and what it does not know, and theirs."""
    with (
        RunningServer(caches[1], MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__DETECTION="buffalo_l") as upstream,
        RunningServer(
            caches[0],
            IMMICH_API=f"http://127.0.0.1:{upstream.port}/",
            MACHINE_LEARNING_FORWARD="facial-recognition",
            MACHINE_LEARNING_FORWARD_TIMEOUT_S=str(TIMEOUT_S),
            MACHINE_LEARNING_PRELOAD__CLIP__VISUAL=CLIP,
        ) as front,
    ):
        yield front, upstream
        assert "Traceback" not in front.log


@pytest.fixture(scope="module")
def both(caches: tuple[Path, Path]) -> Iterator[tuple[RunningServer, RunningServer]]:
    with pair(caches) as both:
        yield both


@pytest.fixture
def front(both: tuple[RunningServer, RunningServer]) -> RunningServer:
    return both[0]


@pytest.fixture
def upstream(both: tuple[RunningServer, RunningServer]) -> RunningServer:
    return both[1]


def tasks_of_models(server: RunningServer) -> set[str]:
    """The tasks of the models that a server has loaded, but for the one that only they have."""
    with server.client() as client:
        return {key.split("/")[0] for key in client.get("/status").json["models"] if THEIRS not in key}


def test_both_answer_one_request(front: RunningServer, upstream: RunningServer) -> None:
    with front.client() as client, upstream.client() as behind:
        reply = client.predict({**OCR_TASK, **FACE_TASK, **VISUAL}, SAMPLE)
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        body = reply.json
        assert sorted(body) == ["clip", "facial-recognition", "imageHeight", "imageWidth", "ocr"]
        alone = behind.predict(FACE_TASK, SAMPLE).json
        assert body["facial-recognition"] == alone["facial-recognition"]
        assert body["facial-recognition"]
        assert body["ocr"]["text"][0] == "山间音乐会"
        assert (body["imageHeight"], body["imageWidth"]) == (alone["imageHeight"], alone["imageWidth"])
        assert client.predict(FACE_TASK, SAMPLE).json == alone
    assert tasks_of_models(front) == {"clip", "ocr"}
    assert tasks_of_models(upstream) == {"facial-recognition"}


def test_a_model_that_only_they_have(front: RunningServer, upstream: RunningServer) -> None:
    with front.client() as client, upstream.client() as behind:
        assert client.predict(TEXTUAL_OF_THEIRS, text="海").json == behind.predict(TEXTUAL_OF_THEIRS, text="海").json
        assert client.predict(VISUAL_OF_THEIRS, SAMPLE).json == behind.predict(VISUAL_OF_THEIRS, SAMPLE).json
        assert client.predict(TEXTUAL, text="海").status == 200


def test_what_nobody_knows_is_their_refusal(front: RunningServer, upstream: RunningServer) -> None:
    name = f"http://127.0.0.1:{upstream.port}"
    with front.client() as client:
        for entries, message in (
            ({"poems": {"writing": {"modelName": "li-bai"}}}, "Unknown task 'poems'"),
            ({"clip": {"audible": {"modelName": CLIP}}}, "Unknown type 'audible'"),
            ({"clip": {"visual": {"modelName": "nobodys"}}}, "Unknown clip model 'nobodys'"),
        ):
            reply = client.predict(entries, SAMPLE)
            assert (reply.status, reply.detail.startswith(f"{name} answered 422: ")) == (502, True)
            assert message in reply.detail


def test_what_is_malformed_is_not_forwarded(front: RunningServer) -> None:
    with front.client() as client:
        assert client.predict({"clip": {"visual": {}}}, SAMPLE).status == 422
        assert client.predict({}, SAMPLE).status == 422
        assert client.predict("nonsense", SAMPLE).status == 422
        assert client.predict(FACE_TASK).detail == "Either image or text must be provided"
        mixed = client.predict({**FACE_TASK, "ocr": {"detection": {"modelName": 1}}}, SAMPLE)
        assert mixed.status == 422


def test_their_death_in_the_middle_is_502_and_ours_go_on(caches: tuple[Path, Path]) -> None:
    """Stopped so that the request is surely in flight, then killed."""
    with (
        pair(caches) as (front, upstream),
        front.client() as client,
        front.client() as waiting,
        ThreadPoolExecutor(1) as pool,
    ):
        name = f"http://127.0.0.1:{upstream.port}"
        assert client.predict(FACE_TASK, SAMPLE).status == 200
        assert client.get("/status").json["upstream"] == {"url": name, "healthy": True}
        upstream.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        forwarded = pool.submit(waiting.predict, {**FACE_TASK, **VISUAL}, SAMPLE)
        assert client.predict(VISUAL, SAMPLE).status == 200
        assert not forwarded.done()
        upstream.process.kill()
        reply = forwarded.result()
        assert time.monotonic() - started < TIMEOUT_S
        assert (reply.status, reply.detail.startswith(name)) == (502, True)
        refused = client.predict(FACE_DETECTION, SAMPLE)
        assert (refused.status, refused.detail.startswith(f"{name} cannot be reached")) == (502, True)
        assert client.predict(VISUAL, SAMPLE).status == 200
        health = client.get("/status").json["upstream"]
        assert (health["url"], health["healthy"], name in health["error"]) == (name, False, True)


def test_their_slowness_is_504(front: RunningServer, upstream: RunningServer) -> None:
    with front.client() as client:
        upstream.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        reply = client.predict({**FACE_TASK, **VISUAL}, SAMPLE)
        assert (reply.status, "did not answer in time" in reply.detail) == (504, True)
        assert TIMEOUT_S - 0.1 < time.monotonic() - started < TIMEOUT_S + 5
        upstream.process.send_signal(signal.SIGCONT)
        assert client.predict(FACE_TASK, SAMPLE).status == 200


def test_a_forwarded_request_is_not_forwarded_again(front: RunningServer) -> None:
    with front.client() as client:
        headers = {"content-type": "multipart/form-data; boundary=----formdata-undici-048941409022", HEADER: "1"}
        reply = client.request("POST", "/predict", predict_form(FACE_TASK, SAMPLE), headers)
        assert (reply.status, "facial-recognition" in reply.detail) == (508, True)
        assert client.request("POST", "/predict", predict_form(VISUAL, SAMPLE), headers).status == 200


def test_a_server_that_forwards_to_itself_says_so(caches: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        RunningServer(caches[0], IMMICH_PORT=str(port), IMMICH_API=f"http://127.0.0.1:{port}") as running,
        running.client() as client,
    ):
        reply = client.predict(VISUAL_OF_THEIRS, SAMPLE)
        assert (reply.status, "does IMMICH_API lead back here?" in reply.detail) == (502, True)


def test_the_start_says_what_is_forwarded(caches: tuple[Path, Path]) -> None:
    with RunningServer(
        caches[0], IMMICH_API="http://user:secret@127.0.0.1:9", MACHINE_LEARNING_FORWARD="ocr, clip"
    ) as running:
        assert "forwarded to http://127.0.0.1:9: what is not served here, and ocr, and clip" in running.log
        with running.client() as client:
            assert client.predict(OCR_TASK, SAMPLE).status == 502
        assert "secret" not in running.log
    with RunningServer(caches[0], MACHINE_LEARNING_FORWARD="ocr") as running, running.client() as client:
        assert "MACHINE_LEARNING_FORWARD does nothing without IMMICH_API" in running.log
        assert "upstream" not in client.get("/status").json
        assert client.predict(OCR_TASK, SAMPLE).status == 200


class Rendezvous:
    """A pipeline and an upstream in one, each of which answers only once the other was asked."""

    def __init__(self) -> None:
        self._asked = asyncio.Barrier(2)

    async def serves(self, tasks: Tasks) -> bool:
        return tasks.ocr is None

    async def predict(self, tasks: Any, image: bytes | None, text: str | None) -> Any:
        await asyncio.wait_for(self._asked.wait(), 10)
        if isinstance(tasks, Tasks):
            return Answer(clip=np.ones(2, np.float32), size=(4, 3))
        return {"ocr": "theirs", "imageHeight": 1, "imageWidth": 1}


@pytest.mark.anyio
async def test_both_are_asked_at_the_same_time() -> None:
    both: Any = Rendezvous()
    body = await Gateway(both, both).answer(json.dumps({**VISUAL, **OCR_TASK}), b"picture", None)
    assert json.loads(body) == {"clip": "[1.0,1.0]", "ocr": "theirs", "imageHeight": 3, "imageWidth": 4}


# --- the client alone, against a stub ---


class Stub:
    """An HTTP server that gives every request the same answer, or none.

    Attributes:
        requests: headers and body of each, as they came.
        connections: how many were opened.
        left: set when a client closed its connection.
    """

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.requests.append(head + await reader.readexactly(int(length or 0)))
                self.arrived.set()
                if self._answer is not None:
                    writer.write(self._answer)
                    await writer.drain()
                if self._answer == b"":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()


def response(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def stubbed(answer: bytes | None, timeout_s: float = 20) -> AsyncIterator[tuple[Stub, Upstream]]:
    stub = Stub(answer)
    server = await asyncio.start_server(stub, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}/ml/", connect_timeout_s=5, timeout_s=timeout_s)
    try:
        yield stub, upstream
    finally:
        await upstream.close()
        server.close()


@pytest.mark.anyio
async def test_the_picture_goes_out_as_immich_sends_it_over_one_connection() -> None:
    async with stubbed(response(200, b'{"ocr":{"text":[]},"imageHeight":2}')) as (stub, upstream):
        image = bytes(range(256)) * 5000
        for _ in range(3):
            assert await upstream.predict(OCR_TASK, image, "ignored") == {"ocr": {"text": []}, "imageHeight": 2}
        assert stub.connections == 1
        head, _, body = stub.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /ml/predict HTTP/1.1\r\n")
        assert HEADER.encode() in head.lower()
        assert b"transfer-encoding" not in head.lower()
        assert b'name="image"; filename="blob"\r\n' in body
        assert image in body
        assert json.dumps(OCR_TASK, separators=(",", ":")).encode() in body
        assert b'name="text"' not in body


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response(200, b"<html>"), "no JSON object"),
        (response(200, b"[]"), "no JSON object"),
        (response(200, b'{"clip":"[]"}'), "left out ocr"),
        (response(500, b"Internal Server Error"), "answered 500: Internal Server Error"),
        (response(503, b'{"detail":"still\\n loading"}'), "answered 503: still loading"),
        (response(400, b"x" * 1000), "answered 400: " + "x" * 300 + "…"),
        (response(302, b""), "answered 302"),
        (b"nonsense\r\n\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "did not answer in time"),
        (None, "did not answer in time"),
    ],
)
async def test_a_bad_answer_is_a_failure_that_names_them(answer: bytes | None, message: str) -> None:
    async with stubbed(answer, timeout_s=0.5) as (_, upstream):
        with pytest.raises(ServiceError) as caught:
            await upstream.predict(OCR_TASK, b"picture", None)
        assert type(caught.value) is (UpstreamTimeout if "in time" in message else UpstreamFailed)
        assert str(caught.value).startswith(f"{upstream.name} ")
        assert message in str(caught.value)


@pytest.mark.anyio
async def test_who_leaves_takes_the_forwarded_request_along() -> None:
    async with stubbed(None) as (stub, upstream):
        waiting = asyncio.create_task(upstream.predict(OCR_TASK, b"picture", None))
        await asyncio.wait_for(stub.arrived.wait(), 10)
        waiting.cancel()
        await asyncio.wait_for(stub.left.wait(), 10)
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize(
    ("url", "expected"),
    [("http://a:1", "http://a:1"), ("https://u:p@a/key/secret", "https://a"), ("http://[::1]:3", "http://[::1]:3")],
)
def test_a_password_or_key_is_not_shown(url: str, expected: str) -> None:
    assert redact_url(url) == expected


def read(environ: Mapping[str, str]) -> Any:
    from immich_ml_cn.settings import Settings

    return Settings.from_env(environ)


@pytest.mark.parametrize("url", ["host:3003", "ftp://host", "http://", "http://host:x", "http://host/?a=1", "3003"])
def test_an_address_that_cannot_be_one(url: str) -> None:
    with pytest.raises(ValueError, match="an address such as http://host:3003"):
        read({"IMMICH_API": url})


def test_a_task_that_cannot_be_forwarded() -> None:
    with pytest.raises(ValueError, match="clip, facial-recognition, ocr"):
        read({"MACHINE_LEARNING_FORWARD": "faces"})


@pytest.mark.parametrize(
    ("environ", "provider"),
    [
        ({}, "auto"),
        ({"DEVICE": "cuda"}, "cuda"),
        ({"DEVICE": "CPU"}, "cpu"),
        ({"DEVICE": "cuda:0"}, "cuda"),
        ({"DEVICE": "openvino"}, "auto"),
        ({"DEVICE": "cuda", "MACHINE_LEARNING_PROVIDER": "cpu"}, "cpu"),
        ({"DEVICE": "cuda", "MACHINE_LEARNING_PROVIDER": "auto"}, "auto"),
    ],
)
def test_device_says_what_the_provider_does_not(environ: Mapping[str, str], provider: str) -> None:
    assert read(environ).provider == provider
