"""The server that runs on this machine with the same settings, if one does: asked over its port."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from immich_ml_cn.settings import Settings

if TYPE_CHECKING:
    import httpx2

PREDICT_TIMEOUT_S: Final = 600.0
"""Seconds that an answer may take: a model may have to be fetched for it."""

STATUS_TIMEOUT_S: Final = 2.0


class LocalServer:
    """A client of the port that the settings name."""

    def __init__(self, settings: Settings) -> None:
        wildcard = settings.host in {"::", "0.0.0.0"}  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if wildcard else settings.host
        self.address: Final = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}{settings.root_path}"
        """Where it is asked."""
        self._headers = {"x-api-key": settings.api_key} if settings.api_key else {}

    def answers(self) -> bool:
        """Whether a server says pong."""
        try:
            response = self._ask("GET", "/ping", STATUS_TIMEOUT_S)
        except OSError:
            return False
        return (response.status_code, response.content) == (200, b"pong")

    def ready_models(self) -> frozenset[str]:
        """The models that it has in memory, as ``task/model/component``; none where nobody answers."""
        try:
            models = self._ask("GET", "/status", STATUS_TIMEOUT_S).json()["models"]
            return frozenset(key for key, model in models.items() if model["state"] == "ready")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return frozenset()

    def predict(self, entries: Mapping[str, Any], image: bytes) -> tuple[int, dict[str, Any]]:
        """Status and answer of ``POST /predict``.

        Raises:
            OSError: it cannot be reached, or does not answer as an HTTP server.
        """
        form = {"entries": (None, json.dumps(entries)), "image": ("photo", image)}
        response = self._ask("POST", "/predict", PREDICT_TIMEOUT_S, files=form)
        try:
            document = response.json()
        except ValueError as error:
            raise OSError(str(error)) from error
        return response.status_code, document if isinstance(document, dict) else {}

    def _ask(self, method: str, path: str, timeout_s: float, **options: Any) -> "httpx2.Response":
        import httpx2  # only here: most commands start without it

        try:
            with httpx2.Client(headers=self._headers, timeout=timeout_s, trust_env=False) as client:
                return client.request(method, f"{self.address}{path}", **options)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise OSError(str(error) or type(error).__name__) from error
