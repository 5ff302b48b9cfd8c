"""ASGI middleware around the routes: the optional API key, and an access log with metrics."""

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

KEY_PREFIX: Final = "/key/"
"""Before a key in the path, for clients that can be given an address and nothing else: Immich 3 is one."""

_REFUSAL: Final = b'{"detail":"Invalid API key"}'


class ApiKeyMiddleware:
    """Answers requests without a valid API key with 401, but for those that need none.

    A key in the path is taken out of it, so that nobody logs it.
    """

    def __init__(self, app: App, keys: Iterable[str], is_exempt: Callable[[Scope], bool], root_path: str = "") -> None:
        """
        Args:
            keys: any of which is valid.
            is_exempt: true for a request that needs no key.
            root_path: sub-path that may come before everything.
        """
        self._app = app
        self._roots = sorted({"", root_path}, reverse=True)
        self._keys = tuple(key.encode() for key in keys)
        self._is_exempt = is_exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 401."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = self._take_key(scope)
        if key is not None:
            authorized = self._is_key(key)
        else:
            authorized = self._is_exempt(scope) or any(self._is_key(key) for key in _keys_of(scope))
        if authorized:
            await self._app(scope, receive, send)
            return
        logger.info("%s %s → 401: no key, or a wrong one", scope["method"], scope["path"])
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_REFUSAL)).encode())]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL})

    def _take_key(self, scope: Scope) -> bytes | None:
        """Take the key out of the path, None where it has none."""
        path: str = scope["path"]
        root = next((root for root in self._roots if path.startswith(root + KEY_PREFIX)), None)
        if root is None:
            return None
        key, _, rest = path.removeprefix(root + KEY_PREFIX).partition("/")
        scope["path"] = f"{root}/{rest}"
        scope["raw_path"] = None  # what Starlette reads is the path; the key is in no log
        return key.encode("utf-8", "surrogateescape")

    def _is_key(self, given: bytes) -> bool:
        """Compared in constant time."""
        return any(hmac.compare_digest(key, given) for key in self._keys)


def _keys_of(scope: Scope) -> list[bytes]:
    """The keys in a request's headers and query, wherever a client may put one."""
    found = []
    for name, value in scope["headers"]:
        if name in (b"x-api-key", b"api-key"):
            found.append(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            found.append(value[7:].strip())
    query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=None)
    return found + [key.encode("utf-8", "surrogateescape") for key in query.get("key", ())]


class AccessLogMiddleware:
    """Numbers the requests in the log, and counts and times the responses."""

    def __init__(self, app: App, metrics: Metrics, routes: Collection[str]) -> None:
        """
        Args:
            metrics: where the responses are counted.
            routes: paths that are counted by name; all others count as ``other``.
        """
        self._app = app
        self._metrics = metrics
        self._routes = frozenset(routes)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and record its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, started, status = next(self._numbers), time.monotonic(), 500
        token = REQUEST.set(f"r{number}")

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        finally:
            path = scope["path"]
            self._metrics.count_response(path if path in self._routes else "other", status)
            duration_ms = (time.monotonic() - started) * 1000
            logger.debug("%s %s → %d in %.0f ms", scope["method"], path, status, duration_ms)
            REQUEST.reset(token)
