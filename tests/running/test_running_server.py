"""The real server in a process of its own, over real sockets, with the bodies that Immich's server sends."""

import contextlib
import io
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import clip_models
import numpy as np
import pytest
from face_models import photo
from picture_files import encoded
from PIL import Image
from server import (
    CLIP,
    CONTENT_TYPE,
    FACE_DETECTION,
    FACE_TASK,
    FACES,
    OCR,
    OCR_TASK,
    ROOT,
    SMALL,
    TEXTUAL,
    VISUAL,
    Client,
    Reply,
    RunningServer,
    assert_equal_answers,
    fill_cache,
    http_request,
    node_form,
    predict_form,
    wait_until,
)

SAMPLE = (ROOT / "docs" / "sample.jpg").read_bytes()
SAMPLE_TEXT = (
    "山间音乐会",
    "Concert in the Hills",
    "2026年5月1日晚上七点半",
    "Friday, May 1st, 7:30 pm",
    "杭州西湖露天剧场",
    "Free entry·免费入场",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill_cache(tmp_path_factory.mktemp("cache"))
    # Under a listed name of 512, a model that gives 32.
    wrong = folder / "clip" / "ViT-B-16__laion400m_e32"
    clip_models.save_visual(wrong / "visual" / "model.onnx")
    clip_models.save_preprocessing(wrong, size=32, mean=[0, 0, 0], std=[1, 1, 1])
    damaged = folder / "facial-recognition" / "damaged" / "detection" / "model.onnx"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a graph")
    return folder


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    return {"MACHINE_LEARNING_MAX_REQUEST_BYTES": str(2 << 20), "MACHINE_LEARNING_MAX_IMAGE_PIXELS": "4000000"}


# --- routes ---


def test_root_and_ping(client: Client) -> None:
    root = client.get("/")
    assert (root.status, root.body, root.headers["content-type"]) == (
        200,
        b'{"message":"Immich ML"}',
        "application/json",
    )
    ping = client.get("/ping")
    assert (ping.status, ping.body, ping.headers["content-type"]) == (200, b"pong", "text/plain; charset=utf-8")
    for path in ("/", "/ping"):
        head = client.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")
    assert "server" not in ping.headers


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/ping"), ("PUT", "/"), ("GET", "/predict"), ("PUT", "/predict")]
)
def test_another_method_is_405(client: Client, method: str, path: str) -> None:
    reply = client.request(method, path)
    assert (reply.status, reply.detail) == (405, "Method Not Allowed")


def test_an_unknown_path_is_404(client: Client) -> None:
    assert client.get("/nothing").status == 404
    assert client.get("/nothing").detail == "Not Found"
    assert client.post(b"", path="/predict/x").status == 404


def test_a_slash_at_the_end_is_307(client: Client, server: RunningServer) -> None:
    reply = client.get("/ping/")
    assert (reply.status, reply.headers["location"]) == (307, f"http://127.0.0.1:{server.port}/ping")


def test_a_connection_is_kept_alive_over_answers_and_refusals(client: Client) -> None:
    ports = set()
    for entries in (VISUAL, {}, VISUAL, {"x": 1}):
        client.predict(entries, SMALL)
        ports.add(client.local_port)
        client.get("/ping")
        ports.add(client.local_port)
    assert len(ports) == 1
    assert None not in ports


def test_a_sub_path(cache: Path) -> None:
    """A reverse proxy may pass the sub-path on, or strip it: both arrive."""
    with RunningServer(cache, MACHINE_LEARNING_ROOT_PATH="/ai/ml/") as running, running.client() as client:
        for prefix in ("", "/ai/ml"):
            assert client.get(f"{prefix}/ping").body == b"pong"
            assert client.get(f"{prefix}/").json == {"message": "Immich ML"}
            assert client.post(predict_form(VISUAL, SMALL), path=f"{prefix}/predict").status == 200
            refused = client.post(predict_form({}, SMALL), path=f"{prefix}/predict")
            assert (refused.status, refused.detail) == (422, "No model task requested.")
        assert client.get("/ai/ping").status == 404


# --- answers ---


