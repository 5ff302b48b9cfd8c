"""Connections over real sockets: too many of them, and clients that do not read their answers or send without end."""

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from server import (
    CONTENT_TYPE,
    SMALL,
    TEXTUAL,
    VISUAL,
    Client,
    RunningServer,
    http_request,
    predict_form,
    wait_until,
)

from immich_ml_cn.web.connection import MAX_HEADER_BYTES
from immich_ml_cn.web.connection_limiter import HEADROOM
from immich_ml_cn.web.page import FILES, FOLDER

MAX_ACTIVE = 8
SEND_TIMEOUT_S = 1.0
PING = b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n"
WHOLE = http_request(predict_form(VISUAL, SMALL))


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    return {
        "MACHINE_LEARNING_MAX_CONNECTIONS": str(MAX_ACTIVE),
        "MACHINE_LEARNING_SEND_TIMEOUT": f"{SEND_TIMEOUT_S}",
    }


@pytest.fixture(scope="module")
def server(server: RunningServer) -> RunningServer:
    """With its model loaded."""
    with server.client() as warm:
        assert warm.predict(VISUAL, SMALL).status == 200
    return server


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Holds sockets until the end of a test."""
    with ExitStack() as stack:
        yield stack


def settled_files(server: RunningServer) -> int:
    """Open files, once the connections of the test before have gone."""
    history = [server.open_files]
    while len(history) < 10 or min(history[-10:]) != max(history[-10:]):
        time.sleep(0.02)
        history.append(server.open_files)
    return history[-1]


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed it, without waiting."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        connection.setblocking(True)


def pinged(connection: socket.socket) -> bytes:
    """The answer to one ping, over a bare connection."""
    connection.sendall(PING)
    return answer_on(connection)


def answer_on(connection: socket.socket) -> bytes:
    """One whole answer: its head and its body may come one after the other."""
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + body_bytes(answer[:end]):
        chunk = connection.recv(65536)
        assert chunk, answer
        answer += chunk
    return answer


def body_bytes(head: bytes) -> int:
    return int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])


# --- not HTTP/1.1 as it is meant ---


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "the request has more than one Host header"),
        (b"GET /ping HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "the request has more than one Host header"),
        (b"GET /ping\r\n\r\n", "only HTTP/1.1 and HTTP/1.0 are spoken here"),
        (b"GET /ping HTTP/0.9\r\n\r\n", "only HTTP/1.1 and HTTP/1.0 are spoken here"),
        (b"GET /ping HTTP/2.0\r\nHost: a\r\n\r\n", "only HTTP/1.1 and HTTP/1.0 are spoken here"),
    ],
)
def test_a_sentthat_proxies_may_read_in_two_ways_is_refused(
    server: RunningServer, opened: ExitStack, sent: bytes, detail: str
) -> None:
    connection = opened.enter_context(server.connect())
    connection.sendall(sent + PING)
    answer = answer_on(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body) == {"detail": detail}
    wait_until(lambda: is_closed(connection), "what follows is not to be read")


@pytest.mark.parametrize("sent", [b"GET /ping HTTP/1.0\r\n\r\n", b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_what_health_checks_send_is_answered(server: RunningServer, opened: ExitStack, sent: bytes) -> None:
    connection = opened.enter_context(server.connect())
    connection.sendall(sent)
    assert answer_on(connection).endswith(b"pong")


def test_what_is_refused_here_is_counted(server: RunningServer, client: Client, opened: ExitStack) -> None:
    def counted() -> int:
        lines = client.get("/metrics").body.decode().splitlines()
        found = [line for line in lines if 'route="other",status="400"' in line]
        return int(float(found[0].rpartition(" ")[2])) if found else 0

    before = counted()
    connection = opened.enter_context(server.connect())
    connection.sendall(b"GET /ping\r\n\r\n")
    answer_on(connection)
    assert counted() == before + 1


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "Deflate"])
def test_a_compressed_body_is_415_and_the_header_is_named(client: Client, encoding: str) -> None:
    headers = {"content-type": CONTENT_TYPE, "content-encoding": encoding}
    reply = client.request("POST", "/predict", gzip.compress(predict_form(TEXTUAL, text="cat")), headers)
    assert reply.status == 415
    assert f"Content-Encoding: {encoding}" in reply.json["detail"]


def test_a_body_that_is_compressed_for_its_transfer_is_415_as_well(client: Client) -> None:
    body = iter([gzip.compress(predict_form(TEXTUAL, text="cat"))])
    headers = {"content-type": CONTENT_TYPE, "transfer-encoding": "gzip, chunked"}
    reply = client.request("POST", "/predict", body, headers)
    assert reply.status == 415
    assert "Transfer-Encoding: gzip, chunked, but its body must not be compressed" in reply.detail


def test_a_body_that_says_it_is_not_compressed_is_read(client: Client) -> None:
    headers = {"content-type": CONTENT_TYPE, "content-encoding": "identity"}
    assert client.request("POST", "/predict", predict_form({}, text="cat"), headers).status == 422


# --- too many ---


def test_of_silent_connections_those_that_wait_longest_are_closed(
    server: RunningServer, client: Client, opened: ExitStack
) -> None:
    """Whatever their number: files stay bounded, and who has had answers keeps the connection."""
    client.get("/ping")
    port, files = client.local_port, server.open_files
    silent = [opened.enter_context(server.connect()) for _ in range(500)]
    wait_until(lambda: is_closed(silent[400]), "more connections stay open than there is room for")
    wait_until(lambda: server.open_files <= files + MAX_ACTIVE + HEADROOM, "files stay open")
    assert not any(is_closed(connection) for connection in silent[-MAX_ACTIVE:]), "the newest must have time to ask"
    assert b"200 OK" in pinged(silent[-1])
    assert client.get("/ping").status == 200
    assert client.local_port == port


def test_of_idle_connections_those_idle_longest_are_closed(server: RunningServer, opened: ExitStack) -> None:
    """Each has had its answer: nobody is refused."""
    idle = []
    for _ in range(200):
        idle.append(opened.enter_context(server.connect()))
        assert b"200 OK" in pinged(idle[-1])
    wait_until(lambda: is_closed(idle[100]), "more connections stay open than there is room for")
    assert not is_closed(idle[-1])
    assert b"200 OK" in pinged(idle[-MAX_ACTIVE])


def test_more_requests_than_connections_may_work_are_503(server: RunningServer, opened: ExitStack) -> None:
    """Those at work are not disturbed, and a connection that was refused can be used again."""
    half = len(WHOLE) - 10
    working = [opened.enter_context(server.connect()) for _ in range(MAX_ACTIVE)]
    for connection in working:
        connection.sendall(WHOLE[:half])
    late = opened.enter_context(server.connect())
    answer = b""

    def refused() -> bool:
        nonlocal answer
        answer = pinged(late)
        return answer.startswith(b"HTTP/1.1 503 ")

    wait_until(refused, "the halves of the requests do not arrive")
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"retry-after: 10" in head.lower()
    assert json.loads(body) == {"detail": "the server has more connections than it is set to hold"}
    late.sendall(WHOLE)
    assert answer_on(late).startswith(b"HTTP/1.1 503 "), "a photo as well"
    for connection in working:
        connection.sendall(WHOLE[half:])
        assert answer_on(connection).startswith(b"HTTP/1.1 200 OK")
    assert b"200 OK" in pinged(late)


def test_a_thousand_clients_one_after_another_are_all_answered(server: RunningServer) -> None:
    """More than fit, but never at once: what is closed leaves its place."""
    for _ in range(300):
        with server.connect() as connection:
            assert b"200 OK" in pinged(connection)


# --- answers that nobody reads ---

LARGEST = max(FOLDER.iterdir(), key=lambda file: file.stat().st_size)
QUESTIONS = f"GET {FILES}{LARGEST.name} HTTP/1.1\r\nhost: x\r\n\r\n".encode() * (12_000_000 // LARGEST.stat().st_size)
"""Their answers are more than the system keeps for a connection."""


def narrow(server: RunningServer) -> socket.socket:
    """A connection with little room for answers on the client's side."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    return connection


