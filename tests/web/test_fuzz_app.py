"""Whatever bytes arrive, the real application answers, and never with a 500: hypothesis against its ASGI interface."""

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picture_files import encoded, gradient
from server import CLIP, CONTENT_TYPE, fill_cache, node_form

from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.service import Service
from immich_ml_cn.settings import Settings
from immich_ml_cn.web.app import create_app

SMALL = encoded(gradient())
PICTURES = [data for _, data in corpus.valid_pictures()]
EXAMPLES = 250


@dataclass
class Answer:
    status: int = 0
    body: bytes = b""


class App:
    """The application on a loop of its own, spoken to without a socket."""

    def __init__(self, folder: Path) -> None:
        chosen = Settings(
            cache_folder=folder,
            hf_hub_offline=True,
            intra_op_threads=1,
            request_threads=1,
            max_image_pixels=1 << 20,
            max_request_bytes=1 << 20,
            receive_timeout_s=1.0,
        )
        self._runner = asyncio.Runner()
        self.service = Service(chosen, CpuEngine(chosen), pytest.fail)
        self._app = create_app(chosen, self.service)
        self._life = self.service.running()
        self._runner.run(self._life.__aenter__())

    def close(self) -> None:
        self._runner.run(self._life.__aexit__(None, None, None))
        self._runner.close()

    def post(self, body: bytes, content_type: bytes, cuts: list[int], leaves: bool = False) -> Answer:
        """Send a body in pieces; a client that leaves does so instead of sending the last one."""
        return self._runner.run(self._post(body, content_type, cuts, leaves))

    async def _post(self, body: bytes, content_type: bytes, cuts: list[int], leaves: bool) -> Answer:
        ends = sorted({cut % (len(body) + 1) for cut in cuts} | {len(body)})
        pieces = [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        messages[-1]["more_body"] = False
        if leaves:
            messages[-1] = {"type": "http.disconnect"}
        incoming = iter(messages)
        answer, left = Answer(), asyncio.Event()

        async def receive() -> Any:
            if (message := next(incoming, None)) is None:
                await left.wait()
                return {"type": "http.disconnect"}
            return message

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
            answer.body += message.get("body", b"")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/predict",
            "raw_path": b"/predict",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 3003),
            "headers": [(b"content-type", content_type)],
        }
        async with asyncio.timeout(20):
            await self._app(scope, receive, send)
        return answer


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    logging.disable(logging.ERROR)
    made = App(fill_cache(tmp_path_factory.mktemp("cache")))
    yield made
    assert made.service.status()["decodedBytes"]["held"] == 0
    made.close()
    logging.disable(logging.NOTSET)


def judge(answer: Answer, *more: int) -> None:
    assert answer.status in (200, 400, 413, 422, *more), (answer.status, answer.body[:300])
    assert answer.status in (200, 499) or list(json.loads(answer.body))[:1] == ["detail"]


many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
cuts = st.lists(st.integers(0, 1 << 20), max_size=5)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*corpus.STRANGE_NAMES[:8], CLIP, f"x/{CLIP}", "buffalo_l"]) | st.text(max_size=20)
OPTIONS = st.dictionaries(st.sampled_from(["minScore", "maxResolution", "language", "x"]), JSON, max_size=3)
ENTRY = st.fixed_dictionaries({"modelName": NAMES | JSON}, optional={"options": OPTIONS | JSON, "x": JSON})
TYPES = st.dictionaries(
    st.sampled_from(["visual", "textual", "detection", "recognition", "x"]), ENTRY | JSON, max_size=3
)
ENTRIES = st.dictionaries(st.sampled_from(["clip", "facial-recognition", "x"]), TYPES | JSON, max_size=3) | JSON


@many
@given(entries=ENTRIES, image=st.none() | st.sampled_from(PICTURES), text=st.none() | st.text(), at=cuts)
def test_any_entries(app: App, entries: Any, image: bytes | None, text: str | None, at: list[int]) -> None:
    fields: list[tuple[str, str | bytes]] = [("entries", json.dumps(entries))]
    fields += [("image", image)] if image is not None else []
    body = node_form(*fields)
    if text is not None:
        body = body[: body.rindex(b"--" + CONTENT_TYPE.split("=")[1].encode())] + node_form(
            ("text", text.encode("utf-8", "replace").decode())
        )
    # 503: a known model that is not here and cannot be fetched
    judge(app.post(body, CONTENT_TYPE.encode(), at), 503)


@many
@given(data=st.data())
def test_any_picture(app: App, data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from(PICTURES)))
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, len(file) - 1))
        if data.draw(st.booleans()):
            file[at] ^= 0x55
        else:
            del file[at + 1 :]
    entries = {"clip": {"visual": {"modelName": CLIP}}}
    judge(app.post(node_form(("entries", json.dumps(entries)), ("image", bytes(file))), CONTENT_TYPE.encode(), []))


@many
@given(
    body=st.binary(max_size=300) | st.sampled_from([body for _, body, _ in corpus.strange_forms()]),
    content_type=st.sampled_from([kind for _, _, kind in corpus.strange_forms()]) | st.text(max_size=40),
    at=cuts,
    leaves=st.booleans(),
)
def test_any_body_and_type(app: App, body: bytes, content_type: str, at: list[int], leaves: bool) -> None:
    answer = app.post(body, content_type.encode("latin-1", "replace"), at, leaves)
    judge(answer, *([499, 0] if leaves else []))
