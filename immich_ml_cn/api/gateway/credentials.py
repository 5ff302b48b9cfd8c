"""What a caller proves itself with: passed on to Immich, never logged, never kept."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final

HEADERS: Final = ("cookie", "authorization", "x-immich-user-token", "x-immich-session-token", "x-api-key")
"""Where Immich looks for credentials; its query strings (``apiKey``, ``sessionKey``, ``key``, ``slug``) go along as
they are."""


def pick(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The credentials among a request's headers; nothing else of a request is passed on.

    Args:
        headers: name in lower case, value. Of a cookie that comes in several headers all parts count.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if name == "cookie" and name in found:
            found[name] += f"; {value}"
        elif name in HEADERS:
            found[name] = value
    return found


def fingerprint(secret: bytes, credentials: Mapping[str, str], query_string: str, body: bytes) -> bytes:
    """A keyed digest (HMAC-SHA256) of who asks for what, from which neither can be found out."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in (*(f"{name}:{credentials.get(name, '')}" for name in HEADERS), query_string):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(body)
    return digest.digest()
