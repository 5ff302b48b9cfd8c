"""One HTTP connection: uvicorn's, with timeouts for clients that do not send their requests or read their responses."""

import asyncio
import fcntl
import json
import logging
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from starlette.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .connection_limiter import ConnectionLimiter

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES: Final = 65_536
"""Of one request's header, and of what is neither header nor body later on; httptools takes any number."""

_CHUNK_BYTES: Final = 2048

_CHECKS_PER_TIMEOUT: Final = 4
"""How often a response is checked in the time in which its client must have read some of it."""

_RETRY_AFTER_S: Final = 10


def _final_response(status: str, detail: str) -> bytes:
    """A whole response, after which the connection is closed."""
    body = json.dumps({"detail": detail}).encode()
    headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return f"HTTP/1.1 {status}\r\n{headers}".encode() + body


_REQUEST_TIMEOUT: Final = _final_response("408 Request Timeout", "the request did not arrive in its time")
_HEADER_TOO_LARGE: Final = _final_response(
    "431 Request Header Fields Too Large", f"the request's header has more than {MAX_HEADER_BYTES} bytes"
)


# The applications for requests that are not worked on, whatever they ask for.
_OVERLOADED: Final = JSONResponse(
    {"detail": "the server has more connections than it is set to hold"}, 503, {"retry-after": str(_RETRY_AFTER_S)}
)
_TWO_HOSTS: Final = JSONResponse({"detail": "the request has more than one Host header"}, 400, {"connection": "close"})
_OTHER_VERSION: Final = JSONResponse(
    {"detail": "only HTTP/1.1 and HTTP/1.0 are spoken here"}, 400, {"connection": "close"}
)


