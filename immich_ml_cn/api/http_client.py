"""Another server over pooled connections: what fails there is a failure that names it."""

import asyncio
from typing import TYPE_CHECKING, Any

from immich_ml_cn.errors import UpstreamFailed, UpstreamTimeout
from immich_ml_cn.messages import tr

if TYPE_CHECKING:
    import httpx2


class HttpClient:
    """A client of one server."""

    def __init__(
        self, url: str, name: str, setting: str, *, timeout_s: float, connect_timeout_s: float, keepalive_s: float
    ) -> None:
        """
        Args:
            url: with a sub-path where there is one.
            name: what failures call the server; without its secrets.
            setting: the variable that says where it is.
            timeout_s: for one request from its start to its answer.
            connect_timeout_s: for a connection to open.
            keepalive_s: that an idle connection is kept: less than the server does, for whoever closes first is safe.
        """
        import httpx2  # only here: a server that asks no other starts without it

        self.name = name
        self._url = url.rstrip("/")
        self._setting = setting
        self._timeout_s = timeout_s
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=connect_timeout_s),
            limits=httpx2.Limits(keepalive_expiry=keepalive_s),
            trust_env=False,
        )

    async def request(
        self, method: str, path: str, *, timeout_s: float | None = None, **options: Any
    ) -> "httpx2.Response":
        """Send a request; cookies of the answer are forgotten.

        Args:
            timeout_s: another one than usual.
            options: of httpx.

        Raises:
            UpstreamFailed: the server cannot be reached.
            UpstreamTimeout: it takes longer than it may.
        """
        import httpx2

        try:
            async with asyncio.timeout(self._timeout_s if timeout_s is None else timeout_s):
                response = await self._client.request(method, f"{self._url}{path}", **options)
        except TimeoutError:
            raise UpstreamTimeout(tr("{name} did not answer in time", name=self.name)) from None
        except httpx2.TimeoutException as error:
            reason = type(error).__name__
            raise UpstreamTimeout(
                tr("{name} cannot be reached in time ({reason})", name=self.name, reason=reason)
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            reason = str(error) or type(error).__name__
            message = tr(
                "{name} cannot be reached: {reason}; is {setting} right?",
                name=self.name,
                reason=reason,
                setting=self._setting,
            )
            raise UpstreamFailed(message) from error
        self._client.cookies.clear()  # what it sets is one caller's and nobody else's
        return response

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
