"""One file over HTTP: resumed where it was cut, given up where it stalls.

Works on any `httpx2.Client`: our own for files and archives, Hugging Face's for the hub.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING

from immich_ml_cn.messages import tr

from .failure import SourceFailed, writing
from .monitor import Stalled, TransferMonitor
from .options import FetchOptions
from .partial_file import Fetched, PartialFile

if TYPE_CHECKING:
    import httpx2

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_REASONS = {
    401: tr("wants a token or does not have it (401)"),
    403: tr("refuses access (403)"),
    404: tr("does not have it (404)"),
    410: tr("no longer has it (410)"),
    429: tr("asks us to slow down (429)"),
}
_MIN_PROGRESS = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file is, and what has to be sent to get it."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Host and port, for people."""
        return self.url.partition("://")[2].partition("/")[0]


class _TransientFailure(Exception):
    """The server could answer later."""

    def __init__(self, failure: SourceFailed) -> None:
        super().__init__(str(failure))
        self.failure = failure


def new_client() -> "httpx2.Client":
    """A client for files and archives; proxies and certificates as the environment says."""
    import httpx2

    from immich_ml_cn import __version__

    return httpx2.Client(follow_redirects=True, headers={"User-Agent": f"immich-ml-cn/{__version__}"})


def transfer(
    client: "httpx2.Client", address: Address, part: PartialFile, options: FetchOptions, monitor: TransferMonitor
) -> Fetched:
    """Bring the rest of a file and check the whole of it.

    Raises:
        SourceFailed: refused, unreachable, stalled, cut too often, or wrong bytes.
        DiskFailed: the disk does not take it.
        Cancelled: nobody waits for it any more.
    """
    monitor.progress.start(part.name, part.size, part.expected.size)
    try:
        if not part.is_complete:
            _download_with_retries(client, address, part, options, monitor)
        return part.finish()
    finally:
        monitor.progress.finish()


def _download_with_retries(
    client: "httpx2.Client", address: Address, part: PartialFile, options: FetchOptions, monitor: TransferMonitor
) -> None:
    import httpx2

    failures = 0
    while True:
        monitor.raise_if_cancelled()
        before, wait = part.size, options.backoff_s * 2**failures
        try:
            _stream(client, address, part, options, monitor)
            return
        except _TransientFailure as transient:
            failures += 1
            wait = max(wait, transient.failure.retry_after or 0)
            if failures > 2 or wait > options.max_retry_after_s:
                raise transient.failure from transient
        except (Stalled, httpx2.ReadTimeout) as stall:
            if part.size - before < _MIN_PROGRESS:
                raise SourceFailed(tr("stalled while sending {name}", name=part.name), answered=False) from stall
            failures = 0
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            if part.size == before and failures == 0:
                raise SourceFailed(unreachable(error, options), reached=False) from error
            failures += 1
        except httpx2.TransportError as cut:
            failures = 1 if part.size - before >= _MIN_PROGRESS else failures + 1
            if isinstance(cut, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
                raise SourceFailed(tr("sends us to a place we do not go: {reason}", reason=cut)) from cut
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise SourceFailed(tr("cannot be understood: {reason}", reason=error)) from error
        if failures > options.max_retries:
            raise SourceFailed(tr("was cut {count} times while sending {name}", count=failures, name=part.name))
        monitor.wait(min(wait, options.max_retry_after_s))


def _stream(
    client: "httpx2.Client", address: Address, part: PartialFile, options: FetchOptions, monitor: TransferMonitor
) -> None:
    import httpx2

    timeout = httpx2.Timeout(options.stall_timeout_s, connect=options.connect_timeout_s)
    headers = {**address.headers, "Accept-Encoding": "identity", **_range_headers(part)}
    with client.stream("GET", address.url, headers=headers, timeout=timeout) as answer:
        if answer.status_code == 416:
            if answer.headers.get("Content-Range") == f"bytes */{part.size}":
                return
            part.restart()
            raise _TransientFailure(refused(416, {}))
        if answer.status_code in _TRANSIENT:
            raise _TransientFailure(refused(answer.status_code, answer.headers))
        if answer.status_code >= 400:
            raise refused(answer.status_code, answer.headers)
        total = _accept(answer, part)
        if part.expected.size is None and total is not None:
            monitor.progress.start(part.name, part.size, total)
        monitor.start_window()
        for chunk in answer.iter_raw():
            part.write(chunk)
    if total is not None and part.size < total:
        raise httpx2.RemoteProtocolError(f"{part.size} of {total} bytes")


def _accept(answer: "httpx2.Response", part: PartialFile) -> int | None:
    """Decide whether the answer continues the part; the size of the whole file where the server says it."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code == 206 and found and int(found[1]) == part.size:
        return None if found[2] == "*" else int(found[2])
    if answer.status_code != 200:
        part.restart()
        raise _TransientFailure(SourceFailed(tr("does not send the range we ask for")))
    if part.size:
        part.restart()
    _store_validator(answer.headers, part)
    length = answer.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None


def refused(status: int, headers: Mapping[str, str]) -> SourceFailed:
    """The failure an answer of 400 or more means."""
    reason = _REASONS.get(status) or tr("answers {status}", status=status)
    return SourceFailed(reason, retry_after=_retry_after(headers.get("Retry-After")))


def _retry_after(value: str | None) -> int | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    if value is None:
        return None
    if seconds := re.fullmatch(r"\s*([0-9]{1,9})\s*", value):
        return int(seconds[1])
    try:
        return max(0, round(parsedate_to_datetime(value).timestamp() - time()))
    except (ValueError, OverflowError):
        return None


def _range_headers(part: PartialFile) -> dict[str, str]:
    """Headers that ask for the rest; without a checksum only if the file is still the same one."""
    if part.size == 0:
        return {}
    headers = {"Range": f"bytes={part.size}-"}
    if part.expected.identity is not None:
        return headers
    note = part.path.with_suffix(".etag")
    if not note.is_file():
        return {}
    return {**headers, "If-Range": note.read_text()}


def _store_validator(headers: Mapping[str, str], part: PartialFile) -> None:
    note = part.path.with_suffix(".etag")
    validator = headers.get("ETag", "")
    if not validator or validator.startswith("W/"):
        validator = headers.get("Last-Modified", "")
    with writing(note):
        if validator:
            note.write_text(validator)
        else:
            note.unlink(missing_ok=True)


def unreachable(error: Exception, options: FetchOptions) -> str:
    """Why there was no connection, for people."""
    text = str(error) or type(error).__name__
    if "SSL" in text or "certificate" in text:
        return tr("has no working TLS ({reason})", reason=text)
    if "imed out" in text or "Timeout" in type(error).__name__:
        return tr("did not answer within {seconds:g} s", seconds=options.connect_timeout_s)
    return tr("cannot be reached ({reason})", reason=text)
