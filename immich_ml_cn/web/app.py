"""The ASGI application: routes, lifespan, and failures → responses."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

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
from immich_ml_cn.errors import RequestTimeout, ServiceError
from immich_ml_cn.logs import Redaction
from immich_ml_cn.messages import said_by
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.service import Service
from immich_ml_cn.serving.pipeline import CLIENT_LEFT
from immich_ml_cn.settings import Settings

from .admission import Admission
from .middleware import AccessLogMiddleware, ApiKeyMiddleware
from .page import KeylessPaths, Page, prefers_html

logger = logging.getLogger(__name__)


def create_app(settings: Settings, service: Service) -> Starlette:
    """The ASGI application on `service`, which lives as long as it: Immich's routes, and MT Photos' with a key."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    admission = Admission(settings, service.metrics)
    redact = Redaction(settings)
    page = Page(settings, service)
    routes = [*_Immich(admission, service, page, redact).routes(), *page.routes()]
    if settings.mt_photos_key:
        routes += _MtPhotos(admission, service, settings.mt_photos_key).routes()
    keyless: tuple[str, ...] = ()
    if settings.immich_url:
        from .gateway import KEYLESS, ImmichRoutes

        keyless = KEYLESS
        routes += ImmichRoutes(admission, service).routes()
    paths = [route.path for route in routes if isinstance(route, Route)]
    if settings.root_path:
        routes.append(Mount(settings.root_path, routes=list(routes)))
    failures = _FailureHandlers(service.metrics, redact)
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        HTTPException: _http_error,
        ClientDisconnect: _client_disconnected,
        ServiceError: failures.expected,
        Exception: failures.unexpected,
    }
    middleware = [
        Middleware(AccessLogMiddleware, service.metrics, [settings.root_path + path for path in paths] + paths)
    ]
    if settings.api_key:
        keys = [key for key in (settings.api_key, settings.mt_photos_key) if key]
        exempt = KeylessPaths(settings.root_path, keyless)
        middleware.append(Middleware(ApiKeyMiddleware, keys, exempt, settings.root_path))
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan, middleware=middleware)


class _Immich:
    """The routes of Immich's machine-learning service, and those for people and monitoring."""

    def __init__(self, admission: Admission, service: Service, page: Page, redact: Redaction) -> None:
        self._admission = admission
        self._service = service
        self._page = page
        self._redact = redact

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.root),
            Route("/ping", self.ping),
            Route("/status", self.status),
            Route("/metrics", self.metrics),
            Route("/predict", self.predict, methods=["POST"]),
        ]

    async def root(self, request: Request) -> Response:
        """Immich's JSON, for browsers the page."""
        if prefers_html(request.headers.get("accept", "")):
            return self._page.index()
        return JSONResponse({"message": "Immich ML"})

    async def ping(self, request: Request) -> Response:
        return PlainTextResponse("pong")

    async def status(self, request: Request) -> Response:
        service = self._service
        additions = {**await service.text_search_status(), **await service.gateway.status()}
        return JSONResponse(self._redact.document({**service.status(), **additions}))

    async def metrics(self, request: Request) -> Response:
        return Response(await self._service.exposition(), media_type=metrics.CONTENT_TYPE)

    async def predict(self, request: Request) -> Response:
        """`POST /predict`: all tasks of one request."""
        async with self._admission.admit(request) as active:
            form = await active.form()
            async with active.while_connected():
                body = await self._service.gateway.answer(
                    form.text("entries"),
                    form.file("image"),
                    form.text("text"),
                    forwarded=FORWARDED in request.headers,
                )
        return _json(body)


class _MtPhotos:
    """MT Photos AI's routes; all but `/face/check` need the key."""

    def __init__(self, admission: Admission, service: Service, key: str) -> None:
        self._admission = admission
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
        self._check_key(request)
        return JSONResponse(mt_photos.PASSED)

    async def ocr(self, request: Request) -> Response:
        return await self._answer_picture(request, self._service.mt_photos.read)

    async def embed_picture(self, request: Request) -> Response:
        return await self._answer_picture(request, self._service.mt_photos.embed_picture)

    async def embed_text(self, request: Request) -> Response:
        self._check_key(request)
        async with self._admission.admit(request) as active:
            text = mt_photos.read_text(await active.body(mt_photos.MAX_TEXT_BYTES))
            async with active.while_connected():
                body = write_body(await self._service.mt_photos.embed_text(text))
        return _json(body)

    async def represent(self, request: Request) -> Response:
        return await self._answer_picture(request, self._service.mt_photos.represent)

    async def about_faces(self, request: Request) -> Response:
        return JSONResponse(self._service.mt_photos.about_faces())

    async def restart(self, request: Request) -> Response:
        """Give memory back: unload what nobody uses at this moment."""
        self._check_key(request)
        await self._service.registry.unload_idle(at_once=True)
        return JSONResponse(mt_photos.PASSED)

    async def _answer_picture(
        self, request: Request, answer: Callable[[bytes], Awaitable[dict[str, object]]]
    ) -> Response:
        self._check_key(request)
        async with self._admission.admit(request) as active:
            form = await active.form()
            async with active.while_connected():
                body = write_body(await answer(mt_photos.read_picture(form.file("file"))))
        return _json(body)

    def _check_key(self, request: Request) -> None:
        if not mt_photos.is_key(self._key, request.headers.get("api-key", "")):
            raise HTTPException(401, "Invalid API key")


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


async def _http_error(request: Request, error: HTTPException) -> Response:
    logger.info("%s %s → %d %s", request.method, request.url.path, error.status_code, error.detail)
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


async def _client_disconnected(request: Request, error: ClientDisconnect) -> Response:
    logger.debug("%s left before the answer", request.client.host if request.client else "a client")
    return Response(status_code=CLIENT_LEFT)


class _FailureHandlers:
    """Failures → responses, and a line in the log; a traceback only where the fault is ours and nobody foresaw it."""

    def __init__(self, metrics: Metrics, redact: Redaction) -> None:
        self._metrics = metrics
        self._redact = redact

    async def expected(self, request: Request, error: ServiceError) -> Response:
        """One of ours: its own status."""
        level = logging.ERROR if error.status == 500 else logging.WARNING
        detail = self._redact(str(error))
        logger.log(level, "%s %s → %d %s", request.method, request.url.path, error.status, _one_line(said_by(error)))
        if error.status >= 500:
            self._metrics.record_error(f"{request.method} {request.url.path} → {error.status} {_one_line(detail)}")
            logger.debug("what happened", exc_info=error.__cause__)
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.status == RequestTimeout.status:
            headers["Connection"] = "close"
        return JSONResponse({"detail": detail, "code": error.code}, error.status, headers=headers)

    async def unexpected(self, request: Request, error: Exception) -> Response:
        """Anything else: uvicorn logs its traceback."""
        detail = _one_line(self._redact(repr(error)))
        self._metrics.record_error(f"{request.method} {request.url.path} → 500 {detail}")
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
