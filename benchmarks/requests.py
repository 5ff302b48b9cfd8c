"""What is asked: the tasks that are measured, and their requests byte for byte as Node's fetch writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BOUNDARY = "----formdata-undici-048941409022"


@dataclass(frozen=True)
class Names:
    """The model names that requests use; another server may have its models under others."""

    clip: str
    faces: str
    ocr: str
    tiny: str


@dataclass(frozen=True)
class Task:
    """One kind of request.

    Attributes:
        name: as in the results.
        entries: the task specification of the protocol.
        images: the encoded pictures, sent in turn; () for texts.
        texts: the queries; () for images.
    """

    name: str
    entries: Mapping[str, Any]
    images: tuple[bytes, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def inputs(self) -> Sequence[bytes | str]:
        return self.images or self.texts

    def bodies(self) -> list[bytes]:
        """The forms of its requests."""
        entries = json.dumps(self.entries)
        images = [form(("entries", entries), ("image", image)) for image in self.images]
        return images + [form(("entries", entries), ("text", text)) for text in self.texts]


def clip_visual(model: str) -> dict[str, Any]:
    """The entries of an image embedding."""
    return {"clip": {"visual": {"modelName": model}}}


def clip_textual(model: str) -> dict[str, Any]:
    """The entries of a text embedding."""
    return {"clip": {"textual": {"modelName": model, "options": {"language": "zh-CN"}}}}


def faces(model: str) -> dict[str, Any]:
    """The entries of face recognition, with Immich's defaults."""
    detection = {"modelName": model, "options": {"minScore": 0.7}}
    return {"facial-recognition": {"detection": detection, "recognition": {"modelName": model}}}


def ocr(model: str) -> dict[str, Any]:
    """The entries of text recognition, with Immich's defaults."""
    detection = {"modelName": model, "options": {"minScore": 0.5, "maxResolution": 736}}
    return {"ocr": {"detection": detection, "recognition": {"modelName": model, "options": {"minScore": 0.8}}}}


def form(*fields: tuple[str, str | bytes]) -> bytes:
    """A multipart form: text as a plain field, bytes as a Blob."""
    body = b""
    for name, value in fields:
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(value, str):
            body += b"\r\n\r\n" + value.encode()
        else:
            body += b'; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\n' + value
        body += b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def post(host: str, path: str, body: bytes) -> bytes:
    """The bytes of a whole request, with the headers that Node sends."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: keep-alive\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\naccept: */*\r\naccept-language: *\r\n"
        f"sec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