def test_ocr_reads_the_sample(client: Client) -> None:
    reply = client.predict(OCR_TASK, SAMPLE)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    width, height = Image.open(io.BytesIO(SAMPLE)).size
    body = reply.json
    assert list(body) == ["ocr", "imageHeight", "imageWidth"]
    assert (body["imageHeight"], body["imageWidth"]) == (height, width)
    ocr = body["ocr"]
    assert tuple(ocr["text"]) == SAMPLE_TEXT
    assert "山间音乐会".encode() in reply.body
    assert len(ocr["box"]) == 8 * len(SAMPLE_TEXT)
    assert all(0 <= value <= 1 for value in ocr["box"])
    assert all(0.5 <= score <= 1 for score in ocr["boxScore"])
    assert all(0.8 <= score <= 1 for score in ocr["textScore"])
    tops = ocr["box"][1::8]
    assert tops == sorted(tops)


def test_a_missing_ocr_model_is_answered_by_the_one_that_is_here(client: Client, server: RunningServer) -> None:
    entries = json.loads(json.dumps(OCR_TASK).replace(OCR, "PP-OCRv5_mobile"))
    assert tuple(client.predict(entries, SAMPLE).json["ocr"]["text"]) == SAMPLE_TEXT
    assert re.search(r"WARNING .*ocr/PP-OCRv5_mobile/recognition.*PP-OCRv6_small", server.log)


def test_three_tasks_on_one_picture(client: Client) -> None:
    reply = client.predict({**OCR_TASK, **FACE_TASK, **VISUAL}, SAMPLE)
    assert reply.status == 200
    body = reply.json
    assert set(body) == {"clip", "facial-recognition", "ocr", "imageHeight", "imageWidth"}
    assert tuple(body["ocr"]["text"]) == SAMPLE_TEXT
    vector = np.array(json.loads(body["clip"]))
    assert vector.shape == (512,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    faces = body["facial-recognition"]
    assert faces
    for face in faces:
        assert list(face) == ["boundingBox", "embedding", "score"]
        assert list(face["boundingBox"]) == ["x1", "y1", "x2", "y2"]
        assert all(isinstance(value, float) and value.is_integer() for value in face["boundingBox"].values())
        assert len(json.loads(face["embedding"])) == 512
    scores = [face["score"] for face in faces]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0.7
    alone = [client.predict(task, SAMPLE).json for task in (VISUAL, FACE_TASK, OCR_TASK)]
    assert_equal_answers(body, {**alone[0], **alone[1], **alone[2]})


def test_text_embedding(client: Client) -> None:
    reply = client.predict(TEXTUAL, text="海边的日落")
    assert reply.status == 200
    assert list(reply.json) == ["clip"]
    assert len(json.loads(reply.json["clip"])) == 512
    assert client.predict(TEXTUAL, text="  ").status == 200


def test_detection_alone(client: Client) -> None:
    faces = client.predict(FACE_DETECTION, SAMPLE).json["facial-recognition"]
    assert list(faces) == ["boxes", "scores", "landmarks"]
    assert len(faces["boxes"][0]) == 4
    assert np.shape(faces["landmarks"][0]) == (5, 2)
    lines = client.predict({"ocr": {"detection": OCR_TASK["ocr"]["detection"]}}, SAMPLE).json["ocr"]
    assert list(lines) == ["boxes", "scores"]
    assert np.shape(lines["boxes"]) == (len(SAMPLE_TEXT), 4, 2)


def test_options_are_of_one_request(client: Client) -> None:
    def count(score: float) -> int:
        entry = {"modelName": FACES, "options": {"minScore": score, "nobody": "knows"}}
        return len(
            client.predict({"facial-recognition": {"detection": entry}}, SAMPLE).json["facial-recognition"]["boxes"]
        )

    counts = [count(score) for score in (0.7, 0.9, 0.7, 1.1, 0.9)]
    assert counts[0] == counts[2] > counts[1] == counts[4] > counts[3] == 0


def test_model_names_as_people_write_them(client: Client) -> None:
    expected = client.predict(VISUAL, SMALL).json
    for name in (f"immich-app/{CLIP}", CLIP.replace("__", "::")):
        assert client.predict({"clip": {"visual": {"modelName": name}}}, SMALL).json == expected


def test_unknown_fields_are_ignored_and_the_last_duplicate_wins(client: Client) -> None:
    fields: list[tuple[str, str | bytes]] = [
        ("new", "1"),
        ("image", b"broken"),
        ("entries", "broken"),
        ("blob", b"1"),
        ("entries", json.dumps(VISUAL)),
        ("image", SMALL),
    ]
    assert client.post(node_form(*fields)).json == client.predict(VISUAL, SMALL).json


def test_an_image_wins_over_a_text(client: Client) -> None:
    assert client.predict(VISUAL, SMALL, "cat").json == client.predict(VISUAL, SMALL).json


def test_urlencoded_text(client: Client) -> None:
    from urllib.parse import urlencode

    body = urlencode({"entries": json.dumps(TEXTUAL), "text": "猫 +&="}).encode()
    assert client.post(body, "application/x-www-form-urlencoded").json == client.predict(TEXTUAL, text="猫 +&=").json


def test_a_chunked_body(client: Client) -> None:
    body = predict_form(VISUAL, SMALL)
    pieces = [body[i : i + 7] for i in range(0, len(body), 7)]
    assert client.post(iter(pieces)).json == client.predict(VISUAL, SMALL).json


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (31, 31)])
def test_odd_sizes(client: Client, size: tuple[int, int]) -> None:
    reply = client.predict({**VISUAL, **FACE_TASK, **OCR_TASK}, encoded(Image.new("RGB", size)))
    assert reply.status == 200
    assert reply.json["ocr"] == {"box": [], "text": [], "boxScore": [], "textScore": []}
    assert (reply.json["imageWidth"], reply.json["imageHeight"]) == size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B"])
