"""Protobuf messages as lists of fields: as much as edits of ONNX graphs need.

Fields that nobody looks into are carried along as they are, so that an edit costs one copy of the weights. The `onnx`
package would cost several, and 13 MB for as long as the process lives.
"""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_FIXED: Final = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_WORD: Final = 1 << 64

Value: TypeAlias = "int | memoryview | Message"


class Malformed(ValueError):
    """The bytes are no protobuf message."""


class Message:
    """A message's fields, in order. Numbers of fields are those of the message's description."""

    def __init__(self, *fields: "tuple[int, int | str | bytes | Message]") -> None:
        """
        Args:
            fields: number and value, as for `add`.
        """
        self._fields: list[tuple[int, Value]] = []
        for number, value in fields:
            self.add(number, value)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> "Message":
        """Read a message; what is inside its fields is read when it is asked for.

        Raises:
            Malformed: it is none, or is cut short.
        """
        message = cls()
        message._fields = list(_fields(memoryview(data)))
        return message

    def add(self, number: int, value: "int | str | bytes | Message") -> None:
        """Append a field; a `str` is written as UTF-8, an `int` as a varint."""
        if isinstance(value, int):
            self._fields.append((number << 3 | _VARINT, value % _WORD))
        else:
            data = value.encode() if isinstance(value, str) else value
            content = data if isinstance(data, Message) else memoryview(data)
            self._fields.append((number << 3 | _LENGTH, content))

    def remove(self, number: int) -> None:
        """Take out all fields of a number."""
        self._fields = [(tag, value) for tag, value in self._fields if tag >> 3 != number]

    def keep(self, number: int, wanted: "Callable[[Message], bool]") -> None:
        """Take out the fields of a number whose messages are not wanted."""
        kept = {id(message) for message in self.messages(number) if wanted(message)}
        self._fields = [(tag, value) for tag, value in self._fields if tag >> 3 != number or id(value) in kept]

    def messages(self, number: int) -> "list[Message]":
        """The messages in the fields of a number; changes to them are changes to this one."""
        found = []
        for index, (tag, value) in enumerate(self._fields):
            if tag >> 3 == number:
                message = value if isinstance(value, Message) else Message.parse(_bytes_of(value))
                self._fields[index] = tag, message
                found.append(message)
        return found

    def contents(self, number: int) -> list[memoryview]:
        """The bytes in the fields of a number."""
        return [_bytes_of(value) for tag, value in self._fields if tag >> 3 == number]

    def texts(self, number: int) -> list[str]:
        """The texts in the fields of a number."""
        try:
            return [bytes(content).decode() for content in self.contents(number)]
        except UnicodeDecodeError as error:
            raise Malformed(str(error)) from error

    def text(self, number: int) -> str:
        """The text of a field, "" where there is none."""
        return (self.texts(number) or [""])[-1]

    def integers(self, number: int) -> list[int]:
        """The signed integers in the fields of a number, packed or not."""
        found: list[int] = []
        for tag, value in self._fields:
            if tag >> 3 == number:
                found += [value] if isinstance(value, int) else _packed(_bytes_of(value))
        return [value - _WORD if value >= _WORD >> 1 else value for value in found]

    def integer(self, number: int) -> int:
        """The signed integer of a field, 0 where there is none."""
        return (self.integers(number) or [0])[-1]

    @property
    def size(self) -> int:
        """Bytes of the message when written."""
        return sum(len(piece) for piece in self.pieces())

    def pieces(self) -> "Iterator[bytes | memoryview]":
        """The message as written, in pieces that need not be copied."""
        for tag, value in self._fields:
            yield _written(tag)
            if isinstance(value, int):
                yield _written(value)
            elif isinstance(value, Message):
                inner = list(value.pieces())
                yield _written(sum(map(len, inner)))
                yield from inner
            else:
                if tag & 7 == _LENGTH:
                    yield _written(len(value))
                yield value

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())

    def __repr__(self) -> str:
        return f"<Message {[tag >> 3 for tag, _ in self._fields]}>"


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if tag >> 3 == 0 or kind not in (_VARINT, _LENGTH, *_FIXED):
            raise Malformed("not a protobuf message")
        value, after = _varint(data, at) if kind in (_VARINT, _LENGTH) else (_FIXED[kind], at)
        if kind == _VARINT:
            yield tag, value
            at = after
            continue
        at = after + value
        if at > len(data):
            raise Malformed("a protobuf message that is cut short")
        yield tag, data[after:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value % _WORD, at + place + 1
    raise Malformed("a number that is cut short or too long")


def _packed(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _written(value: int) -> bytes:
    """A number as a varint."""
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _bytes_of(value: Value) -> memoryview:
    if isinstance(value, int):
        raise Malformed("a number where there should be bytes")
    return memoryview(bytes(value)) if isinstance(value, Message) else value
