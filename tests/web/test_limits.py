"""Limits over real sockets: each has its answer, and /ping answers while somebody runs into it."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from server import (
    BOUNDARY,
    CONTENT_TYPE,
    SMALL,
    TEXTUAL,
    VISUAL,
    Client,
    RunningServer,
    http_request,
    node_form,
    predict_form,
    wait_until,
)

RECEIVE_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    return {
        "MACHINE_LEARNING_RECEIVE_TIMEOUT": f"{RECEIVE_TIMEOUT_S}",
        "MACHINE_LEARNING_MAX_FIELDS": "5",
        "MACHINE_LEARNING_MAX_TEXT_BYTES": "100000",
        "MACHINE_LEARNING_MAX_REQUEST_BYTES": str(8 << 20),
        "MACHINE_LEARNING_MAX_BODIES_BYTES": str(20 << 20),
    }


def received(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


WHOLE = http_request(predict_form(VISUAL, SMALL))
HEADER_END = WHOLE.index(b"\r\n\r\n")
UNFINISHED = {
    "nothing": b"",
    "half a request line": b"POST /pre",
    "half a header": WHOLE[: HEADER_END // 2],
    "a header and no body": WHOLE[: HEADER_END + 4],
    "half a body": WHOLE[:-100],
    "a chunk that never comes": b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc",
    "a whole request and half of a second": b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\nGET /pi",
}


@pytest.mark.parametrize("case", UNFINISHED)
def test_what_does_not_arrive_in_time_is_408_and_closed(server: RunningServer, case: str) -> None:
    with server.connect(timeout=10) as connection:
        started = time.monotonic()
        connection.sendall(UNFINISHED[case])
        answer = received(connection)
        took = time.monotonic() - started
    last = answer[answer.rindex(b"HTTP/1.1") :]
    assert last.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in last.lower()
    assert "did not arrive" in json.loads(last.split(b"\r\n\r\n", 1)[1])["detail"]
    assert RECEIVE_TIMEOUT_S * 0.9 < took < RECEIVE_TIMEOUT_S + 3


def test_a_trickle_does_not_lengthen_the_time(server: RunningServer) -> None:
    """A byte now and then is no reason to wait on."""
    with server.connect(timeout=10) as connection:
        connection.settimeout(0.1)
        started = time.monotonic()
        connection.sendall(WHOLE[: HEADER_END + 4])
        answer = b""
        for byte in WHOLE[HEADER_END + 4 :]:
            try:
                connection.send(bytes([byte]))
                answer = connection.recv(65536)
            except TimeoutError:
                continue
            break
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < RECEIVE_TIMEOUT_S + 3


def test_an_idle_connection_is_no_slow_client(server: RunningServer) -> None:
    """Between two requests a client may take as long as keep-alive allows."""
    with server.client() as client:
        client.get("/ping")
        port = client.local_port
        assert not _closed_within(server, 2 * RECEIVE_TIMEOUT_S)
        assert client.get("/ping").status == 200
        assert client.local_port == port


def _closed_within(server: RunningServer, seconds: float) -> bool:
    """Whether the server closes a connection that has had an answer, within that time."""
    with server.connect(timeout=seconds) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"pong"):
            more = connection.recv(4096)
            assert more, answer
            answer += more
        assert answer.startswith(b"HTTP/1.1 200")
        try:
            last = connection.recv(4096)
        except TimeoutError:
            return False
        assert last == b"", "the server had more to say"
        return True


def test_a_text_field_may_be_so_long_and_no_longer(client: Client) -> None:
    bomb = json.dumps({**TEXTUAL, "x": None})
    padded = bomb[:-1] + " " * (100_001 - len(bomb)) + "}"
    reply = client.post(node_form(("entries", padded), ("text", "cat")))
    assert (reply.status, reply.detail) == (413, "`entries` has 100001 bytes, more than the 100000 allowed")
    reply = client.predict(TEXTUAL, text="x" * 100_001)
    assert (reply.status, reply.detail) == (413, "`text` has 100001 bytes, more than the 100000 allowed")
    assert client.predict(TEXTUAL, text="x" * 100_000).status == 200


def test_so_many_fields_and_no_more(client: Client) -> None:
    fields = [("x", "")] * 3
    body = node_form(*fields, ("entries", json.dumps(TEXTUAL)), ("text", "cat"))
    assert client.post(body).status == 200
    reply = client.post(node_form(*fields, ("x", ""), ("entries", json.dumps(TEXTUAL)), ("text", "cat")))
    assert (reply.status, reply.detail) == (413, "the form has more than 5 fields")


BEGIN = f"--{BOUNDARY}\r\n".encode()
BOMBS: dict[str, tuple[bytes, str]] = {
    "deep json": (predict_form("[" * 90_000), CONTENT_TYPE),
    "deep objects": (predict_form('{"a":' * 20_000), CONTENT_TYPE),
    "wide json": (predict_form("{" + ",".join(f'"t{i}":0' for i in range(9000)) + "}"), CONTENT_TYPE),
    "wide options": (
        predict_form({"clip": {"visual": {"modelName": "x", "options": {str(i): 0 for i in range(9000)}}}}),
        CONTENT_TYPE,
    ),
    "huge number": (predict_form('{"clip":{"visual":{"modelName":' + "9" * 90_000 + "}}}"), CONTENT_TYPE),
    "almost boundaries": (b"\r\n------formdata-undici-04894140902" * 240_000, CONTENT_TYPE),
    "newlines": (b"\r\n" * (4 << 20), CONTENT_TYPE),
    "one long header": (
        b"------formdata-undici-048941409022\r\nContent-Disposition: " + b"x" * (7 << 20),
        CONTENT_TYPE,
    ),
    "many headers": (b"------formdata-undici-048941409022\r\n" + b"a: b\r\n" * (1 << 20), CONTENT_TYPE),
    "percents": (b"entries=" + b"%7b" * (2 << 20), "application/x-www-form-urlencoded"),
    "ampersands": (b"&" * (7 << 20), "application/x-www-form-urlencoded"),
    "another type": (b"\0" * (7 << 20), "text/plain"),
    "long boundary": (b"x", "multipart/form-data; boundary=" + "b" * 30_000),
}


@pytest.mark.parametrize("case", BOMBS)
def test_ping_answers_while_a_bomb_is_read(server: RunningServer, client: Client, case: str) -> None:
    """How fast it answers is measured by `scripts/ping_under_load.py`."""
    body, content_type = BOMBS[case]
    with server.client() as other, ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(other.post, body, content_type)
        assert client.get("/ping").body == b"pong"
        assert 400 <= bomb.result().status < 500


def test_two_hundred_half_sent_requests_hold_nobody_up(server: RunningServer, client: Client) -> None:
    """All are answered with 408, and their connections and buffers are gone."""
    files = server.open_files
    connections = [server.connect(timeout=30) for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.sendall(WHOLE[: 1 + number % (len(WHOLE) - 1)])
    assert client.predict(VISUAL, SMALL).status == 200
    for connection in connections:
        with connection:
            assert received(connection).startswith(b"HTTP/1.1 408")
    deadline = time.monotonic() + 5
    while server.open_files > files + 1:
        assert time.monotonic() < deadline
        client.get("/ping")


def test_bodies_have_a_common_budget(server: RunningServer, client: Client) -> None:
    """First come, first served: who withholds the end of a large body does not make others' memory grow without end."""
    body = predict_form(VISUAL, b"\0" * (4 << 20))
    request = http_request(body)
    with server.connect() as first, server.connect() as second, server.connect() as third:
        for connection in (first, second):
            connection.sendall(request[:-1])
        time.sleep(0.2)
        third.sendall(request[: 3 << 20])
        answer = third.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"retry-after: 10" in answer.lower()
        assert client.predict(VISUAL, SMALL).status == 200, "there is memory for a small one"
        first.sendall(request[-1:])
        assert first.recv(65536).startswith(b"HTTP/1.1 400"), "it came first"
    wait_until(lambda: client.predict(VISUAL, b"\0" * (7 << 20)).status == 400, "what left still counts")


def test_what_is_refused_before_there_is_a_path_is_counted(server: RunningServer, client: Client) -> None:
    with server.connect(timeout=10) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\n" + b"a: b\r\n" * 20_000)
        assert received(connection).startswith(b"HTTP/1.1 431")
    with server.connect(timeout=10) as connection:
        assert received(connection).startswith(b"HTTP/1.1 408")
    numbers = client.get("/metrics").body.decode()
    for status in (408, 431):
        (line,) = re.findall(rf'immich_ml_responses_total{{route="other",status="{status}"}} (.*)', numbers)
        assert float(line) >= 1
