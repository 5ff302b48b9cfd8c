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

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        """
        Args:
            message: what the client is told.
            retry_after: seconds until another try makes sense, sent as ``Retry-After``.
        """
        super().__init__(message)
        self.retry_after = retry_after


class BadRequest(ServiceError):
    """400: the request lacks what its tasks need, or its body is broken."""

    status = 400
    code = "bad_request"


class BadImage(BadRequest):
    """400: the image is empty, truncated, of zero size or of no format we read."""

    code = "bad_image"


class NotAllowed(ServiceError):
    """403: what is asked for belongs to somebody else, or nobody knows who asks."""

    status = 403
    code = "not_allowed"


class RequestTimeout(ServiceError):
    """408: the request did not arrive in the time it has; the connection is closed."""

    status = 408
    code = "request_timeout"


class TooLarge(ServiceError):
    """413: the body or the decoded image is over the configured limit."""

    status = 413
    code = "too_large"


class UnsupportedEncoding(ServiceError):
    """415: the body is compressed; the message names the header that says so."""

    status = 415
    code = "unsupported_encoding"


class InvalidEntries(ServiceError):
    """422: `entries` is missing, malformed, empty or names an unknown task or type."""

    status = 422
    code = "invalid_entries"


class NotServed(InvalidEntries):
    """422: a task or type that this server does not know."""

    code = "not_served"


class UnknownModel(NotServed):
    """422: no model of that name exists for the task; the message names those that would work."""

    code = "unknown_model"


class Unavailable(ServiceError):
    """503: a model cannot be had at the moment, or the server is shutting down or overloaded."""

    status = 503
    code = "unavailable"


class OutOfMemory(Unavailable):
    """503: the device's memory did not suffice for this input, even alone and with every idle model unloaded."""

    code = "out_of_memory"


class DamagedModel(Unavailable):
    """503: a model's file is not what its name says, e.g. cut short by a full disk."""

    code = "damaged_model"

    def __init__(self, path: Path, reason: str) -> None:
        """
        Args:
            path: the file.
            reason: why it cannot be loaded.
        """
        super().__init__(tr("{path} cannot be loaded: {reason}", path=path, reason=reason))
        self.path = path
        self.reason = reason


class InferenceFailed(ServiceError):
    """500: the model itself failed on this input."""

    code = "inference_failed"


class UpstreamFailed(ServiceError):
    """502: the server that a request was forwarded to cannot be reached or did not answer it; the message names it."""

    status = 502
    code = "upstream_failed"


class UpstreamTimeout(ServiceError):
    """504: the server that a request was forwarded to took too long; the message names it."""

    status = 504
    code = "upstream_timeout"


class LoopDetected(ServiceError):
    """508: a request that was forwarded to us would have to be forwarded once more."""

    status = 508
    code = "loop_detected"
