"""Requests for what we do not serve: they go to another Immich-protocol server, with ours beside them.

Without such a server nothing is forwarded, and what nobody knows stays an error.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import orjson

from immich_ml_cn.errors import BadRequest, LoopDetected, NotServed, UpstreamFailed, UpstreamTimeout
from immich_ml_cn.logs import redact_url
from immich_ml_cn.messages import tr
from immich_ml_cn.models.results import ReadText
from immich_ml_cn.serving.concurrency import gather_or_cancel
from immich_ml_cn.serving.pipeline import Predictor
from immich_ml_cn.serving.tasks import Tasks

from .immich import answer_body, gateways_ocr_body, parse_entries, read_tasks, write_body

if TYPE_CHECKING:
    import httpx2

HEADER: Final = "x-immich-ml-cn-forwarded"
"""Marks a request that was forwarded once; it is not forwarded again."""

KEEPALIVE_TIMEOUT_S: Final = 1.5
"""Seconds that an idle connection is kept: Immich's own service closes it after 2, and whoever closes first is safe."""

HEALTH_TIMEOUT_S: Final = 2.0
"""Seconds that the other server has to answer ``/ping``, as Immich's server allows."""


class Gateway:
    """Answers requests: what we serve by our pipeline, the rest by the server behind us, merged into one answer."""

    def __init__(self, pipeline: Predictor, upstream: "Upstream | None" = None, always: Iterable[str] = ()) -> None:
        """
        Args:
            upstream: where the rest goes; None where there is no other server.
            always: tasks that go there even though we could serve them.
        """
        self._pipeline = pipeline
        self._upstream = upstream
        self._always = frozenset(always)

    async def answer(
        self, entries: str | None, image: bytes | None, text: str | None, *, forwarded: bool = False
    ) -> bytes:
        """The response body of one request.

        A task goes to one of the two as a whole: its types depend on each other.

        Args:
            entries: the form's field.
            forwarded: somebody forwarded this very request to us.

        Raises:
            ServiceError: the first failure, ours or theirs.
        """
        document = parse_entries(entries)
        upstream = self._upstream
        theirs = {} if upstream is None else await self._not_ours(document)
        if upstream is None or not theirs:
            return write_body(await self._serve(read_tasks(document), image, text))
        if forwarded:
            raise LoopDetected(
                tr(
                    "{tasks} would have to be forwarded, but the request has been forwarded once: does IMMICH_API lead "
                    "back here?",
                    tasks=", ".join(theirs),
                )
            )
        if image is None and not text:
            raise BadRequest("Either image or text must be provided")
        ours = {task: types for task, types in document.items() if types and task not in theirs}
        if not ours:
            return write_body(await upstream.predict(theirs, image, text))
        given, found = await gather_or_cancel(
            upstream.predict(theirs, image, text), self._serve(read_tasks(ours), image, text)
        )
        return write_body({**given, **found})

    async def status(self) -> dict[str, Any]:
        """An addition to the server's status: the health of the other server, if there is one."""
        return {} if self._upstream is None else {"upstream": await self._upstream.health()}

    async def _serve(self, tasks: Tasks, image: bytes | None, text: str | None) -> dict[str, Any]:
        answer = await self._pipeline.predict(tasks, image, text)
        if tasks.ocr is None or not tasks.ocr.for_gateway or not isinstance(answer.ocr, ReadText):
            return answer_body(answer)
        body = gateways_ocr_body(answer.ocr)
        others = tasks.visual is not None or tasks.faces is not None
        return {**answer_body(answer), **body} if others else body

    async def _not_ours(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return {task: types for task, types in document.items() if not await self._is_ours(task, types)}

    async def _is_ours(self, task: str, types: Any) -> bool:
        """
        Raises:
            InvalidEntries: malformed, so it is nobody's.
        """
        if task in self._always:
            return False
        if types == {}:
            return True
        try:
            return await self._pipeline.serves(read_tasks({task: types}))
        except NotServed:
            return False


class Upstream:
    """Another server of Immich's protocol, over pooled connections."""

    def __init__(self, url: str, *, connect_timeout_s: float, timeout_s: float) -> None:
        """
        Args:
            url: such as ``http://host:3003``, with a sub-path where there is one.
            connect_timeout_s: for a connection to open.
            timeout_s: for one request from its start to its answer.
        """
        import httpx2  # only here: a server that forwards nothing starts without it

        self._url = url.rstrip("/")
        self.name = redact_url(self._url)
        self._timeout_s = timeout_s
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=connect_timeout_s),
            limits=httpx2.Limits(keepalive_expiry=KEEPALIVE_TIMEOUT_S),
            trust_env=False,
        )

    async def predict(self, entries: Mapping[str, Any], image: bytes | None, text: str | None) -> dict[str, Any]:
        """The other server's answer to `entries` on the image or else the text.

        Raises:
            UpstreamFailed: it cannot be reached, or answers anything but 200 with every task.
            UpstreamTimeout: it takes longer than it may.
        """
        boundary = secrets.token_hex(16)
        parts = form(boundary, {"entries": orjson.dumps(entries), **_payload(image, text)})
        headers = {
            "content-type": f"multipart/form-data; boundary={boundary}",
            "content-length": str(sum(map(len, parts))),
            HEADER: "1",
        }
        with self._failures():
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.post(f"{self._url}/predict", content=_stream(parts), headers=headers)
        return self._read(response, entries)

    async def health(self) -> dict[str, Any]:
        """Whether the other server answers ``/ping``, and if not, why."""
        try:
            with self._failures():
                async with asyncio.timeout(HEALTH_TIMEOUT_S):
                    response = await self._client.get(f"{self._url}/ping")
        except (UpstreamFailed, UpstreamTimeout) as error:
            return {"url": self.name, "healthy": False, "error": str(error)}
        return {"url": self.name, "healthy": response.status_code == 200}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _read(self, response: "httpx2.Response", entries: Mapping[str, Any]) -> dict[str, Any]:
        if response.status_code != 200:
            raise UpstreamFailed(
                tr(
                    "{name} answered {status}: {reason}",
                    name=self.name,
                    status=response.status_code,
                    reason=_reason(response.content),
                )
            )
        try:
            body = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise UpstreamFailed(tr("{name} answered something that is no JSON object", name=self.name))
        missing = [task for task, types in entries.items() if types and task not in body]
        if missing:
            raise UpstreamFailed(tr("{name} left out {tasks} in its answer", name=self.name, tasks=", ".join(missing)))
        return body

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what the HTTP client raises into failures that name the other server."""
        import httpx2

        try:
            yield
        except TimeoutError:
            raise UpstreamTimeout(tr("{name} did not answer in time", name=self.name)) from None
        except httpx2.TimeoutException as error:
            raise UpstreamTimeout(
                tr("{name} cannot be reached in time ({reason})", name=self.name, reason=type(error).__name__)
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            raise UpstreamFailed(
                tr("{name} cannot be reached: {reason}", name=self.name, reason=error or type(error).__name__)
            ) from error


def form(boundary: str, fields: Mapping[str, bytes]) -> list[bytes]:
    """A multipart form in pieces, so that the image is not copied; `image` goes as a file."""
    parts: list[bytes] = []
    for name, value in fields.items():
        file = '; filename="blob"\r\nContent-Type: application/octet-stream' if name == "image" else ""
        parts += [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode(),
            value,
            b"\r\n",
        ]
    return [*parts, f"--{boundary}--\r\n".encode()]


def _payload(image: bytes | None, text: str | None) -> dict[str, bytes]:
    if image is not None:
        return {"image": image}
    return {"text": (text or "").encode()}


async def _stream(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def _reason(body: bytes) -> str:
    """What a failed answer says, in one line of bounded length."""
    text = body.decode(errors="replace")
    with suppress(orjson.JSONDecodeError):
        document = orjson.loads(body)
        text = str(document.get("detail", text)) if isinstance(document, dict) else text
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:300] + "…"
