"""The real server in a process of its own, a client that speaks as Node's FormData does, and models to serve."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import clip_models
import face_models
import numpy as np
from numpy.typing import NDArray
from picture_files import encoded
from PIL import Image

ROOT = Path(__file__).parent.parent
BOUNDARY = "----formdata-undici-048941409022"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"

START_S = 60.0
"""How long a server may take until its port is open."""

CLIP = "ViT-B-16__laion400m_e31"
"""A CLIP model of `fill_cache`: Immich's layout, random weights, 512 numbers as its name promises."""
FACES = "buffalo_l"
OCR = "PP-OCRv6_small"

VISUAL = {"clip": {"visual": {"modelName": CLIP}}}
TEXTUAL = {"clip": {"textual": {"modelName": CLIP, "options": {"language": "zh-CN"}}}}
FACE_DETECTION = {"facial-recognition": {"detection": {"modelName": FACES, "options": {"minScore": 0.7}}}}
FACE_TASK = {
    "facial-recognition": {
        "detection": {"modelName": FACES, "options": {"minScore": 0.7}},
        "recognition": {"modelName": FACES},
    }
}
OCR_TASK = {
    "ocr": {
        "detection": {"modelName": OCR, "options": {"minScore": 0.5, "maxResolution": 736}},
        "recognition": {"modelName": OCR, "options": {"minScore": 0.8}},
    }
}


def fill_cache(cache: Path) -> Path:
    """Put small random CLIP and face models into a cache folder, in Immich's layout."""
    folder = cache / "clip" / CLIP
    with patch.object(clip_models, "DIMENSION", 512):
        clip_models.save_visual(folder / "visual" / "model.onnx")
        vocabulary = clip_models.save_tokenizer(folder)
        clip_models.save_openclip_text(folder / "textual" / "model.onnx", vocabulary=vocabulary)
    clip_models.save_preprocessing(
        folder, size=[32, 32], mean=[0.48, 0.46, 0.41], std=[0.27, 0.26, 0.28], interpolation="bicubic"
    )
    for kind, build in (("detection", face_models.build_detector), ("recognition", face_models.build_recognizer)):
        path = cache / "facial-recognition" / FACES / kind / "model.onnx"
        path.parent.mkdir(parents=True)
        build(path)
    return cache


def node_form(*fields: tuple[str, str | bytes], boundary: str = BOUNDARY) -> bytes:
    """A form as Node 20's fetch writes it (recorded from one): text as a plain field, bytes as a Blob."""
    body = b""
    for name, value in fields:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(value, str):
            body += b"\r\n\r\n" + value.encode()
        else:
            body += b'; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\n' + value
        body += b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def predict_form(entries: Any, image: bytes | None = None, text: str | None = None) -> bytes:
    """The form of one request; `entries` that is no string is written as JSON."""
    fields: list[tuple[str, str | bytes]] = [("entries", entries if isinstance(entries, str) else json.dumps(entries))]
    if image is not None:
        fields.append(("image", image))
    if text is not None:
        fields.append(("text", text))
    return node_form(*fields)


@dataclass(frozen=True)
class Reply:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def embedding(self) -> NDArray[Any]:
        """CLIP's, of an answer that has it."""
        assert self.status == 200, self.body
        return np.array(json.loads(self.json["clip"]))

    @property
    def detail(self) -> str:
        """The message of a failure; the body holds nothing but a code for programs besides."""
        assert set(self.json) in ({"detail"}, {"detail", "code"})
        message = self.json["detail"]
        assert isinstance(message, str)
        return message


