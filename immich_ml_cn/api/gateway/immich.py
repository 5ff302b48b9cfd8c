"""One Immich server over pooled connections, asked with the credentials of whoever asks us."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from immich_ml_cn.errors import UpstreamFailed, UpstreamTimeout
from immich_ml_cn.logs import redact_url
from immich_ml_cn.messages import tr

from .search_request import Json

if TYPE_CHECKING:
    pass

LOOP_HEADER: Final = "x-immich-ml-cn-gateway"
"""Marks a request of ours to Immich; one that comes back with it went in a circle."""
KEEP_S: Final = 4.0
"""Seconds that an idle connection is kept: Node closes it after 5, and whoever closes first is safe."""
TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the credentials and the query string of a request."""

    credentials: Mapping[str, str]
    query_string: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of Immich's, as it came."""

    status: int
    content_type: str
    body: bytes

    @property
    def is_success(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300


class Immich:
    """Asks one Immich server. Nothing of a caller is kept."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: such as ``http://immich-server:2283``, with a sub-path where there is one.
        """
        import httpx2  # only here: a server without a gateway starts without it

        self._url = url.rstrip("/")
        self.name = redact_url(self._url)
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(keepalive_expiry=KEEP_S),
            trust_env=False,
            follow_redirects=False,
        )

    async def post(self, path: str, caller: Caller, body: bytes, content_type: str = "application/json") -> Reply:
        """Send a body as it is.

        Raises:
            UpstreamFailed: Immich cannot be reached.
            UpstreamTimeout: it did not answer in time.
        """
        return await self._ask("POST", path, caller, body, content_type)

    async def post_json(self, path: str, caller: Caller, document: Mapping[str, Json]) -> Reply:
        """`post` of a document."""
        return await self.post(path, caller, orjson.dumps(document))

    async def get(self, path: str, caller: Caller) -> Reply:
        """
        Raises:
            UpstreamFailed, UpstreamTimeout: as `post`.
        """
        return await self._ask("GET", path, caller, None, None)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, caller: Caller, body: bytes | None, content_type: str | None) -> Reply:
        headers = {**caller.credentials, "accept": "application/json", "accept-encoding": "identity", LOOP_HEADER: "1"}
        if content_type is not None:
            headers["content-type"] = content_type
        url = f"{self._url}{path}" + (f"?{caller.query_string}" if caller.query_string else "")
        with self._failures():
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._client.request(method, url, content=body, headers=headers)
        self._client.cookies.clear()  # what Immich sets is one caller's and nobody else's
        answered_type = response.headers.get("content-type", "application/json")
        return Reply(response.status_code, answered_type, response.content)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (TimeoutError, httpx2.TimeoutException):
            raise UpstreamTimeout(tr("Immich at {name} did not answer in time", name=self.name)) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            reason = str(error) or type(error).__name__
            message = tr(
                "Immich at {name} cannot be reached: {reason}; is MACHINE_LEARNING_IMMICH_URL right?",
                name=self.name,
                reason=reason,
            )
            raise UpstreamFailed(message) from error
