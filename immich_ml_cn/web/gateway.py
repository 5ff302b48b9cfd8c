"""The routes in front of Immich: its search calls, and its jobs for single photos."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from immich_ml_cn.api.gateway import asset_jobs, credentials
from immich_ml_cn.api.gateway.gateway import ImmichGateway
from immich_ml_cn.api.gateway.immich import LOOP_HEADER, Caller, Reply
from immich_ml_cn.api.gateway.reprocessing import Part, asset_ids
from immich_ml_cn.api.gateway.search_request import Call
from immich_ml_cn.api.json_object import json_object
from immich_ml_cn.errors import LoopDetected, Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.service import Service

from .admission import Admission
from .page import HEADERS

MAX_BODY_BYTES: Final = 1 << 20
PATHS: Final = ("/api/search/smart", "/api/search/metadata", asset_jobs.PATH)
PAGE_PATHS: Final = ("/again", "/again/preview")
"""Of the page: one photo again."""
KEYLESS: Final = (*PATHS, *PAGE_PATHS)
"""Immich itself asks for credentials there: our own key is not asked for."""


class ImmichRoutes:
    """Immich's routes that are answered here."""

    def __init__(self, admission: Admission, service: Service) -> None:
        self._admission = admission
        self._service = service

    def routes(self) -> list[BaseRoute]:
        """The three paths."""
        endpoints = (self.smart, self.metadata, self.jobs)
        routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in zip(PATHS, endpoints, strict=True)]
        return [*routes, Route("/again", self.again, methods=["POST"]), Route("/again/preview", self.preview)]

    @property
    def _immich(self) -> ImmichGateway:
        gateway = self._service.immich
        if gateway is None:
            raise Unavailable(tr("the server is starting"), retry_after=1)
        return gateway

    async def smart(self, request: Request) -> Response:
        """``POST /api/search/smart``."""
        return await self._search("smart", request)

    async def metadata(self, request: Request) -> Response:
        """``POST /api/search/metadata``."""
        return await self._search("metadata", request)

    async def jobs(self, request: Request) -> Response:
        """``POST /api/assets/jobs``."""
        caller = _caller(request)
        async with self._admission.admit(request) as active:
            body = await active.body(MAX_BODY_BYTES)
            async with active.while_connected():
                reply = await self._immich.asset_jobs.run(caller, body, _content_type(request))
        return _response(reply)

    async def again(self, request: Request) -> Response:
        """``POST /again``: ``{"photo": link or id, "parts": ["ocr", …]}``; only JSON, which other sites cannot send."""
        if _content_type(request).partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "the body must be application/json")
        async with self._admission.admit(request) as active:
            asset, parts = _photo_and_parts(await active.body(MAX_BODY_BYTES))
            async with active.while_connected():
                jobs = await self._immich.asset_jobs.reprocess(_caller(request), asset, parts)
        return JSONResponse({"photo": asset, "jobs": jobs}, 202)

    async def preview(self, request: Request) -> Response:
        """``GET /again/preview?photo=``: the photo as Immich shows it to the caller."""
        asset = _asset(request.query_params.get("photo", ""))
        reply = await self._immich.asset_jobs.preview(_caller(request), asset)
        if not reply.content_type.startswith("image/"):
            raise HTTPException(404, "Immich shows no such photo to this login")
        return Response(reply.body, reply.status, headers={"content-type": reply.content_type, **HEADERS})

    async def _search(self, call: Call, request: Request) -> Response:
        caller = _caller(request)
        async with self._admission.admit(request) as active:
            body = await active.body(MAX_BODY_BYTES)
            async with active.while_connected():
                reply = await self._immich.search.search(call, caller, body, _content_type(request))
        return _response(reply)


def _caller(request: Request) -> Caller:
    """
    Raises:
        LoopDetected: the request comes from a gateway.
    """
    if LOOP_HEADER in request.headers:
        raise LoopDetected(tr("a search of ours came back: does MACHINE_LEARNING_IMMICH_URL lead here?"))
    return Caller(credentials.pick(request.headers.items()), request.url.query)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "application/json")


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, headers={"content-type": reply.content_type})


def _photo_and_parts(body: bytes) -> tuple[str, list[Part]]:
    asked = json_object(body) or {}
    parts = asked.get("parts")
    if not isinstance(parts, list) or not parts or not set(map(str, parts)) <= set(Part):
        raise HTTPException(422, f"`parts` must be some of {', '.join(Part)}")
    return _asset(str(asked.get("photo", ""))), [Part(str(part)) for part in parts]


def _asset(text: str) -> str:
    found = asset_ids(text)
    if len(found) != 1:
        raise HTTPException(422, "`photo` must be the link of one photo from Immich's address bar, or its id")
    return found[0]
