"""One Immich server over pooled connections, asked with the credentials of whoever asks us."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from immich_ml_cn.api.http_client import HttpClient
from immich_ml_cn.api.json_object import Json
from immich_ml_cn.logs import redact_url
from immich_ml_cn.messages import tr

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
        self._server = HttpClient(
            url,
            tr("Immich at {address}", address=redact_url(url)),
            "MACHINE_LEARNING_IMMICH_URL",
            timeout_s=TIMEOUT_S,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            keepalive_s=KEEP_S,
        )
        self.close = self._server.close

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

    async def _ask(self, method: str, path: str, caller: Caller, body: bytes | None, content_type: str | None) -> Reply:
        headers = {**caller.credentials, "accept": "application/json", "accept-encoding": "identity", LOOP_HEADER: "1"}
        if content_type is not None:
            headers["content-type"] = content_type
        address = path + (f"?{caller.query_string}" if caller.query_string else "")
        response = await self._server.request(method, address, content=body, headers=headers)
        answered_type = response.headers.get("content-type", "application/json")
        return Reply(response.status_code, answered_type, response.content)