def test_every_mode(client: Client, mode: str) -> None:
    image = Image.new(mode, (40, 30))
    reply = client.predict({**VISUAL, **FACE_TASK, **OCR_TASK}, encoded(image, "TIFF"))
    assert reply.status == 200, reply.body


# --- refusals: each row of the protocol's table, in the form of Immich 3.3 ---


def entry(name: str, kind: str = "visual", task: str = "clip") -> dict[str, Any]:
    return {task: {kind: {"modelName": name}}}


def form(entries: Any, image: bytes | None = SMALL, text: str | None = None) -> Callable[[Client], Reply]:
    return lambda client: client.predict(entries, image, text)


def raw(body: bytes, content_type: str = CONTENT_TYPE) -> Callable[[Client], Reply]:
    return lambda client: client.post(body, content_type)


WHOLE = predict_form(VISUAL, SMALL)
RECOGNITION = {"ocr": {"recognition": {"modelName": OCR}}}
NO_IMAGE = "Either image or text must be provided"
REFUSALS: dict[str, tuple[Callable[[Client], Reply], int, str]] = {
    "neither": (form(VISUAL, None), 400, NO_IMAGE),
    "empty text": (form(TEXTUAL, None, ""), 400, NO_IMAGE),
    "text for an image model": (form(VISUAL, None, "cat"), 400, "image"),
    "image for a text model": (form(TEXTUAL), 400, "text"),
    "no entries": (raw(node_form(("image", SMALL))), 422, "Field required: `entries`"),
    "empty entries": (form(""), 422, "Field required: `entries`"),
    "json body": (raw(b'{"entries": {}}', "application/json"), 422, "Field required: `entries`"),
    "no body": (raw(b"", ""), 422, "Field required: `entries`"),
    "entries no json": (form("nonsense"), 422, "Invalid request format."),
    "entries list": (form([]), 422, "Invalid request format."),
    "entries null": (form("null"), 422, "Invalid request format."),
    "task null": (form({"clip": None}), 422, "Invalid request format."),
    "no model name": (form({"clip": {"visual": {}}}), 422, "Invalid request format."),
    "model name int": (form({"clip": {"visual": {"modelName": 1}}}), 422, "Invalid request format."),
    "model name empty": (form(entry("")), 422, "Invalid request format."),
    "entry string": (form({"clip": {"visual": "m"}}), 422, "Invalid request format."),
    "options null": (form({"clip": {"visual": {"modelName": CLIP, "options": None}}}), 422, "Invalid request format."),
    "extra key": (form({"clip": {"visual": {"modelName": CLIP, "x": 1}}}), 422, "Unknown key 'x'"),
    "unknown task": (form({"search": {}}), 422, "Unknown task 'search'"),
    "unknown type": (form(entry(CLIP, "recognition")), 422, "Unknown type 'recognition'"),
    "unknown model": (form(entry("ViT-X")), 422, "Unknown clip model 'ViT-X'. Known are: chinese-clip-rn50, "),
    "model of another task": (form(entry(FACES)), 422, "Unknown clip model 'buffalo_l'"),
    "unknown face model": (
        form(entry("x", "detection", "facial-recognition")),
        422,
        "Known are: antelopev2, buffalo_s",
    ),
    "unknown ocr model": (form(entry("PP-OCRv9", "detection", "ocr")), 422, "PP-OCRv6_small"),
    "path as model": (form(entry("../../etc")), 422, "Unknown clip model '../../etc'"),
    "zero byte in model": (form(entry("a\0b")), 422, "Unknown clip model 'a\\x00b'"),
    "long model": (form(entry("x" * 10_000)), 422, "Unknown clip model 'xxxx"),
    "long chinese model": (form(entry("模" * 100)), 422, "Unknown clip model '模模"),
    "recognition alone": (form(RECOGNITION), 400, "Task ocr of type recognition depends on output of detection"),
    "no task": (form({}), 422, "No model task requested."),
    "empty task": (form({"clip": {}}), 422, "No model task requested."),
    "empty image": (form(VISUAL, b""), 400, "the image is empty (0 bytes)"),
    "no image": (form(VISUAL, b"hello"), 400, "the image is of no format this server can read"),
    "truncated image": (form(VISUAL, SAMPLE[:30_000]), 400, "the image cannot be decoded: "),
    "too many pixels": (form(VISUAL, encoded(Image.new("1", (2001, 2000)))), 413, "2001 x 2000 pixels"),
    "entries as file": (
        raw(node_form(("entries", b"{}"), ("image", SMALL))),
        422,
        "`entries` must be a plain form field",
    ),
    "text as file": (raw(node_form(("entries", json.dumps(TEXTUAL)), ("text", b"cat"))), 422, "`text` must be a plain"),
    "no boundary": (raw(WHOLE, "multipart/form-data"), 400, "Missing boundary in multipart."),
    "broken form": (raw(WHOLE.replace(b"Disposition:", b"Disposition")), 400, "There was an error parsing the body"),
    "cut form": (raw(WHOLE[:-30]), 400, "There was an error parsing the body"),
    "too many fields": (raw(node_form(*[("x", "")] * 101)), 413, "more than 100 fields"),
    "body too large": (raw(b"x" * ((2 << 20) + 1)), 413, "2097153 bytes, more than the 2097152 allowed"),
    "missing model": (form(entry("RN50__openai")), 503, "clip/chinese-clip-rn50/visual"),
    "damaged model": (form(entry("damaged", "detection", "facial-recognition")), 503, "damaged"),
    "wrong dimension": (form(entry("ViT-B-16__laion400m_e32")), 503, "Immich expects 512 numbers"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_a_detail_and_one_log_line(server: RunningServer, client: Client, case: str) -> None:
    ask, status, message = REFUSALS[case]
    before = len(server.log)
    reply = ask(client)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert message in reply.detail
    assert client.get("/ping").body == b"pong"
    log = server.log[before:]
    (line,) = [line for line in log.splitlines() if "/predict" in line]
    assert re.search(rf"WARNING  POST /predict → {status} .", line)
    assert "Traceback" not in log
    if status == 503:
        assert 1 <= int(reply.headers.get("retry-after", "1")) <= 60


def test_a_chunked_body_over_the_limit_is_413(client: Client) -> None:
    """Without a Content-Length the server has to count."""
    reply = client.post(iter([b"--x\r\n"] + [b"x" * 65536] * 33))
    assert reply.status in (400, 413)
    body = node_form(("image", b"x" * (2 << 20)))
    reply = client.post(iter([body[i : i + 65536] for i in range(0, len(body), 65536)]))
    assert (reply.status, reply.detail) == (413, "the request body has more than the 2097152 bytes allowed")


def test_requests_beyond_the_limit_are_503(cache: Path) -> None:
    with RunningServer(cache, MACHINE_LEARNING_MAX_QUEUE="1") as running, running.client() as client:
        with running.connect() as half:
            half.sendall(http_request(WHOLE)[:-10])
            deadline = time.monotonic() + 10
            while (reply := client.predict(VISUAL, SMALL)).status != 503:
                assert time.monotonic() < deadline
            assert reply.headers["retry-after"] == "10"
            assert client.get("/ping").status == 200
        while client.predict(VISUAL, SMALL).status != 200:
            assert time.monotonic() < deadline


# --- bad clients ---


def test_nonsense_on_the_socket(server: RunningServer, client: Client) -> None:
    with server.connect() as bare:
        bare.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        assert bare.recv(1000).startswith(b"HTTP/1.1 400")
    assert client.get("/ping").status == 200


def test_a_half_sent_request_holds_nobody_up(server: RunningServer, client: Client) -> None:
    with server.connect() as slow:
        request = http_request(WHOLE)
        slow.sendall(request[:200])
        assert client.predict(VISUAL, SMALL).status == 200
        slow.sendall(request[200:])
        assert slow.recv(100).startswith(b"HTTP/1.1 200")


def test_a_request_byte_by_byte(server: RunningServer) -> None:
    with server.connect() as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in http_request(predict_form(TEXTUAL, text="cat")):
            slow.send(bytes([byte]))
        assert slow.recv(100).startswith(b"HTTP/1.1 200")


def pictures_searched_for_text(client: Client) -> float:
    """The pictures in all batches of the text detector."""
    sums = re.findall(
        r'^immich_ml_batch_size_sum\{model="ocr/.*/detection.*"\} (.*)$', client.get("/metrics").body.decode(), re.M
    )
    return sum(map(float, sums))


def test_clients_that_leave_are_forgotten(server: RunningServer, client: Client) -> None:
    """Whether they leave in the middle of sending or while they wait: the server goes on, and holds nothing of them."""
    client.predict(OCR_TASK, SAMPLE)
    files, searched = server.open_files, pictures_searched_for_text(client)
    request = http_request(predict_form(OCR_TASK, SAMPLE))
    for number in range(24):
        with server.connect() as leaving:
            leaving.sendall(request if number % 2 else request[: len(request) // 2])
            if number % 4 < 2:
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
    assert tuple(client.predict(OCR_TASK, SAMPLE).json["ocr"]["text"]) == SAMPLE_TEXT
    assert pictures_searched_for_text(client) - searched <= 6, "the server worked for the twelve who had left"
    wait_until(lambda: server.open_files <= files, "open files are left")
    assert "Traceback" not in server.log


# --- many at once ---


class Case(NamedTuple):
    """One kind of request: how to ask, and what comes back."""

    body: bytes
    status: int
    answer: Any


def picture(seed: int) -> bytes:
    """A small photo, a different one for each seed."""
    names = ("astronaut", "chelsea", "coffee", "rocket")
    image = photo(names[seed % 4]).image
    left = 10 * seed
    return encoded(image.crop((left, 20, left + 160, 140)), "JPEG" if seed % 2 else "PNG")


def mixed_cases(client: Client) -> tuple[list[Case], list[Case]]:
    """Good and broken requests of all kinds, with the answers that a quiet server gives, one at a time."""
    good = [predict_form(TEXTUAL, text=text) for text in ("cat", "海边的日落", "a photo of the beach at sunset")]
    good += [predict_form(VISUAL, picture(seed)) for seed in range(5)]
    strict = {"detection": {"modelName": FACES, "options": {"minScore": 0.9}}, "recognition": {"modelName": FACES}}
    good += [predict_form({"facial-recognition": strict}, picture(seed)) for seed in range(3)]
    lines = Image.open(io.BytesIO(SAMPLE)).convert("RGB")
    width, height = lines.size
    good += [
        predict_form(OCR_TASK, encoded(lines.crop((0, top, width, top + height // 3)).resize((400, 180))))
        for top in (0, height // 3)
    ]
    good.append(predict_form({**VISUAL, "facial-recognition": strict}, picture(5)))
    bad = [
        predict_form({}, SMALL),
        predict_form(entry("nobody"), SMALL),
        predict_form(VISUAL, SAMPLE[:5000]),
        predict_form(VISUAL),
        WHOLE[:-30],
    ]
    replies = [client.post(body) for body in good]
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == len(replies), "the answers must tell the requests apart"
    refusals = [client.post(body) for body in bad]
    assert all(400 <= reply.status < 500 for reply in refusals)
    return (
        [Case(body, 200, reply.json) for body, reply in zip(good, replies, strict=True)],
        [Case(body, reply.status, reply.json) for body, reply in zip(bad, refusals, strict=True)],
    )


def ask_all(server: RunningServer, cases: list[Case], clients: int = 8) -> None:
    """Ask everything from several connections at once and compare each answer."""
    queue = iter(cases)
    lock = threading.Lock()

    def work() -> int:
        asked = 0
        with server.client() as client:
            while True:
                with lock:
                    case = next(queue, None)
                if case is None:
                    return asked
                reply = client.post(case.body)
                assert reply.status == case.status, reply.body
                assert_equal_answers(reply.json, case.answer)
                asked += 1

    with ThreadPoolExecutor(clients) as pool:
        assert sum(future.result() for future in [pool.submit(work) for _ in range(clients)]) == len(cases)


def shuffled(good: list[Case], bad: list[Case], count: int, seed: int) -> list[Case]:
    """`count` requests, a tenth of them broken, in random order."""
    random.seed(seed)
    cases = [random.choice(bad if number % 10 == 0 else good) for number in range(count)]
    random.shuffle(cases)
    return cases


def test_200_mixed_requests_from_8_clients_a_tenth_of_them_broken(server: RunningServer, client: Client) -> None:
    good, bad = mixed_cases(client)
    ask_all(server, shuffled(good, bad, 200, seed=1))
    assert "Traceback" not in server.log


def growth(cache: Path, warm_up: int, count: int) -> tuple[float, float]:
    """The most resident MB up to the end of the warm-up, and up to the end of `count` more mixed requests.

    Not those of one moment: a server that was quiet for a while has just given its free memory back.
    """
    with RunningServer(cache) as running, running.client() as client:
        good, bad = mixed_cases(client)
        ask_all(running, shuffled(good, bad, warm_up, seed=2))
        before = running.peak_resident_mb
        ask_all(running, shuffled(good, bad, count, seed=3))
        return before, running.peak_resident_mb


def test_memory_stays_flat(cache: Path) -> None:
    before, after = growth(cache, warm_up=60, count=120)
    assert after < before + 60, f"{before:.0f} MB before, {after:.0f} MB after"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_stays_flat_over_2000_requests(cache: Path) -> None:
    before, after = growth(cache, warm_up=1000, count=2000)
    print(f"{before:.0f} MB after 1,000 requests, {after:.0f} MB after 3,000")
    assert after < before + 25, f"{before:.0f} MB before, {after:.0f} MB after"


# --- the end ---


def test_sigterm_under_load_answers_every_request(cache: Path) -> None:
    """What was sent before the signal is answered, the process ends by itself, and with 0."""
    with RunningServer(cache, MACHINE_LEARNING_SHUTDOWN_TIMEOUT_S="120") as running:
        with running.client() as client:
            assert client.predict(OCR_TASK, SAMPLE).status == 200
        connections = [running.connect() for _ in range(3)]
        for connection in connections:
            connection.sendall(http_request(predict_form(OCR_TASK, SAMPLE)))
        time.sleep(0.3)
        running.terminate()
        replies = [_read_all(connection) for connection in connections]
        assert running.wait() == 0
        for reply in replies:
            assert reply.startswith(b"HTTP/1.1 200")
            assert "免费入场".encode() in reply
        with pytest.raises(OSError, match="refused"):
            running.connect()
        assert "stopped" in running.log
        assert "Traceback" not in running.log


def _read_all(connection: socket.socket) -> bytes:
    with connection:
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_an_idle_server_ends_at_once_with_0(cache: Path, signal: str) -> None:
    import signal as signals

    with RunningServer(cache) as running, running.client() as client:
        client.get("/ping")
        started = time.monotonic()
        running.process.send_signal(getattr(signals, signal))
        assert running.wait() == 0
        assert time.monotonic() - started < 5


def test_a_client_that_never_finishes_does_not_hold_up_the_end_for_ever(cache: Path) -> None:
    with RunningServer(cache, MACHINE_LEARNING_SHUTDOWN_TIMEOUT_S="1") as running, running.connect() as half:
        half.sendall(http_request(WHOLE)[:300])
        time.sleep(0.2)
        started = time.monotonic()
        running.terminate()
        assert b"503 Service Unavailable" in _read_all(half)
        assert running.wait() == 0
        assert time.monotonic() - started < 8
        assert "Traceback" not in running.log


# --- the start ---


def test_what_the_last_run_used_is_loaded_before_it_is_asked_for_and_unloaded_as_usual(
    cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(cache / "clip", tmp_path / "clip")
    with RunningServer(tmp_path) as first, first.client() as client:
        assert client.predict(TEXTUAL, text="海边的日落").status == 200
        assert first.stop() == 0
    short = {"MACHINE_LEARNING_MODEL_TTL": "1", "MACHINE_LEARNING_MODEL_TTL_POLL_S": "0.2"}
    with RunningServer(tmp_path, **short) as second:
        log = second.wait_for_log(f"unloaded clip/{CLIP}/textual")
        assert log.index("listening on") < log.index(f"loaded clip/{CLIP}/textual")
        assert f"loaded clip/{CLIP}/visual" not in log
    with RunningServer(tmp_path, MACHINE_LEARNING_WARM_START="false") as cold:
        with cold.client() as client:
            client.get("/ping")
        time.sleep(1)
        assert "loading" not in cold.log
        assert not maps_library(cold, "onnxruntime")


def test_libraries_are_imported_once_the_port_is_open(tmp_path: Path) -> None:
    with RunningServer(tmp_path) as server:
        wait_until(lambda: maps_library(server, "onnxruntime") and maps_library(server, "cv2"))


def maps_library(server: RunningServer, name: str) -> bool:
    return f"/{name}/" in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_preloaded_models_are_there_before_the_port_opens(cache: Path) -> None:
    environ = {"MACHINE_LEARNING_PRELOAD__CLIP": CLIP, "MACHINE_LEARNING_PRELOAD__OCR__DETECTION": OCR}
    with RunningServer(cache, **environ) as running, running.client() as client:
        started = running.log.split("listening on")[0]
        for model in (f"clip/{CLIP}/visual", f"clip/{CLIP}/textual", f"ocr/{OCR}/detection"):
            assert f"loaded {model}" in started
        client.predict(VISUAL, SMALL)
        assert running.log.count(f"loaded clip/{CLIP}/visual") == 1


def test_a_name_nobody_knows_among_the_preloaded_is_logged_and_left(cache: Path) -> None:
    environ = {"MACHINE_LEARNING_PRELOAD__CLIP__VISUAL": f"nonsense,{CLIP}"}
    with RunningServer(cache, **environ) as running, running.client() as client:
        assert "nonsense" in running.log
        assert "Traceback" not in running.log
        assert f"loaded clip/{CLIP}/visual" in running.log
        assert client.get("/ping").status == 200


def test_an_idle_model_is_unloaded_and_comes_back(cache: Path) -> None:
    environ = {"MACHINE_LEARNING_MODEL_TTL": "0.3", "MACHINE_LEARNING_MODEL_TTL_POLL_S": "0.1"}
    with RunningServer(cache, **environ) as running, running.client() as client:
        first = client.predict(VISUAL, SMALL).json
        running.wait_for_log(f"unloaded clip/{CLIP}/visual")
        assert client.predict(VISUAL, SMALL).json == first


def test_another_server_on_the_same_port_says_so(server: RunningServer) -> None:
    command = [sys.executable, "-m", "immich_ml_cn"]
    environ = {"IMMICH_HOST": "127.0.0.1", "IMMICH_PORT": str(server.port), "HF_HUB_OFFLINE": "1", "HOME": "/tmp"}
    second = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "Address already in use" in second.stderr
    assert "Traceback" not in second.stderr
    with contextlib.closing(server.connect()) as alive:
        alive.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        assert alive.recv(100).startswith(b"HTTP/1.1 200")
