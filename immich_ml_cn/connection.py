"""One connection: uvicorn's, which also gives up on a client that does not finish sending its request's header."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: 51\r\nconnection: close\r\n\r\n"
    b'{"detail":"the request did not arrive in its time"}'
)


class Connection(HttpToolsProtocol):
    """uvicorn waits for a header without end; the bodies' time is `app`'s to watch."""

    def __init__(self, *args: Any, receive_timeout_s: float, **kwargs: Any) -> None:
        """
        Args:
            receive_timeout_s: seconds from a connection's opening, or from the first bytes of a further request, to
                the end of that request's header.
        """
        super().__init__(*args, **kwargs)
        self._receive_timeout_s = receive_timeout_s
        self._overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._expect_header()

    def on_message_begin(self) -> None:
        """The first byte of a request has arrived, perhaps while another one is worked on."""
        super().on_message_begin()
        if self._overdue is None:
            self._expect_header()

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived: of the request at hand, of one that begins, or of one that is answered already."""
        super().data_received(data)
        if self._overdue is None and self._is_between_requests() and self.timeout_keep_alive_task is None:
            self._expect_header()

    def on_headers_complete(self) -> None:
        """A header has arrived as a whole."""
        self._arrived()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever closed it."""
        self._arrived()
        super().connection_lost(exc)

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
            self.transport.write(_TIMED_OUT)
            self.transport.close()
        elif not self.transport.is_closing():
            self._expect_header()  # an earlier request of this connection is still worked on
