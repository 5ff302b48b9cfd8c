"""The failures a client can see, each with its HTTP status.

Raise these anywhere below ``app``; one place there turns them into ``{"detail": message, "code": code}``. A message is
one sentence for the person who reads the log: what is wrong and, where we can tell, what to do.
"""

from pathlib import Path
from typing import ClassVar

from .messages import tr


class ServiceError(Exception):
    """Base of every failure that has an HTTP status of its own."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    """What programs may go by: it does not change, as the message may."""

    def __init_subclass__(cls, *, status: int | None = None, code: str | None = None) -> None:
        """What a class does not give is its base's."""
        cls.status = status or cls.status
        cls.code = code or cls.code

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        """
        Args:
            message: what the client is told.
            retry_after: seconds until another try makes sense, sent as ``Retry-After``.
        """
        super().__init__(message)
        self.retry_after = retry_after


class BadRequest(ServiceError, status=400, code="bad_request"):
    """400: the request lacks what its tasks need, or its body is broken."""


class BadImage(BadRequest, code="bad_image"):
    """400: the image is empty, truncated, of zero size or of no format we read."""


class NotAllowed(ServiceError, status=403, code="not_allowed"):
    """403: what is asked for belongs to somebody else, or nobody knows who asks."""


class RequestTimeout(ServiceError, status=408, code="request_timeout"):
    """408: the request did not arrive in the time it has; the connection is closed."""


class TooLarge(ServiceError, status=413, code="too_large"):
    """413: the body or the decoded image is over the configured limit."""


class UnsupportedEncoding(ServiceError, status=415, code="unsupported_encoding"):
    """415: the body is compressed; the message names the header that says so."""


class InvalidEntries(ServiceError, status=422, code="invalid_entries"):
    """422: `entries` is missing, malformed, empty or names an unknown task or type."""


class NotServed(InvalidEntries, code="not_served"):
    """422: a task or type that this server does not know."""


class UnknownModel(NotServed, code="unknown_model"):
    """422: no model of that name exists for the task; the message names those that would work."""


class Unavailable(ServiceError, status=503, code="unavailable"):
    """503: a model cannot be had at the moment, or the server is shutting down or overloaded."""


class OutOfMemory(Unavailable, code="out_of_memory"):
    """503: the device's memory did not suffice for this input, even alone and with every idle model unloaded."""


class DamagedModel(Unavailable, code="damaged_model"):
    """503: a model's file is not what its name says, e.g. cut short by a full disk."""

    def __init__(self, path: Path, reason: str) -> None:
        """
        Args:
            path: the file.
            reason: why it cannot be loaded.
        """
        super().__init__(tr("{path} cannot be loaded: {reason}", path=path, reason=reason))
        self.path = path
        self.reason = reason


class InferenceFailed(ServiceError, code="inference_failed"):
    """500: the model itself failed on this input."""


class UpstreamFailed(ServiceError, status=502, code="upstream_failed"):
    """502: the server that a request was forwarded to cannot be reached or did not answer it; the message names it."""


class UpstreamTimeout(ServiceError, status=504, code="upstream_timeout"):
    """504: the server that a request was forwarded to took too long; the message names it."""


class LoopDetected(ServiceError, status=508, code="loop_detected"):
    """508: a request that was forwarded to us would have to be forwarded once more."""
