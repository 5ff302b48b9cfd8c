"""Admission control: how many requests are worked on at once, and how long each of them may keep its place."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from immich_ml_cn.errors import RequestTimeout, TooLarge, Unavailable, UnsupportedEncoding
from immich_ml_cn.messages import tr
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.serving.concurrency import first_failure
from immich_ml_cn.settings import Settings

from .forms import Form, FormLimits, read_body, read_form

T = TypeVar("T")

BODY_MEMORY: Final = 2
"""Bytes of memory for each byte of a body that is collected: measured 2.1 with 14 bodies of 20 MB."""


class Admission:
    """Admits concurrent requests up to a number, and up to a number of bytes of their bodies; refuses further ones."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """
        Args:
            metrics: where the time that requests take to arrive is counted.
        """
        self.limits = FormLimits(settings.max_request_bytes, settings.max_fields, settings.max_text_bytes)
        self.receive_timeout_s = settings.receive_timeout_s
        self.metrics = metrics
        self._max_active = settings.max_queue
        self._active = 0
        self._max_body_bytes = settings.max_bodies_bytes
        self._body_bytes = 0

    @asynccontextmanager
    async def admit(self, request: Request) -> AsyncIterator["ActiveRequest"]:
        """Count a request as active for the length of a `with` block, in which it is read and answered.

        Raises:
            Unavailable: too many are active; or the block was cancelled, which is how uvicorn ends a request when the
                server shuts down.
        """
        if self._active >= self._max_active:
            raise Unavailable(tr("the server has more requests than it is set to hold"), retry_after=10)
        self._active += 1
        active = ActiveRequest(request, self)
        try:
            yield active
        except asyncio.CancelledError:
            raise Unavailable(tr("the server is shutting down"), retry_after=5) from None
        finally:
            self._active -= 1
            self._body_bytes -= active.body_bytes

    def reserve(self, active: "ActiveRequest", count: int) -> None:
        """Count memory for bytes of a body that have arrived; it is held until the request is answered.

        A request that is the only one with a body may be as large as any request.

        Args:
            count: bytes of memory.

        Raises:
            Unavailable: there is no memory for them.
        """
        others = self._body_bytes - active.body_bytes
        if others > 0 and self._body_bytes + count > self._max_body_bytes:
            raise Unavailable(
                tr("the bodies of other requests take all the memory they may (MACHINE_LEARNING_MAX_BODIES_BYTES)"),
                retry_after=10,
            )
        self._body_bytes += count
        active.body_bytes += count


class ActiveRequest:
    """A request that was admitted: its body is read first, then it is answered while its client is connected.

    Attributes:
        body_bytes: memory that is counted for its body.
    """

    def __init__(self, request: Request, admission: Admission) -> None:
        self.body_bytes = 0
        self._request = request
        self._admission = admission

    async def form(self) -> Form:
        """Read the body as a form.

        Raises:
            ClientDisconnect: the client left before all of it had arrived.
            RequestTimeout: it took too long.
            Unavailable: as `Admission.reserve`.
            TooLarge, BadRequest: as `read_form`.
            UnsupportedEncoding: it is compressed.
        """
        limits = self._admission.limits
        self._check_header(limits.body_bytes)
        content_type = self._request.headers.get("content-type", "")
        return await self._in_time(read_form(content_type, self._chunks(), limits))

    async def body(self, max_bytes: int) -> bytes:
        """Read the body as it is.

        Raises:
            ClientDisconnect, RequestTimeout, Unavailable: as `form`.
            TooLarge: it has more than `max_bytes`.
            UnsupportedEncoding: it is compressed.
        """
        self._check_header(max_bytes)
        return await self._in_time(read_body(self._chunks(), max_bytes))

    @asynccontextmanager
    async def while_connected(self) -> AsyncIterator[None]:
        """Cancel the block when the client disconnects: what is still queued for it is dropped then.

        The body must have been read.

        Raises:
            ClientDisconnect: the client left first.
        """
        with first_failure():
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(_raise_on_disconnect(self._request))
                yield
                watcher.cancel()

    async def _chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._request.stream():
            self._admission.reserve(self, BODY_MEMORY * len(chunk))
            yield chunk

    def _check_header(self, max_bytes: int) -> None:
        for header in ("Content-Encoding", "Transfer-Encoding"):
            encoding = self._request.headers.get(header, "")
            if {coding.strip().lower() for coding in encoding.split(",")} - {"", "identity", "chunked"}:
                raise UnsupportedEncoding(
                    tr(
                        "the request has {header}: {encoding}, but its body must not be compressed",
                        header=header,
                        encoding=encoding[:40],
                    )
                )
        length = self._request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > max_bytes:
            raise TooLarge(
                tr(
                    "the request body has {length} bytes, more than the {limit} allowed",
                    length=length,
                    limit=max_bytes,
                )
            )

    async def _in_time(self, reading: Awaitable[T]) -> T:
        timeout_s = self._admission.receive_timeout_s
        try:
            with self._admission.metrics.time("receive"):
                async with asyncio.timeout(timeout_s):
                    return await reading
        except TimeoutError:
            raise RequestTimeout(
                tr(
                    "the request did not arrive within {seconds:g} s (MACHINE_LEARNING_RECEIVE_TIMEOUT)",
                    seconds=timeout_s,
                )
            ) from None


async def _raise_on_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    raise ClientDisconnect
