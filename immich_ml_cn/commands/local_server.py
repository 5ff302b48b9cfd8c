"""The server that runs on this machine with the same settings, if one does: asked over its port."""

import http.client
import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from immich_ml_cn.settings import Settings

PATIENCE_S: Final = 600.0
"""Seconds that an answer may take: a model may have to be fetched for it."""

_QUICK_S: Final = 2.0


class LocalServer:
    """A client of the port that the settings name."""

    def __init__(self, settings: Settings) -> None:
        wildcard = settings.host in {"::", "0.0.0.0"}  # noqa: S104 - compared, not bound
        self._host = "127.0.0.1" if wildcard else settings.host
        self._port = settings.port
        self._root = settings.root_path
        self._headers = {"x-api-key": settings.api_key} if settings.api_key else {}

    @property
    def address(self) -> str:
        """Where it is asked."""
        return f"http://{self._host}:{self._port}{self._root}"

    def answers(self) -> bool:
        """Whether a server says pong."""
        try:
            return self._ask("GET", "/ping", timeout_s=_QUICK_S) == (200, b"pong")
        except (OSError, http.client.HTTPException):
            return False

    def ready_models(self) -> frozenset[str]:
        """The models that it has in memory, as ``task/model/component``; none where nobody answers."""
        try:
            models = json.loads(self._ask("GET", "/status", timeout_s=_QUICK_S)[1])["models"]
            return frozenset(key for key, model in models.items() if model["state"] == "ready")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException):
            return frozenset()

    def predict(self, entries: Mapping[str, Any], image: bytes) -> tuple[int, dict[str, Any]]:
        """Status and answer of ``POST /predict``.

        Raises:
            OSError: it cannot be reached, or does not answer as an HTTP server.
        """
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="entries"\r\n\r\n{json.dumps(entries)}\r\n'
        part = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="photo"\r\n\r\n'
        body = head.encode() + part.encode() + image + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        try:
            status, answer = self._ask("POST", "/predict", body, kind, timeout_s=PATIENCE_S)
            document = json.loads(answer)
        except (ValueError, http.client.HTTPException) as error:
            raise OSError(str(error) or type(error).__name__) from error
        return status, document if isinstance(document, dict) else {}

    def _ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", *, timeout_s: float
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        headers = {**self._headers, **({"content-type": kind} if kind else {})}
        try:
            connection.request(method, f"{self._root}{path}", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
