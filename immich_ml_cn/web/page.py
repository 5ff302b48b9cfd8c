"""The page for people: its files, which clients are given it instead of Immich's JSON, and what only it asks for."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from immich_ml_cn.api.json_object import json_object
from immich_ml_cn.service import Service
from immich_ml_cn.settings import Settings, meanings

from .forms import read_body
from .middleware import Scope

FOLDER: Final = Path(__file__).with_name("static")
INDEX: Final = "index.html"
FILES: Final = "/page/"
"""What the paths of its files begin with; they need no key, for they say nothing of this server."""

_TYPES: Final = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every file: scripts and styles from this server only, connections to nobody else, and no frame around it."""


class KeylessPaths:
    """True for requests that are answered without a key: ``/ping``, and the page with its files, which says nothing."""

    def __init__(self, root_path: str, others: Collection[str] = ()) -> None:
        """
        Args:
            others: further paths that need none.
        """
        self._root_path = root_path
        self._paths = {"/ping", *others}

    def __call__(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(self._root_path)
        if path == "/":
            return prefers_html(Headers(scope=scope).get("accept", ""))
        return path in self._paths or path.startswith(FILES)


MAX_QUERY: Final = 1000
"""Characters of a search."""
MAX_MATCHES: Final = 20
"""Photos that a search describes."""
MAX_BODY_BYTES: Final = 4096
"""Of a request to load a model: a name in JSON."""


class Page:
    """The page's routes."""

    def __init__(self, settings: Settings, service: Service) -> None:
        self._settings = settings
        self._service = service
        self._files = {
            name: Response(data, media_type=_TYPES[Path(name).suffix], headers=HEADERS)
            for name, data in read_files().items()
        }

    def routes(self) -> list[BaseRoute]:
        """Its files, and what its scripts ask for beside Immich's routes and ``/status``."""
        return [
            Route(f"{FILES}{{name}}", self.file),
            Route("/settings", self.settings),
            Route("/search", self.search),
            Route("/models/load", self.load, methods=["POST"]),
        ]

    def index(self) -> Response:
        """The page itself."""
        return self._files[INDEX]

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        return self._files[name]

    async def settings(self, request: Request) -> Response:
        """Every setting as it was read at the start; secrets are null."""
        texts = meanings()
        shown = ({**asdict(row), "meaning": texts.get(row.variable, "")} for row in self._settings.in_force)
        return JSONResponse(list(shown))

    async def search(self, request: Request) -> Response:
        """``GET /search?query=``: the photos whose text fits, the best first; 404 where nothing is kept for it."""
        query = request.query_params.get("query", "")[:MAX_QUERY]
        found = await self._service.look_up(query, MAX_MATCHES) if query else None
        if found is None:
            raise HTTPException(404, "text search is off, or nothing is searched for")
        return JSONResponse(found)

    async def load(self, request: Request) -> Response:
        """Load a model that failed without waiting for its next try: ``{"model": key}``, a key of ``/status``.

        Only JSON is accepted: other sites' pages cannot send that here.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "the body must be application/json")
        key = _model_key(await read_body(request.stream(), MAX_BODY_BYTES))
        if not self._service.registry.retry(key):
            raise HTTPException(404, "no model of that name has been asked for")
        return JSONResponse({"model": key}, 202)


def _model_key(body: bytes) -> str:
    key = (json_object(body) or {}).get("model")
    if not isinstance(key, str):
        raise HTTPException(422, 'the body must be {"model": name}')
    return key


def read_files() -> dict[str, bytes]:
    """The files that may be asked for: about 100 KB."""
    return {file.name: file.read_bytes() for file in FOLDER.iterdir() if file.suffix in _TYPES}


def prefers_html(accept: str) -> bool:
    """True if a client accepts HTML by name and does not prefer JSON, as browsers do.

    Immich's server sends ``*/*``, curl as well: they are answered in JSON.

    Args:
        accept: the ``Accept`` header (RFC 9110, section 12.5.1).
    """
    weights = {"text/html": 0.0, "application/json": 0.0}
    for media_range in accept.split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        if name in weights:
            weights[name] = _weight(parameters)
    return weights["text/html"] > 0 and weights["text/html"] >= weights["application/json"]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