def test_who_does_not_read_is_closed(server: RunningServer, client: Client, opened: ExitStack) -> None:
    """Its answers are dropped; everybody else is served meanwhile."""
    client.get("/ping")
    files = settled_files(server)
    stalled = opened.enter_context(narrow(server))
    stalled.sendall(QUESTIONS)
    wait_until(lambda: server.open_files == files + 1, "it does not get a connection")
    wait_until(lambda: server.open_files == files, "who does not read keeps the connection")
    assert client.get("/ping").status == 200
    assert "read nothing of its answer for 1 s; closed" in server.log


def test_who_reads_slowly_is_not_closed(server: RunningServer, client: Client, opened: ExitStack) -> None:
    """A few bytes now and then, for longer than the time in which there must be some."""
    before = server.log.count("read nothing")
    slow = opened.enter_context(narrow(server))
    slow.sendall(QUESTIONS)
    end = time.monotonic() + 3 * SEND_TIMEOUT_S
    while time.monotonic() < end:
        assert slow.recv(2048)
        time.sleep(SEND_TIMEOUT_S / 20)
    assert not is_closed(slow)
    assert server.log.count("read nothing") == before


# --- many requests at once ---


def test_all_of_many_requests_sent_at_once_are_answered(server: RunningServer) -> None:
    with server.connect() as connection:
        connection.sendall(PING * 3000 + PING.replace(b"host: x", b"connection: close"))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == answer.count(b"pong") == 3001


