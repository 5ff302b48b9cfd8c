"""HTTP: Starlette routes and lifespan; failures → responses. The only importer of starlette."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from immich_ml_cn import metrics
from immich_ml_cn.api import mt_photos
from immich_ml_cn.api.forwarding import HEADER as FORWARDED
from immich_ml_cn.api.immich import write_body
from immich_ml_cn.errors import RequestTimeout, ServiceError, TooLarge, Unavailable
from immich_ml_cn.messages import said_by
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.service import Service
from immich_ml_cn.serving.pipeline import CLIENT_LEFT
from immich_ml_cn.settings import Settings

from .forms import Form, FormLimits, read_body, read_form
from .middleware import Guard, Journal

logger = logging.getLogger(__name__)

T = TypeVar("T")


def create_app(settings: Settings, service: Service) -> Starlette:
    """The ASGI application on `service`, which lives as long as it: Immich's routes, and MT Photos' with a key."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    house = _House(settings, service.metrics)
    routes = _Immich(house, service).routes()
    if settings.mt_photos_key:
        routes += _MtPhotos(house, service, settings.mt_photos_key).routes()
    paths = [route.path for route in routes if isinstance(route, Route)]
    if settings.root_path:
        routes.append(Mount(settings.root_path, routes=list(routes)))
    answers = _Failures(service.metrics)
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        HTTPException: _http_error,
        ServiceError: answers.expected,
        Exception: answers.unexpected,
    }
    middleware = [Middleware(Journal, service.metrics, [settings.root_path + path for path in paths] + paths)]
    if settings.api_key:
        keys = [key for key in (settings.api_key, settings.mt_photos_key) if key]
        middleware.append(Middleware(Guard, keys, {"/ping", f"{settings.root_path}/ping"}))
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan, middleware=middleware)


class _House:
    """Holds as many requests as it is set to, each as long as its client waits for it."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._max_queue = settings.max_queue
        self._receive_timeout_s = settings.receive_timeout_s
        self._metrics = metrics
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
            body = await _while_connected(request, work(await self._receive(request, read)))
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

    async def _receive(self, request: Request, read: Callable[[Request], Awaitable[T]]) -> T:
        try:
            with self._metrics.time("receive"):
                async with asyncio.timeout(self._receive_timeout_s):
                    return await read(request)
        except TimeoutError:
            raise RequestTimeout(
                f"the request did not arrive within {self._receive_timeout_s:g} s (MACHINE_LEARNING_RECEIVE_TIMEOUT)"
            ) from None


class _Immich:
    def __init__(self, house: _House, service: Service) -> None:
        self._house = house
        self._service = service

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.root),
            Route("/ping", self.ping),
            Route("/status", self.status),
            Route("/metrics", self.metrics),
            Route("/predict", self.predict, methods=["POST"]),
        ]

    async def root(self, request: Request) -> Response:
        return JSONResponse({"message": "Immich ML"})

    async def ping(self, request: Request) -> Response:
        return PlainTextResponse("pong")

    async def status(self, request: Request) -> Response:
        return JSONResponse({**self._service.status(), **await self._service.gateway.status()})

    async def metrics(self, request: Request) -> Response:
        return Response(await self._service.exposition(), media_type=metrics.CONTENT_TYPE)

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
            return write_body(await look(mt_photos.read_picture(form.file("file"))))

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


class _Failures:
    """Failures → responses, and a line in the log; a traceback only where the fault is ours and nobody foresaw it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def expected(self, request: Request, error: ServiceError) -> Response:
        """One of ours: its own status."""
        level = logging.ERROR if error.status == 500 else logging.WARNING
        logger.log(level, "%s %s → %d %s", request.method, request.url.path, error.status, _one_line(said_by(error)))
        if error.status >= 500:
            self._metrics.record_error(f"{request.method} {request.url.path} → {error.status} {_one_line(str(error))}")
            logger.debug("what happened", exc_info=error.__cause__)
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.status == RequestTimeout.status:
            headers["Connection"] = "close"
        return JSONResponse({"detail": str(error), "code": error.code}, error.status, headers=headers)

    async def unexpected(self, request: Request, error: Exception) -> Response:
        """Anything else: uvicorn logs its traceback."""
        self._metrics.record_error(f"{request.method} {request.url.path} → 500 {_one_line(repr(error))}")
        body = {"detail": "the server failed on this request; its log says why", "code": "internal"}
        return JSONResponse(body, 500)


_LONGEST_LINE: Final = 2000
"""Characters; a remedy names the address and the place of several files."""


def _one_line(text: str) -> str:
    """What may stand in the log; a message of ours stays one, so that the log can translate it."""
    line = " ".join(text.split())
    if len(line) > _LONGEST_LINE:
        return line[:_LONGEST_LINE] + "…"
    return text if line == text else line


def _client(request: Request) -> str:
    return request.client.host if request.client else "a client"
