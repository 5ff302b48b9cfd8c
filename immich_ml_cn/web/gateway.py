"""The routes in front of Immich: its search calls, and its jobs for single photos."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from immich_ml_cn.api.gateway import asset_jobs, credentials
from immich_ml_cn.api.gateway.gateway import ImmichGateway
from immich_ml_cn.api.gateway.immich import LOOP_HEADER, Caller, Reply
from immich_ml_cn.api.gateway.search_request import Call
from immich_ml_cn.errors import LoopDetected, Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.service import Service

from .admission import Admission

MAX_BODY_BYTES: Final = 1 << 20
PATHS: Final = ("/api/search/smart", "/api/search/metadata", asset_jobs.PATH)
"""Immich itself asks for credentials there: our own key is not asked for."""


class ImmichRoutes:
    """Immich's routes that are answered here."""

    def __init__(self, admission: Admission, service: Service) -> None:
        self._admission = admission
        self._service = service

    def routes(self) -> list[BaseRoute]:
        """The three paths."""
        endpoints = (self.smart, self.metadata, self.jobs)
        return [Route(path, endpoint, methods=["POST"]) for path, endpoint in zip(PATHS, endpoints, strict=True)]

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