class HttpConnection(HttpToolsProtocol):
    """uvicorn waits without limit for a header, and for a response to be read; the time of bodies is `Admission`'s."""

    def __init__(
        self,
        *args: Any,
        receive_timeout_s: float,
        send_timeout_s: float,
        limiter: ConnectionLimiter,
        count: Callable[[str, int], None],
        **kwargs: Any,
    ) -> None:
        """
        Args:
            receive_timeout_s: seconds from the connection's opening, or from the first bytes of a further request, to
                the end of that request's header.
            send_timeout_s: seconds in which the client must have read some of what waits for it.
            limiter: decides which requests are worked on, and which connections are closed.
            count: called with the route, which is ``other``, and the status of each request that is refused here.
        """
        super().__init__(*args, **kwargs)
        self._receive_timeout_s = receive_timeout_s
        self._send_timeout_s = send_timeout_s
        self._limiter = limiter
        self._count = count
        self._application = self.app
        self._header_timer: asyncio.TimerHandle | None = None
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._buffered = b""
        self._header_bytes = 0
        self._body_bytes_left = 0
        self._progressed = False
        self._send_timer: asyncio.TimerHandle | None = None
        self._unacknowledged = 0
        self._stalled_checks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._start_header_timer()
        self._limiter.add(self)

    def close(self) -> None:
        """Close the connection, which has no request in progress; what its client has not read yet is lost."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by whichever side."""
        self._stop_header_timer()
        if self._send_timer is not None:
            self._send_timer.cancel()
        self._limiter.remove(self)
        for cycle in self._unanswered:  # uvicorn tells only the last one
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    # --- receiving ---

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived: of the current request, of a new one, or of one that was answered already.

        They are parsed in chunks, as long as no second request is waiting: thousands of requests may have been
        pipelined in one read, of which only the first is worked on. The rest is buffered and reading is paused until
        the response is complete. The known rest of a body is one chunk, whatever its size.
        """
        rest = memoryview(self._buffered + data if self._buffered else data)
        while rest and not self.pipeline and not self.transport.is_closing():
            size = max(_CHUNK_BYTES, self._body_bytes_left)
            self._parse(rest[:size])
            rest = rest[size:]
        self._buffered = b"" if self.transport.is_closing() else bytes(rest)
        if self._buffered:
            self.flow.pause_reading()
        if self._header_timer is None and self._is_between_requests() and self.timeout_keep_alive_task is None:
            self._start_header_timer()
        self._check_sending()

    def _parse(self, chunk: memoryview) -> None:
        """Feed the parser; what moves it neither to the end of a header nor into a body counts as header."""
        self._progressed = False
        super().data_received(chunk)  # type: ignore[arg-type]
        self._header_bytes = 0 if self._progressed else self._header_bytes + len(chunk)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(431, _HEADER_TOO_LARGE)

    def _parse_buffered(self) -> None:
        if not self.transport.is_closing():
            self.data_received(b"")

    def on_message_begin(self) -> None:
        """The first byte of a request has arrived, perhaps while another one is worked on."""
        super().on_message_begin()
        if self._header_timer is None:
            self._start_header_timer()

    def on_headers_complete(self) -> None:
        """A header is complete."""
        self._stop_header_timer()
        self._progressed = True
        refusal = self._refusal()
        if refusal is not None:
            self._count("other", refusal.status_code)
        self.app = refusal or self._application
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        # httptools has refused what is no number, and passes on this many bytes of body.
        self._body_bytes_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)

    def _refusal(self) -> JSONResponse | None:
        """The answer to a request that is not to be worked on: RFC 9112 wants exactly one Host, proxies may differ."""
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            return _OTHER_VERSION
        if [name for name, _ in self.headers].count(b"host") > 1:
            return _TWO_HOSTS
        return None if self._limiter.activate(self) else _OVERLOADED

    def on_body(self, body: bytes) -> None:
        """Some of a body has arrived."""
        self._progressed = True
        self._body_bytes_left = max(0, self._body_bytes_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._progressed = True
        self._body_bytes_left = 0
        super().on_message_complete()

    def _is_between_requests(self) -> bool:
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self._receive_timeout_s, self._header_timed_out)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_timed_out(self) -> None:
        self._header_timer = None
        if self._is_between_requests():
            self._refuse(408, _REQUEST_TIMEOUT)
        elif not self.transport.is_closing():
            self._start_header_timer()  # an earlier request of this connection is still worked on

    def _refuse(self, status: int, response: bytes) -> None:
        """Close the connection, and say why where no other response is being sent."""
        if self._is_between_requests():
            self.transport.write(response)
            self._count("other", status)
        self.transport.close()
        self._check_sending()

    # --- sending ---

    def on_response_complete(self) -> None:
        """A response was written, though perhaps not read."""
        super().on_response_complete()
        self._unanswered.popleft()
        if self.cycle.response_complete:
            self._limiter.deactivate(self)
        if self._buffered:
            self.loop.call_soon(self._parse_buffered)
        self._check_sending()

    def pause_writing(self) -> None:
        """More was written than the client reads."""
        super().pause_writing()
        self._check_sending()

    def _check_sending(self) -> None:
        """Watch what is written now, a final response included, until it is read."""
        if self._send_timer is None and self.transport.get_write_buffer_size():
            self._unacknowledged, self._stalled_checks = self._count_unacknowledged(), 0
            self._start_send_timer()

    def _start_send_timer(self) -> None:
        self._send_timer = self.loop.call_later(self._send_timeout_s / _CHECKS_PER_TIMEOUT, self._check_progress)

    def _check_progress(self) -> None:
        """Close the connection when nothing was read for the whole timeout; else check again."""
        self._send_timer = None
        if not self.transport.get_write_buffer_size():
            return
        unacknowledged = self._count_unacknowledged()
        self._stalled_checks = self._stalled_checks + 1 if unacknowledged == self._unacknowledged else 0
        self._unacknowledged = unacknowledged
        if self._stalled_checks < _CHECKS_PER_TIMEOUT:
            self._start_send_timer()
            return
        client = self.client[0] if self.client else "a client"
        logger.warning("%s read nothing of its answer for %g s; closed", client, self._send_timeout_s)
        self.transport.abort()

    def _count_unacknowledged(self) -> int:
        """Bytes that were written and not acknowledged: the kernel takes many before it takes no more from us."""
        result = struct.pack("i", 0)
        try:
            (in_kernel,) = struct.unpack("i", fcntl.ioctl(self._file_descriptor(), termios.TIOCOUTQ, result))
        except OSError:
            in_kernel = 0
        return self.transport.get_write_buffer_size() + int(in_kernel)

    def _file_descriptor(self) -> int:
        return int(self.transport.get_extra_info("socket").fileno())
