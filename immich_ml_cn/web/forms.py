"""Request body → form fields: multipart/form-data (RFC 7578) as Node's FormData sends it, and urlencoded for text.

Bodies stay in memory (they are bounded) so that a read-only root file system is enough. The parsing itself is
python-multipart's.
"""

import asyncio
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from immich_ml_cn.errors import BadRequest, InvalidEntries, TooLarge
from immich_ml_cn.messages import tr

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS: Final = 100
"""Fields in one form; Immich sends two."""

MAX_TEXT_BYTES: Final = 1 << 16
"""Bytes of one text field; Immich's have hundreds."""


MAX_PREAMBLE_BYTES: Final = 4096
"""Bytes before a form's first boundary."""

_PIECE_BYTES: Final = 1 << 16
_MANY_PIECES: Final = 16
"""A megabyte: less is joined sooner than a thread is asked."""


@dataclass(frozen=True, slots=True)
class FormLimits:
    """What a form may have.

    Attributes:
        body_bytes: of the whole body; reading stops above it.
        fields: how many.
        text_bytes: of each text field, and of a whole urlencoded body, which is parsed in one go.
    """

    body_bytes: int
    fields: int = MAX_FIELDS
    text_bytes: int = MAX_TEXT_BYTES


@dataclass(frozen=True, slots=True)
class FormField:
    """One field: its raw bytes, and whether it came as a file part (with a filename)."""

    data: bytes
    is_file: bool


class Form:
    """The fields of one request; of a field given twice the last one counts."""

    def __init__(self, fields: dict[str, FormField], max_text_bytes: int = MAX_TEXT_BYTES) -> None:
        self._fields = fields
        self._max_text_bytes = max_text_bytes

    def text(self, name: str) -> str | None:
        """A plain field as text, None where it is absent.

        Raises:
            InvalidEntries: it came as a file part or is not UTF-8.
            TooLarge: it is longer than a text may be.
        """
        field = self._fields.get(name)
        if field is None:
            return None
        if field.is_file:
            raise InvalidEntries(f"`{name}` must be a plain form field, not a file")
        if len(field.data) > self._max_text_bytes:
            raise TooLarge(
                tr(
                    "`{name}` has {length} bytes, more than the {limit} allowed",
                    name=name,
                    length=len(field.data),
                    limit=self._max_text_bytes,
                )
            )
        try:
            return field.data.decode()
        except UnicodeDecodeError:
            raise InvalidEntries(f"`{name}` is not valid UTF-8") from None

    def file(self, name: str) -> bytes | None:
        """A field's bytes, None where it is absent. The part need not have a filename."""
        field = self._fields.get(name)
        return None if field is None else field.data


async def read_form(content_type: str, body: AsyncIterable[bytes], limits: FormLimits) -> Form:
    """Read and parse a form while it arrives.

    Args:
        content_type: the request's header, with the boundary.
        body: the chunks as they come.
        limits: beyond which it is refused.

    Raises:
        BadRequest: broken multipart, or no boundary.
        TooLarge: too many bytes or fields.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary:
            raise BadRequest("Missing boundary in multipart.")
        return await _read_multipart(boundary, body, limits)
    if kind == b"application/x-www-form-urlencoded":
        data = await read_body(body, min(limits.body_bytes, limits.text_bytes))
        return await asyncio.to_thread(_parse_urlencoded, data, limits)  # 20 ms for nothing but percent signs
    async for _ in _bounded(body, limits.body_bytes):
        pass
    return Form({})


async def read_body(body: AsyncIterable[bytes], max_bytes: int) -> bytes:
    """All of a body.

    Raises:
        TooLarge: more than `max_bytes`.
    """
    return b"".join([chunk async for chunk in _bounded(body, max_bytes)])


async def _bounded(body: AsyncIterable[bytes], max_bytes: int) -> AsyncIterable[bytes]:
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(tr("the request body has more than the {limit} bytes allowed", limit=max_bytes))
        yield chunk


async def _read_multipart(boundary: bytes, body: AsyncIterable[bytes], limits: FormLimits) -> Form:
    collector = _Collector(limits.fields)
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        async for chunk in _without_preamble(boundary, _bounded(body, limits.body_bytes)):
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"There was an error parsing the body: {error}") from error
    if not collector.finished:
        raise BadRequest("There was an error parsing the body: it ends in the middle of a part")
    return Form(await collector.fields(), limits.text_bytes)


async def _without_preamble(boundary: bytes, body: AsyncIterable[bytes]) -> AsyncIterable[bytes]:
    """A multipart body from its first boundary on: lines before it mean nothing (RFC 2046, 5.1.1)."""
    delimiter = b"--" + boundary
    longest = MAX_PREAMBLE_BYTES + len(delimiter)
    head = b""
    started = False
    async for chunk in body:
        if started:
            yield chunk
            continue
        head += chunk
        found = 0 if head.startswith(delimiter) else head.find(b"\n" + delimiter, 0, longest) + 1
        started = head.startswith(delimiter) or found > 0 or len(head) > longest
        if started:
            yield head[found:]
    if not started:
        yield head


def _parse_urlencoded(data: bytes, limits: FormLimits) -> Form:
    try:
        pairs = parse_qsl(data.decode(), keep_blank_values=True, strict_parsing=False, max_num_fields=limits.fields)
    except UnicodeDecodeError:
        raise BadRequest("There was an error parsing the body: it is not valid UTF-8") from None
    except ValueError:
        raise TooLarge(tr("the form has more than {limit} fields", limit=limits.fields)) from None
    fields = {name: FormField(value.encode("utf-8", "surrogatepass"), is_file=False) for name, value in pairs}
    return Form(fields, limits.text_bytes)


class _Collector:
    """python-multipart's callbacks, gathering one part after the other."""

    def __init__(self, max_fields: int) -> None:
        self.finished = False
        self._max_fields = max_fields
        self._parts = 0
        self._fields: dict[str, tuple[_Pieces, bool]] = {}
        self._data = _Pieces()
        self._headers: dict[bytes, bytes] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._part_begin,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_data,
            "on_header_end": self._header_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_fields:
            raise TooLarge(tr("the form has more than {limit} fields", limit=self._max_fields))
        self._data = _Pieces()
        self._headers = {}

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.add(memoryview(data)[start:end])

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name")
        if name is None:
            raise BadRequest("There was an error parsing the body: a part has no name")
        self._fields[name.decode("utf-8", "replace")] = self._data, b"filename" in options

    def _end(self) -> None:
        self.finished = True

    async def fields(self) -> dict[str, FormField]:
        """The fields of a finished form."""
        return {name: FormField(await data.joined(), is_file) for name, (data, is_file) in self._fields.items()}


class _Pieces:
    """Bytes that are collected, in pieces: one buffer that grows would be copied on the event loop again and again."""

    def __init__(self) -> None:
        self._full: list[bytes] = []
        self._last = bytearray()

    def add(self, data: memoryview) -> None:
        self._last += data
        if len(self._last) >= _PIECE_BYTES:
            self._full.append(bytes(self._last))
            self._last = bytearray()

    async def joined(self) -> bytes:
        """All of them, once; many are joined on a thread, while others run."""
        pieces = [*self._full, bytes(self._last)]
        self._full.clear()
        return b"".join(pieces) if len(pieces) < _MANY_PIECES else await asyncio.to_thread(_join, pieces)


def _join(pieces: list[bytes]) -> bytes:
    joined = b"".join(pieces)
    pieces.clear()  # here: it takes a while
    return joined
