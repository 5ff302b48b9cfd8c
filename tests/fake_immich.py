"""An Immich that keeps the contract of its two search calls and its asset jobs, over a real socket.

Two users; a photo is seen by its owner, and by a partner unless it is archived or locked. Photos are ordered as Immich
orders them: the metadata call by date, the smart call by a distance that depends on the words.
"""

import asyncio
import base64
import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SIZES = {"smart": 100, "metadata": 250}


@dataclass(frozen=True)
class Photo:
    id: str
    owner: str
    text: str
    created: str
    visibility: str = "timeline"
    favorite: bool = False


@dataclass
class FakeImmich:
    """Answers as Immich does; `delay_s` and `broken` (keys: smart, metadata, smart+ocr) make it slow or fail."""

    photos: list[Photo]
    tokens: Mapping[str, str]
    partners: Mapping[str, str] = field(default_factory=dict)
    delay_s: dict[str, float] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    port: int = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/search/smart", self.smart, methods=["POST"]),
                Route("/api/search/metadata", self.metadata, methods=["POST"]),
                Route("/api/assets/jobs", self.jobs, methods=["POST"]),
                Route("/api/users/me", self.me),
                Route("/api/assets/{id}", self.asset),
                Route("/api/assets/{id}/thumbnail", self.thumbnail),
            ]
        )

    def user(self, request: Request) -> str | None:
        token = request.cookies.get("immich_access_token") or request.headers.get("x-api-key")
        token = token or request.headers.get("authorization", "").removeprefix("Bearer ")
        return self.tokens.get(token or request.query_params.get("apiKey", ""))

    def seen(self, user: str) -> list[Photo]:
        partner = self.partners.get(user)
        return [
            photo
            for photo in self.photos
            if photo.owner == user or (photo.owner == partner and photo.visibility == "timeline")
        ]

    def found(self, call: str, user: str, body: Mapping[str, Any]) -> list[Photo]:
        """All photos that a call finds, in Immich's order."""
        found = [photo for photo in self.seen(user) if matches(photo, body)]
        if call == "smart":
            return sorted(found, key=lambda photo: distance(photo.id, str(body.get("query", body.get("queryAssetId")))))
        return sorted(found, key=lambda photo: (photo.created, photo.id), reverse=body.get("order") != "asc")

    async def metadata(self, request: Request) -> Response:
        return await self.search(request, "metadata")

    async def smart(self, request: Request) -> Response:
        return await self.search(request, "smart")

    async def search(self, request: Request, call: str) -> Response:
        try:
            body = await request.json()
        except ValueError:
            return JSONResponse({"message": "Unexpected token", "statusCode": 400}, 400)
        self.requests.append((call, dict(request.headers), body))
        kind = "smart+ocr" if call == "smart" and "ocr" in body else call
        await asyncio.sleep(self.delay_s.get(kind, 0))
        if kind in self.broken:
            return JSONResponse({"message": "Internal server error", "statusCode": 500}, 500)
        user = self.user(request)
        if user is None:
            return JSONResponse({"message": "Authentication required", "statusCode": 401}, 401)
        if call == "smart" and not (body.get("query") or body.get("queryAssetId")):
            return JSONResponse({"message": "Either `query` or `queryAssetId` must be set", "statusCode": 400}, 400)
        found = self.found(call, user, body)
        page, size = int(body.get("page", 1)), int(body.get("size", SIZES[call]))
        return JSONResponse(answer(found[(page - 1) * size : page * size], page if len(found) > page * size else None))

    async def jobs(self, request: Request) -> Response:
        self.requests.append(("jobs", dict(request.headers), await request.json()))
        return Response(status_code=204 if self.user(request) else 401)

    async def me(self, request: Request) -> Response:
        user = self.user(request)
        return JSONResponse({"id": user}) if user else JSONResponse({"message": "Authentication required"}, 401)

    async def asset(self, request: Request) -> Response:
        user = self.user(request)
        seen = {photo.id: photo for photo in self.seen(user)} if user else {}
        photo = seen.get(request.path_params["id"])
        if photo is None:
            return JSONResponse({"message": "Not found or no asset.read access"}, 400)
        return JSONResponse({"id": photo.id, "ownerId": photo.owner})

    async def thumbnail(self, request: Request) -> Response:
        user = self.user(request)
        if user is None or request.path_params["id"] not in {photo.id for photo in self.seen(user)}:
            return JSONResponse({"message": "Not found or no asset.view access"}, 400)
        return Response(PIXEL, media_type="image/png")

    @contextmanager
    def running(self) -> Iterator["FakeImmich"]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(self.app(), log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield self
        finally:
            server.should_exit = server.force_exit = True  # not waiting for answers that are late on purpose
            thread.join(30)
            listener.close()


def answer(photos: list[Photo], page: int | None) -> dict[str, Any]:
    """A page in Immich's form; `page` is the number of this one where another follows."""
    items = [
        {"id": photo.id, "ownerId": photo.owner, "fileCreatedAt": photo.created, "type": "IMAGE"} for photo in photos
    ]
    following = None if page is None else str(page + 1)
    assets = {"total": len(items), "count": len(items), "items": items, "facets": [], "nextPage": following}
    return {"albums": {"total": 0, "count": 0, "items": [], "facets": []}, "assets": assets}


def matches(photo: Photo, body: Mapping[str, Any]) -> bool:
    """Immich's filters, those that the tests use."""
    return (
        has_text(photo.text, body.get("ocr", ""))
        and body.get("isFavorite", photo.favorite) == photo.favorite
        and body.get("visibility", photo.visibility) == photo.visibility
        and body.get("takenAfter", "") <= photo.created <= body.get("takenBefore", "9")
    )


def has_text(text: str, wanted: str) -> bool:
    """Letter by letter, and a single ideograph only where it stands alone: Immich keeps pairs of them."""
    alone = rf"(?<![\u3400-\u9fff]){wanted}(?![\u3400-\u9fff])"
    return wanted in text if not re.fullmatch(r"[\u3400-\u9fff]", wanted) else re.search(alone, text) is not None


def distance(photo: str, words: str) -> bytes:
    """An order that depends on the words, the same at every call."""
    return hashlib.sha256(f"{photo}/{words}".encode()).digest()