def test_many_requests_sent_at_once_wait_as_bytes(server: RunningServer, client: Client, opened: ExitStack) -> None:
    """A request that is read takes a hundred times the memory of the same request on its way."""
    before = server.resident_mb
    for _ in range(2):
        connection = opened.enter_context(server.connect())
        connection.sendall(PING * 8000)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(60)
        most = before
        while connection.recv(4096):
            most = max(most, server.resident_mb)
        assert most < before + 30
    assert client.get("/ping").status == 200


def test_who_leaves_with_many_requests_unanswered_is_no_failure(server: RunningServer, client: Client) -> None:
    """The fixture looks for a traceback in the log."""
    files = server.open_files
    for _ in range(5):
        with server.connect() as connection:
            connection.sendall(WHOLE * 50)
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: server.open_files <= files, "who left keeps the connection")
    assert client.predict(VISUAL, SMALL).status == 200


# --- what never ends ---

ENDLESS = {
    "a header": (b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"y" * 8192),
    "headers": (b"GET / HTTP/1.1\r\nhost: x\r\n", b"x: y\r\n" * 1024),
    "a path": (b"GET /", b"y" * 8192),
    "a trailer": (
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: ",
        b"y" * 8192,
    ),
    "the size of a chunk": (
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;",
        b"y" * 8192,
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_what_never_ends_is_cut_off(server: RunningServer, client: Client, opened: ExitStack, case: str) -> None:
    start, more = ENDLESS[case]
    connection = opened.enter_context(server.connect())
    connection.sendall(start)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while not is_closed(connection):
            connection.sendall(more)
            sent += len(more)
            assert sent < 200 * MAX_HEADER_BYTES, "the server reads on and on"
    assert client.get("/ping").status == 200


def test_a_header_that_is_too_long_is_431(server: RunningServer) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * (MAX_HEADER_BYTES - 20))
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1]) == {"detail": "the request's header has more than 65536 bytes"}


def test_a_long_header_and_a_longer_body_are_fine(client: Client) -> None:
    reply = client.request("GET", "/ping", headers={"x": "y" * 30_000})
    assert reply.status == 200
    assert client.post(iter([b"x"] * 30_000), "application/x-www-form-urlencoded").status == 422


# --- files ---


class Cramped(RunningServer):
    """A server that the system allows few files."""

    command = (
        "-c",
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600)); "
        "from immich_ml_cn.cli import main; sys.exit(main([]))",
    )


def test_more_connections_than_the_system_has_files_for(tmp_path: Path, opened: ExitStack) -> None:
    with Cramped(tmp_path) as server:
        assert "room for 112 connections, not for 4096: the system allows this process 600 open files" in server.log
        silent = [opened.enter_context(server.connect()) for _ in range(1000)]
        wait_until(lambda: is_closed(silent[500]), "more connections stay open than there is room for")
        with server.client() as client:
            assert client.get("/ping").body == b"pong"
        assert server.open_files < 300
        assert "Traceback" not in server.log
        assert server.stop() == 0
