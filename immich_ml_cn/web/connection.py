"""One connection: uvicorn's, which also gives up on clients that do not send their requests or read their answers."""

import asyncio
import fcntl
import json
import logging
import struct
import termios
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .connection_limiter import Room

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES: Final = 65_536
"""Of one request's header, and of what is neither header nor body later on; httptools takes any number."""

_PIECE_BYTES: Final = 2048

_LOOKS: Final = 4
"""How often an answer is looked at in the time in which some of it must have been read."""

_RETRY_AFTER_S: Final = 10


def _last_words(status: str, detail: str) -> bytes:
    body = json.dumps({"detail": detail}).encode()
    headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return f"HTTP/1.1 {status}\r\n{headers}".encode() + body


_TIMED_OUT: Final = _last_words("408 Request Timeout", "the request did not arrive in its time")
_TOO_LONG: Final = _last_words(
    "431 Request Header Fields Too Large", f"the request's header has more than {MAX_HEADER_BYTES} bytes"
)
_FULL: Final = json.dumps({"detail": "the server has more connections than it is set to hold"}).encode()


class Connection(HttpToolsProtocol):
    """uvicorn waits without end for a header, and for an answer to be read; the bodies' time is `app`'s to watch."""

    def __init__(self, *args: Any, receive_timeout_s: float, send_timeout_s: float, room: Room, **kwargs: Any) -> None:
        """
        Args:
            receive_timeout_s: seconds from a connection's opening, or from the first bytes of a further request, to
                the end of that request's header.
            send_timeout_s: seconds in which a client must have read something of what waits for it.
            room: where the connection has its place.
        """
        super().__init__(*args, **kwargs)
        self._receive_timeout_s = receive_timeout_s
        self._send_timeout_s = send_timeout_s
        self._room = room
        self._admitted_app = self.app
        self._overdue: asyncio.TimerHandle | None = None
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._held = b""
        self._header_bytes = 0
        self._body_left = 0
        self._got_on = False
        self._watch: asyncio.TimerHandle | None = None
        self._unread = 0
        self._looks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._expect_header()
        self._room.enter(self)

    def dismiss(self) -> None:
        """Close it to make room; what its client has not read yet is lost."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever closed it."""
        self._arrived()
        if self._watch is not None:
            self._watch.cancel()
        self._room.leave(self)
        for cycle in self._unanswered:  # uvicorn tells only the one that came last
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    # --- what arrives ---

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived: of the request at hand, of one that begins, or of one that is answered already.

        Read piece by piece: thousands of requests may have come at once, and only the first of them is worked on. What
        is known to be body is one piece.
        """
        rest = memoryview(self._held + data if self._held else data)
        while rest and not self.pipeline and not self.transport.is_closing():
            size = max(_PIECE_BYTES, self._body_left)
            self._read(rest[:size])
            rest = rest[size:]
        self._held = b"" if self.transport.is_closing() else bytes(rest)
        if self._held:
            self.flow.pause_reading()
        if self._overdue is None and self._is_between_requests() and self.timeout_keep_alive_task is None:
            self._expect_header()
        self._watch_answer()

    def _read(self, piece: memoryview) -> None:
        self._got_on = False
        super().data_received(piece)  # type: ignore[arg-type]
        self._header_bytes = 0 if self._got_on else self._header_bytes + len(piece)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(_TOO_LONG)

    def _read_held(self) -> None:
        if not self.transport.is_closing():
            self.data_received(b"")

    def on_message_begin(self) -> None:
        """The first byte of a request has arrived, perhaps while another one is worked on."""
        super().on_message_begin()
        if self._overdue is None:
            self._expect_header()

    def on_headers_complete(self) -> None:
        """A header has arrived as a whole."""
        self._arrived()
        self._got_on = True
        self.app = self._admitted_app if self._room.work(self) else _answer_full
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        # httptools has refused what is no number, and hands on this many bytes of body.
        self._body_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)

    def on_body(self, body: bytes) -> None:
        """Some of a body has arrived."""
        self._got_on = True
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has arrived as a whole."""
        self._got_on = True
        self._body_left = 0
        super().on_message_complete()

    def _is_between_requests(self) -> bool:
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def _expect_header(self) -> None:
        self._overdue = self.loop.call_later(self._receive_timeout_s, self._give_up)

    def _arrived(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self) -> None:
        self._overdue = None
        if self._is_between_requests():
            self._refuse(_TIMED_OUT)
        elif not self.transport.is_closing():
            self._expect_header()  # an earlier request of this connection is still worked on

    def _refuse(self, last_words: bytes) -> None:
        """Close it, and say why where no other answer is under way."""
        if self._is_between_requests():
            self.transport.write(last_words)
        self.transport.close()
        self._watch_answer()

    # --- what is sent ---

    def on_response_complete(self) -> None:
        """An answer has been written, though perhaps not read."""
        super().on_response_complete()
        self._unanswered.popleft()
        if self.cycle.response_complete:
            self._room.rest(self)
        if self._held:
            self.loop.call_soon(self._read_held)
        self._watch_answer()

    def pause_writing(self) -> None:
        """More is written than the client reads."""
        super().pause_writing()
        self._watch_answer()

    def _watch_answer(self) -> None:
        """Look after what is written now, a closed connection's last words included, until it is read."""
        if self._watch is None and self.transport.get_write_buffer_size():
            self._unread, self._looks = self._count_unread(), 0
            self._watch = self.loop.call_later(self._send_timeout_s / _LOOKS, self._look)

    def _look(self) -> None:
        self._watch = None
        if not self.transport.get_write_buffer_size():
            return
        unread = self._count_unread()
        self._looks = self._looks + 1 if unread == self._unread else 0
        self._unread = unread
        if self._looks < _LOOKS:
            self._watch = self.loop.call_later(self._send_timeout_s / _LOOKS, self._look)
            return
        client = self.client[0] if self.client else "a client"
        logger.warning("%s read nothing of its answer for %g s; closed", client, self._send_timeout_s)
        self.transport.abort()

    def _count_unread(self) -> int:
        """Bytes that are written and not acknowledged: the system takes many before it takes more from us."""
        held = struct.pack("i", 0)
        try:
            (in_system,) = struct.unpack("i", fcntl.ioctl(self._descriptor(), termios.TIOCOUTQ, held))
        except OSError:
            in_system = 0
        return self.transport.get_write_buffer_size() + int(in_system)

    def _descriptor(self) -> int:
        return int(self.transport.get_extra_info("socket").fileno())


async def _answer_full(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """The application of requests for which there is no room."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(_FULL)).encode()),
        (b"retry-after", str(_RETRY_AFTER_S).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _FULL})
