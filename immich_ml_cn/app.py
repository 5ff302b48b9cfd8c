"""HTTP: Starlette routes and lifespan; failures → responses. The only importer of starlette."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from . import mt_photos
from .errors import ServiceError, TooLarge, Unavailable
from .forms import Form, FormLimits, read_body, read_form
from .forwarding import HEADER as FORWARDED
from .protocol import write_body
from .service import Service
from .settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLIENT_LEFT: Final = 499
"""nginx's status for a client that closed the connection; it is logged, nobody receives it."""


def create_app(settings: Settings, service: Service) -> Starlette:
    """The ASGI application on `service`, which lives as long as it: Immich's routes, and MT Photos' with a key."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    house = _House(settings)
    routes = _Immich(house, service).routes()
    if settings.mt_photos_key:
        routes += _MtPhotos(house, service, settings.mt_photos_key).routes()
    if settings.root_path:
        routes.append(Mount(settings.root_path, routes=list(routes)))
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        HTTPException: _http_error,
        ServiceError: _service_error,
        Exception: _unexpected_error,
    }
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


class _House:
    """Holds as many requests as it is set to, each as long as its client waits for it."""

    def __init__(self, settings: Settings) -> None:
        self._max_queue = settings.max_queue
        self._limits = FormLimits(settings.max_request_bytes, settings.max_fields, settings.max_text_bytes)
        self._inside = 0

    async def answer(
        self, request: Request, read: Callable[[Request], Awaitable[T]], work: Callable[[T], Awaitable[bytes]]
    ) -> Response:
        """Read a request, then work on it while its client is there."""
        if self._inside >= self._max_queue:
            raise Unavailable("the server has more requests than it is set to hold", retry_after=10)
        self._inside += 1
        try:
            body = await _while_connected(request, work(await read(request)))
        except ClientDisconnect:
            logger.debug("%s left before the answer", _client(request))
            return Response(status_code=CLIENT_LEFT)
        except asyncio.CancelledError:  # uvicorn's, when the time that SIGTERM left is over
            raise Unavailable("the server is shutting down", retry_after=5) from None
        finally:
            self._inside -= 1
        return Response(body, media_type="application/json")

    async def form(self, request: Request) -> Form:
        """The request's form."""
        _check_announced(request, self._limits.body_bytes)
        return await read_form(request.headers.get("content-type", ""), request.stream(), self._limits)


class _Immich:
    def __init__(self, house: _House, service: Service) -> None:
        self._house = house
        self._service = service

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.root),
            Route("/ping", self.ping),
            Route("/status", self.status),
            Route("/predict", self.predict, methods=["POST"]),
        ]

    async def root(self, request: Request) -> Response:
        return JSONResponse({"message": "Immich ML"})

    async def ping(self, request: Request) -> Response:
        return PlainTextResponse("pong")

    async def status(self, request: Request) -> Response:
        return JSONResponse({**self._service.status(), **await self._service.gateway.status()})

    async def predict(self, request: Request) -> Response:
        """`POST /predict`: the tasks of one request, as long as its client waits for them."""

        async def work(form: Form) -> bytes:
            image, text = form.file("image"), form.text("text")
            return await self._service.gateway.answer(form.text("entries"), image, text, forwarded=forwarded)

        forwarded = FORWARDED in request.headers
        return await self._house.answer(request, self._house.form, work)


class _MtPhotos:
    """MT Photos AI's routes; all but `/face/check` need the key."""

    def __init__(self, house: _House, service: Service, key: str) -> None:
        self._house = house
        self._service = service
        self._key = key

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/check", self.check, methods=["POST"]),
            Route("/ocr", self.ocr, methods=["POST"]),
            Route("/clip/img", self.embed_picture, methods=["POST"]),
            Route("/clip/txt", self.embed_text, methods=["POST"]),
            Route("/represent", self.represent, methods=["POST"]),
            Route("/face/check", self.about_faces),
            Route("/restart", self.restart, methods=["POST"]),
            Route("/restart_v2", self.restart, methods=["POST"]),
        ]

    async def check(self, request: Request) -> Response:
        self._admit(request)
        return JSONResponse(mt_photos.PASSED)

    async def ocr(self, request: Request) -> Response:
        return await self._on_picture(request, self._service.mt_photos.read)

    async def embed_picture(self, request: Request) -> Response:
        return await self._on_picture(request, self._service.mt_photos.embed_picture)

    async def embed_text(self, request: Request) -> Response:
        async def read(request: Request) -> str:
            _check_announced(request, mt_photos.MAX_TEXT_BYTES)
            return mt_photos.read_text(await read_body(request.stream(), mt_photos.MAX_TEXT_BYTES))

        async def work(text: str) -> bytes:
            return write_body(await self._service.mt_photos.embed_text(text))

        self._admit(request)
        return await self._house.answer(request, read, work)

    async def represent(self, request: Request) -> Response:
        return await self._on_picture(request, self._service.mt_photos.represent)

    async def about_faces(self, request: Request) -> Response:
        return JSONResponse(self._service.mt_photos.about_faces())

    async def restart(self, request: Request) -> Response:
        """Give memory back: unload what nobody uses at this moment."""
        self._admit(request)
        await self._service.registry.unload_idle(at_once=True)
        return JSONResponse(mt_photos.PASSED)

    async def _on_picture(self, request: Request, look: Callable[[bytes], Awaitable[dict[str, Any]]]) -> Response:
        async def work(form: Form) -> bytes:
            return write_body(await look(mt_photos.read_picture(form)))

        self._admit(request)
        return await self._house.answer(request, self._house.form, work)

    def _admit(self, request: Request) -> None:
        if not mt_photos.is_key(self._key, request.headers.get("api-key", "")):
            raise HTTPException(401, "Invalid API key")


def _check_announced(request: Request, limit: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise TooLarge(f"the request body has {announced} bytes, more than the {limit} allowed")


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
