"""A server of ten lines, for clients that are tested."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def running() -> Iterator[int]:
    """A server that answers every request with 200, and those that say ``bad`` with 503; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def _accept(listener: socket.socket) -> None:
    try:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()
    except OSError:
        listener.close()


def _answer(connection: socket.socket) -> None:
    with connection, suppress(ConnectionResetError):  # a client that leaves before it has read all
        while data := connection.recv(1 << 16):
            status = b"503 Busy" if b"bad" in data else b"200 OK"
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
