"""Requests for what we do not serve: they go to another Immich-protocol server, with ours beside them.

Without such a server nothing is forwarded, and what nobody knows stays an error.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import orjson

from immich_ml_cn.errors import BadRequest, LoopDetected, NotServed, UpstreamFailed, UpstreamTimeout
from immich_ml_cn.logs import redact_url
from immich_ml_cn.messages import tr
from immich_ml_cn.models.results import ReadText
from immich_ml_cn.serving.concurrency import gather_or_cancel
from immich_ml_cn.serving.pipeline import Predictor
from immich_ml_cn.serving.tasks import Tasks

from .http_client import HttpClient
from .immich import answer_body, gateways_ocr_body, parse_entries, read_tasks, write_body
from .json_object import json_object

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

    async def status(self) -> Mapping[str, object]:
        """An addition to the server's status: the health of the other server, if there is one."""
        return {} if self._upstream is None else {"upstream": await self._upstream.health()}

    async def _serve(self, tasks: Tasks, image: bytes | None, text: str | None) -> Mapping[str, object]:
        answer = await self._pipeline.predict(tasks, image, text)
        if tasks.ocr is None or not tasks.ocr.for_gateway or not isinstance(answer.ocr, ReadText):
            return answer_body(answer)
        body = gateways_ocr_body(answer.ocr)
        others = tasks.visual is not None or tasks.faces is not None
        return {**answer_body(answer), **body} if others else body

    async def _not_ours(self, document: Mapping[str, object]) -> dict[str, object]:
        return {task: types for task, types in document.items() if not await self._is_ours(task, types)}

    async def _is_ours(self, task: str, types: object) -> bool:
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
        self._server = HttpClient(
            url,
            redact_url(url),
            "IMMICH_API",
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            keepalive_s=KEEPALIVE_TIMEOUT_S,
        )
        self.name = self._server.name
        self.close = self._server.close

    async def predict(
        self, entries: Mapping[str, object], image: bytes | None, text: str | None
    ) -> Mapping[str, object]:
        """The other server's answer to `entries` on the image or else the text.

        Raises:
            UpstreamFailed: it cannot be reached, or answers anything but 200 with every task.
            UpstreamTimeout: it takes longer than it may.
        """
        form: dict[str, tuple[str | None, bytes]] = {"entries": (None, orjson.dumps(entries))}
        if image is None:
            form["text"] = (None, (text or "").encode())
        else:
            form["image"] = ("blob", image)
        response = await self._server.request("POST", "/predict", files=form, headers={HEADER: "1"})
        return self._read(response, entries)

    async def health(self) -> Mapping[str, object]:
        """Whether the other server answers ``/ping``, and if not, why."""
        try:
            response = await self._server.request("GET", "/ping", timeout_s=HEALTH_TIMEOUT_S)
        except (UpstreamFailed, UpstreamTimeout) as error:
            return {"url": self.name, "healthy": False, "error": str(error)}
        return {"url": self.name, "healthy": response.status_code == 200}

    def _read(self, response: "httpx2.Response", entries: Mapping[str, object]) -> Mapping[str, object]:
        if response.status_code != 200:
            raise UpstreamFailed(
                tr(
                    "{name} answered {status}: {reason}",
                    name=self.name,
                    status=response.status_code,
                    reason=_reason(response.content),
                )
            )
        body = json_object(response.content)
        if body is None:
            raise UpstreamFailed(tr("{name} answered something that is no JSON object", name=self.name))
        missing = [task for task, types in entries.items() if types and task not in body]
        if missing:
            raise UpstreamFailed(tr("{name} left out {tasks} in its answer", name=self.name, tasks=", ".join(missing)))
        return body


def _reason(body: bytes) -> str:
    """What a failed answer says, in one line of bounded length."""
    text = body.decode(errors="replace")
    text = str((json_object(body) or {}).get("detail", text))
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:300] + "…"
