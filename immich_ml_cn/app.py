"""HTTP: Starlette routes and lifespan; failures → responses. The only importer of starlette."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from .errors import ServiceError, TooLarge, Unavailable
from .forms import Form, read_form
from .protocol import read_entries, write_answer
from .service import Service
from .settings import Settings

logger = logging.getLogger(__name__)

CLIENT_LEFT: Final = 499
"""nginx's status for a client that closed the connection; it is logged, nobody receives it."""


def create_app(settings: Settings, service: Service) -> Starlette:
    """The ASGI application: Immich's three routes on `service`, which lives as long as the application."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    api = _Api(settings, service)
    routes: list[BaseRoute] = [
        Route("/", api.root),
        Route("/ping", api.ping),
        Route("/status", api.status),
        Route("/predict", api.predict, methods=["POST"]),
    ]
    if settings.root_path:
        routes.append(Mount(settings.root_path, routes=list(routes)))
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        HTTPException: _http_error,
        ServiceError: _service_error,
        Exception: _unexpected_error,
    }
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


class _Api:
    def __init__(self, settings: Settings, service: Service) -> None:
        self._settings = settings
        self._service = service
        self._inside = 0

    async def root(self, request: Request) -> Response:
        return JSONResponse({"message": "Immich ML"})

    async def ping(self, request: Request) -> Response:
        return PlainTextResponse("pong")

    async def status(self, request: Request) -> Response:
        return JSONResponse(self._service.status())

    async def predict(self, request: Request) -> Response:
        """`POST /predict`: the tasks of one request, as long as its client waits for them."""
        if self._inside >= self._settings.max_queue:
            raise Unavailable("the server has more requests than it is set to hold", retry_after=10)
        self._inside += 1
        try:
            form = await self._form(request)
            body = await _while_connected(request, self._answer(form))
        except ClientDisconnect:
            logger.debug("%s left before the answer", _client(request))
            return Response(status_code=CLIENT_LEFT)
        except asyncio.CancelledError:  # uvicorn's, when the time that SIGTERM left is over
            raise Unavailable("the server is shutting down", retry_after=5) from None
        finally:
            self._inside -= 1
        return Response(body, media_type="application/json")

    async def _form(self, request: Request) -> Form:
        limit = self._settings.max_request_bytes
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise TooLarge(f"the request body has {announced} bytes, more than the {limit} allowed")
        return await read_form(request.headers.get("content-type", ""), request.stream(), limit)

    async def _answer(self, form: Form) -> bytes:
        tasks = read_entries(form.text("entries"))
        answer = await self._service.pipeline.predict(tasks, form.file("image"), form.text("text"))
        return write_answer(answer)


async def _while_connected(request: Request, work: Awaitable[bytes]) -> bytes:
    """Await `work`, and cancel it when the client goes away: what still queues for it is dropped.

    Raises:
        ClientDisconnect: the client went first.
    """
    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _http_error(request: Request, error: HTTPException) -> Response:
    logger.info("%s %s → %d %s", request.method, request.url.path, error.status_code, error.detail)
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


async def _service_error(request: Request, error: ServiceError) -> Response:
    level = logging.ERROR if error.status == 500 else logging.WARNING
    logger.log(level, "%s %s → %d %s", request.method, request.url.path, error.status, _one_line(str(error)))
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse({"detail": str(error)}, error.status, headers=headers)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "the server failed on this request; its log says why"}, 500)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else line[:500] + "…"


def _client(request: Request) -> str:
    return request.client.host if request.client else "a client"
