"""The corpus of bad input against the real server: an answer for each, never a 500, nothing left behind."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import corpus
import pytest
from picture_files import encoded, gradient
from server import (
    CLIP,
    FACES,
    OCR,
    ROOT,
    TEXTUAL,
    VISUAL,
    Client,
    RunningServer,
    fill_cache,
    http_request,
    predict_form,
)

ALL_TASKS = {
    "clip": {"visual": {"modelName": CLIP}},
    "facial-recognition": {"detection": {"modelName": FACES}, "recognition": {"modelName": FACES}},
    "ocr": {"detection": {"modelName": OCR, "options": {"maxResolution": 64}}},
}
SMALL = encoded(gradient())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    cache = fill_cache(tmp_path_factory.mktemp("cache"))
    with RunningServer(cache, MACHINE_LEARNING_RECEIVE_TIMEOUT="2") as running:
        with running.client() as warm:
            assert warm.predict(ALL_TASKS, SMALL).status == 200
        before = running.resident_mb
        yield running
        assert "Traceback" not in running.log
        assert "ERROR" not in running.log
        assert running.resident_mb < before + 400, "a decoded bomb may be 13,000 x 13,000 pixels for a moment"
        assert running.stop() == 0


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with server.client() as connected:
        yield connected
        assert connected.get("/ping").body == b"pong"


def test_every_format_and_mode_is_answered(client: Client) -> None:
    """What Pillow reads is answered with 200, and what it does not read with 400: PDF, and EPS, which we do not run."""
    for name, data in corpus.valid_pictures():
        reply = client.predict(ALL_TASKS, data)
        assert reply.status == (400 if name.startswith(("PDF", "EPS")) else 200), f"{name}: {reply.body[:200]!r}"


def test_no_broken_picture_is_a_failure_of_ours(client: Client) -> None:
    statuses = {}
    for name, data in corpus.broken_pictures():
        reply = client.predict(VISUAL, data)
        assert reply.status in (200, 400, 413), f"{name}: {reply.status} {reply.body[:200]!r}"
        statuses[name] = reply.status
    assert len(statuses) > 250
    assert set(statuses.values()) == {200, 400, 413}


def test_no_strange_entries_are_a_failure_of_ours(client: Client) -> None:
    for name, text in corpus.strange_entries():
        reply = client.predict(text, SMALL)
        assert reply.status in (200, 400, 413, 422), f"{name}: {reply.status} {reply.body[:200]!r}"
        assert reply.status != 200 or "minScore" in name or "maxResolution" in name, name


def test_no_broken_form_is_a_failure_of_ours(client: Client) -> None:
    for name, body, content_type in corpus.strange_forms():
        reply = client.post(body, content_type)
        assert reply.status in (400, 413, 422), f"{name}: {reply.status} {reply.body[:200]!r}"


def test_no_strange_query_is_a_failure_of_ours(client: Client) -> None:
    for text in corpus.STRANGE_TEXTS:
        assert client.predict(TEXTUAL, text=text).status == 200, text


@pytest.mark.parametrize("where", [("clip", "visual"), ("facial-recognition", "detection"), ("ocr", "detection")])
def test_a_strange_model_name_is_unknown(client: Client, where: tuple[str, str]) -> None:
    task, kind = where
    for name in corpus.STRANGE_NAMES:
        entries = json.dumps({task: {kind: {"modelName": name}}})
        reply = client.predict(entries, SMALL)
        if task == "clip" and name.endswith(f"/{CLIP}"):
            assert reply.status == 200, "the last part of a path is the name, as in Immich"
            continue
        assert reply.status == 422, f"{name[:60]!r}: {reply.status} {reply.body[:200]!r}"
        assert len(reply.body) < 3000, "the answer does not give ten thousand characters back"


WATCHED = """
import json, os, sys
sys.path[:0] = [os.getcwd(), os.path.join(os.getcwd(), "tests")]
import asyncio, corpus
from pathlib import Path
from immich_ml_cn.serving.catalogue import Catalogue
from immich_ml_cn.store.downloader import Downloader
from immich_ml_cn.errors import ServiceError
from immich_ml_cn.settings import Settings
touched = []
PATHS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.symlink"}
def hook(event, args):
    if event in PATHS and watching:
        touched.append([event, str(args[0])])
watching = False
sys.addaudithook(hook)
cache = Path(sys.argv[1])
settings = Settings(cache_folder=cache, hf_hub_offline=True)
catalogue = Catalogue(settings, Downloader(settings), on_gpu=False)
finders = (catalogue.visual, catalogue.textual, catalogue.face_detector, catalogue.face_recognizer,
           catalogue.text_detector, catalogue.text_recognizer)
def ask(find, name):
    try:
        spec = find(name)
        spec.build(lambda graph: (_ for _ in ()).throw(OSError(str(graph))))
    except (ServiceError, OSError) as error:
        return type(error).__name__
    return "served"
for find in finders:  # what a first look imports
    for name in (*("no-such-model", "buffalo_l", "PP-OCRv5_mobile", "PP-OCRv6_small"), corpus.CLIP):
        ask(find, name)
watching = True
answers = {name[:50]: [ask(find, name) for find in finders] for name in sys.argv[2:] or corpus.STRANGE_NAMES}
watching = False
print(json.dumps({"touched": touched, "answers": answers}))
"""


def watched(cache: Path, *names: str) -> dict[str, list[list[str]]]:
    answer = subprocess.run(
        [sys.executable, "-c", WATCHED, str(cache), *names],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, list[list[str]]] = json.loads(answer.stdout.splitlines()[-1])
    return found


def test_strange_model_names_touch_no_file_outside_the_cache(tmp_path: Path) -> None:
    """Python tells of every file that is opened, listed, made, renamed or removed."""
    cache = fill_cache(tmp_path / "cache")
    (tmp_path / "secret").mkdir()
    touched = watched(cache)["touched"]
    outside = [(event, path) for event, path in touched if not Path(path).is_relative_to(cache)]
    assert not outside


def test_the_watch_sees_what_a_known_model_touches(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    cache = fill_cache(tmp_path / "cache")
    touched = watched(cache, CLIP)["touched"]
    assert any(Path(path).is_relative_to(cache) for _, path in touched)


# --- the connection ---


def test_pipelined_requests_are_answered_in_order(server: RunningServer) -> None:
    one, two = http_request(predict_form(VISUAL, SMALL)), http_request(predict_form(VISUAL, b"broken"))
    with server.connect(timeout=20) as connection:
        connection.sendall(one + two + b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = _read_all(connection)
    statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert statuses == [b"200", b"400", b"200"]
    assert answer.endswith(b"pong")


@pytest.mark.parametrize("case", corpus.STRANGE_SOCKETS)
def test_nonsense_on_the_socket_is_refused_or_closed(server: RunningServer, client: Client, case: str) -> None:
    with server.connect(timeout=20) as connection:
        connection.sendall(corpus.STRANGE_SOCKETS[case])
        connection.shutdown(socket.SHUT_WR)
        answer = _read_all(connection)
    statuses = {line.split()[1][:1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}
    assert statuses <= {b"2", b"4"}, answer[:300]
    assert client.get("/ping").body == b"pong"


def _read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received