class Client:
    """One keep-alive connection, as Immich's server holds them."""

    def __init__(self, port: int, *, timeout: float = 150.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._connection.close()

    @property
    def local_port(self) -> int | None:
        """The port of the open connection: the same as long as it is the same connection."""
        connected = self._connection.sock
        return None if connected is None else int(connected.getsockname()[1])

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request; a body of several pieces goes out chunked, without a Content-Length."""
        chunked = body is not None and not isinstance(body, bytes)
        self._connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
        response = self._connection.getresponse()
        answer = response.read()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, answer)

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def post(self, body: bytes | Iterable[bytes], content_type: str = CONTENT_TYPE, path: str = "/predict") -> Reply:
        """Post a form to /predict with the headers that Node sends."""
        headers = {"content-type": content_type, "accept": "*/*", "sec-fetch-mode": "cors", "user-agent": "node"}
        if not isinstance(body, bytes):
            headers["transfer-encoding"] = "chunked"
        return self.request("POST", path, body, headers)

    def predict(self, entries: Any, image: bytes | None = None, text: str | None = None) -> Reply:
        """Ask for the tasks of `entries` on an image or a text."""
        return self.post(predict_form(entries, image, text))


def wait_until(holds: Callable[[], object], what: str = "it did not happen") -> None:
    """Wait for what nobody announces; `what` is said where it does not come."""
    deadline = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}, within {START_S:g} s"
        time.sleep(0.02)


class RunningServer:
    """`python -m immich_ml_cn` with nothing in its environment but what is given; stopped at the end of a `with`.

    It listens on a free port of 127.0.0.1, connects to nobody and runs on the CPU, unless told otherwise.
    """

    command: tuple[str, ...] = ("-m", "immich_ml_cn")
    """What Python runs."""

    def __init__(self, folder: Path, **environ: str) -> None:
        """
        Args:
            folder: for its log, and its cache where the environment names no other.
            environ: added to its environment.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"server-{time.monotonic_ns()}.log"
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "IMMICH_HOST": "127.0.0.1",
            "IMMICH_PORT": "0",
            "MACHINE_LEARNING_CACHE_FOLDER": str(folder),
            "MACHINE_LEARNING_PROVIDER": "cpu",
            "HF_HUB_OFFLINE": "1",
            **environ,
        }
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_open()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        self._end()

    def start(self) -> None:
        """Start the process without waiting for its port."""
        with self._log.open("wb") as log:
            command = [sys.executable, *self.command]
            self.process = subprocess.Popen(command, cwd=ROOT, env=self._environ, stdout=log, stderr=log)

    def wait_until_open(self) -> None:
        """Wait for the log line that names the port."""
        match = re.search(r"listening on http://\S+:(\d+)", self.wait_for_log("listening on http"))
        assert match
        self.port = int(match[1])

    def wait_for_log(self, text: str) -> str:
        """Wait until the log has `text`; the log so far."""
        deadline = time.monotonic() + START_S
        while text not in self.log:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {text!r} within {START_S:g} s:\n{self.log}"
            time.sleep(0.02)
        return self.log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def resident_mb(self) -> float:
        """Resident memory of the process in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def peak_resident_mb(self) -> float:
        """The most resident memory that the process ever had, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6

    @property
    def open_files(self) -> int:
        """How many file descriptors the process holds."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 - of another process, read at once

    def client(self, *, timeout: float = 150.0) -> Client:
        return Client(self.port, timeout=timeout)

    def predict(self, entries: Any, image: bytes | None = None, text: str | None = None) -> Reply:
        """Ask on a connection of its own."""
        with self.client() as client:
            return client.predict(entries, image, text)

    def predict_once_loaded(self, entries: Any, image: bytes) -> Reply:
        """The first answer that is no 503: a model may take longer than one request waits."""
        replies: list[Reply] = []

        def answered() -> bool:
            replies.append(self.predict(entries, image))
            return replies[-1].status != 503

        wait_until(answered)
        assert all("is still on its way" in reply.detail for reply in replies[:-1])
        return replies[-1]

    def connect(self, *, timeout: float = 150.0) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 150.0) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.terminate()
        return self.wait()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def http_request(body: bytes, *, path: str = "/predict", content_type: str = CONTENT_TYPE) -> bytes:
    """The bytes of a POST, for tests that send them in pieces."""
    headers = (f"POST {path} HTTP/1.1", "host: x", f"content-type: {content_type}", f"content-length: {len(body)}")
    return "\r\n".join([*headers, "", ""]).encode() + body


SMALL = encoded(Image.new("RGB", (64, 48), "white"))


def assert_equal_answers(given: Any, expected: Any) -> None:
    """Equal but for the last bits of embeddings and scores, which depend on the size of the batch."""
    if isinstance(expected, dict):
        assert set(given) == set(expected)
        for key, value in expected.items():
            assert_equal_answers(given[key], value)
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        assert len(given) == len(expected)
        for one, other in zip(given, expected, strict=True):
            assert_equal_answers(one, other)
    elif isinstance(expected, str) and expected.startswith("["):
        ours, theirs = np.array(json.loads(given)), np.array(json.loads(expected))
        assert ours.shape == theirs.shape
        assert np.allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    elif isinstance(expected, str) or (isinstance(expected, list) and expected and isinstance(expected[0], str)):
        assert given == expected
    else:
        assert np.allclose(given, expected, atol=1e-3)
