"""What stands before the routes: the optional key, and a note of every answer."""

import hmac
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from immich_ml_cn.logs import REQUEST
from immich_ml_cn.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

IN_PATH: Final = "/key/"
"""Before a key in the path, for clients that can be given an address and nothing else: Immich 3 is one."""

_REFUSAL: Final = b'{"detail":"Invalid API key"}'


class Guard:
    """Lets requests through that bring a key, and all requests to the paths that need none."""

    def __init__(self, app: App, keys: Iterable[str], free: Collection[str]) -> None:
        """
        Args:
            keys: any of which will do.
            free: paths for which none is needed.
        """
        self._app = app
        self._keys = tuple(key.encode() for key in keys)
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 401."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path.startswith(IN_PATH):
            key, _, rest = path.removeprefix(IN_PATH).partition("/")
            admitted = self._is_key(key.encode("utf-8", "surrogateescape"))
            scope["path"] = f"/{rest}"
            scope["raw_path"] = None  # what Starlette reads is the path; the key is in no log
        else:
            admitted = path in self._free or any(self._is_key(key) for key in _brought(scope))
        if admitted:
            await self._app(scope, receive, send)
            return
        logger.info("%s %s → 401: no key, or a wrong one", scope["method"], scope["path"])
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_REFUSAL)).encode())]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL})

    def _is_key(self, given: bytes) -> bool:
        """In a time that does not tell how much of it is right."""
        return any(hmac.compare_digest(key, given) for key in self._keys)


def _brought(scope: Scope) -> list[bytes]:
    """The keys that a request brings, wherever a client may put one."""
    found = []
    for name, value in scope["headers"]:
        if name in (b"x-api-key", b"api-key"):
            found.append(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            found.append(value[7:].strip())
    query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=None)
    return found + [key.encode("utf-8", "surrogateescape") for key in query.get("key", ())]


class Journal:
    """Gives each request a number for the log, and counts and times the answers."""

    def __init__(self, app: App, metrics: Metrics, routes: Collection[str]) -> None:
        """
        Args:
            metrics: where the answers are counted.
            routes: paths that are counted by name; what is asked for elsewhere is ``other``.
        """
        self._app = app
        self._metrics = metrics
        self._routes = frozenset(routes)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note how it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, started, status = next(self._numbers), time.monotonic(), 500
        token = REQUEST.set(f"r{number}")

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = scope["path"]
            self._metrics.count_response(path if path in self._routes else "other", status)
            took_ms = (time.monotonic() - started) * 1000
            logger.debug("%s %s → %d in %.0f ms", scope["method"], path, status, took_ms)
            REQUEST.reset(token)
