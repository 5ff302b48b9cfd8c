"""Forms as Node's FormData, curl and browsers send them, and broken in every way a client can break them."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server import BOUNDARY, CONTENT_TYPE, node_form

from immich_ml_cn.errors import BadRequest, InvalidEntries, TooLarge
from immich_ml_cn.web.forms import MAX_FIELDS, Form, FormLimits, read_form

URLENCODED = "application/x-www-form-urlencoded"
IMAGE = bytes(range(256)) + b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n\r\n--"
"""Bytes that nearly hold the boundary."""


def read(
    body: bytes | Iterable[bytes], content_type: str = CONTENT_TYPE, max_bytes: int = 1 << 20, text_bytes: int = 1 << 19
) -> Form:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in [body] if isinstance(body, bytes) else body:
            yield chunk

    return asyncio.run(read_form(content_type, chunks(), FormLimits(max_bytes, text_bytes=text_bytes)))


def part(name: str, value: bytes, *, more: str = "", headers: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'
    return head.encode() + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def test_a_form_as_node_writes_it_byte_for_byte() -> None:
    """Recorded from Node 20's fetch with `new FormData()`, `JSON.stringify(…)` and `new Blob([…])`."""
    recorded = (
        b"------formdata-undici-048941409022\r\n"
        b'Content-Disposition: form-data; name="entries"\r\n\r\n'
        b'{"clip":{"visual":{"modelName":"m"}}}\r\n'
        b"------formdata-undici-048941409022\r\n"
        b'Content-Disposition: form-data; name="image"; filename="blob"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n"
        b"\x01\r\n\xff\r\n"
        b"------formdata-undici-048941409022--\r\n"
    )
    assert node_form(("entries", '{"clip":{"visual":{"modelName":"m"}}}'), ("image", b"\x01\r\n\xff")) == recorded
    form = read(recorded)
    assert form.text("entries") == '{"clip":{"visual":{"modelName":"m"}}}'
    assert form.file("image") == b"\x01\r\n\xff"
    assert form.text("text") is None
    assert form.file("nothing") is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_chunks_may_be_cut_anywhere(size: int) -> None:
    body = node_form(("entries", "{}"), ("image", IMAGE), ("text", "猫"))
    form = read([body[i : i + size] for i in range(0, len(body), size)])
    assert (form.text("entries"), form.file("image"), form.text("text")) == ("{}", IMAGE, "猫")


@pytest.mark.parametrize("size", [999, 65_536, 300_000, 3_000_000])
def test_a_large_file_is_whole(size: int) -> None:
    """Its pieces are joined on a thread."""
    file = random.Random(size).randbytes(2_000_003)
    body = node_form(("entries", "{}"), ("image", file))
    form = read((body[i : i + size] for i in range(0, len(body), size)), max_bytes=1 << 22)
    assert form.file("image") == file
    assert form.text("entries") == "{}"


@pytest.mark.parametrize(
    "preamble", [b"hello preamble", b"", b"two\r\nlines", b"x" * 4_000, b"x --" + BOUNDARY.encode()]
)
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_lines_before_the_first_boundary_mean_nothing(preamble: bytes, end: bytes, size: int) -> None:
    """RFC 2046, 5.1.1."""
    body = preamble + end + node_form(("entries", "{}"), ("image", IMAGE))
    form = read([body[i : i + size] for i in range(0, len(body), size)])
    assert (form.text("entries"), form.file("image")) == ("{}", IMAGE)


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_boundary_within_a_line_is_none(size: int) -> None:
    body = b"x" + node_form(("entries", "{}"), ("image", IMAGE))
    form = read([body[i : i + size] for i in range(0, len(body), size)])
    assert (form.text("entries"), form.file("image")) == (None, IMAGE)


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("before", [b"x" * 5_000 + b"\r\n", b"x\r\n" * 2_000])
def test_a_form_that_does_not_come_to_its_boundary_is_broken(before: bytes, size: int) -> None:
    body = before + node_form(("entries", "{}"))
    with pytest.raises(BadRequest, match="There was an error parsing the body"):
        read([body[i : i + size] for i in range(0, len(body), size)])


def test_empty_chunks_and_an_empty_file() -> None:
    body = node_form(("entries", ""), ("image", b""))
    form = read([b"", body[:50], b"", body[50:], b""])
    assert (form.text("entries"), form.file("image")) == ("", b"")


def test_of_duplicates_the_last_one_wins() -> None:
    form = read(node_form(("image", b"1"), ("entries", "a"), ("image", b"2"), ("entries", "b")))
    assert (form.text("entries"), form.file("image")) == ("b", b"2")


def test_the_last_one_wins_as_a_file_too() -> None:
    form = read(node_form(("entries", "a"), ("entries", b"b")))
    with pytest.raises(InvalidEntries, match="plain form field"):
        form.text("entries")


@pytest.mark.parametrize("name", ["entries", "text"])
def test_a_text_field_as_a_file_is_refused(name: str) -> None:
    with pytest.raises(InvalidEntries, match=f"`{name}` must be a plain form field, not a file"):
        read(node_form((name, b"{}"))).text(name)


def test_an_image_without_a_filename_is_taken() -> None:
    form = read(part("image", b"\xff\xd8", headers="Content-Type: image/jpeg\r\n") + END)
    assert form.file("image") == b"\xff\xd8"


def test_text_that_is_not_utf8_is_refused() -> None:
    form = read(part("entries", b"\xff\xfe") + END)
    with pytest.raises(InvalidEntries, match="`entries` is not valid UTF-8"):
        form.text("entries")


@pytest.mark.parametrize(
    "more",
    ['; filename=""', "; filename=blob", '; filename="a;b.jpg"'],
)
def test_whatever_the_filename_it_is_a_file(more: str) -> None:
    form = read(part("entries", b"{}", more=more) + END)
    with pytest.raises(InvalidEntries):
        form.text("entries")
    assert form.file("entries") == b"{}"


def test_headers_in_any_case_and_order() -> None:
    head = f"--{BOUNDARY}\r\nX-Other: 1\r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION: form-data; name=entries"
    assert read(head.encode() + b"\r\n\r\n{}\r\n" + END).text("entries") == "{}"


def test_the_boundary_may_be_quoted_and_have_company() -> None:
    body = node_form(("entries", "{}"), boundary="a b")
    assert read(body, 'multipart/form-data; charset=utf-8; boundary="a b"').text("entries") == "{}"


def test_the_line_break_after_the_end_may_be_missing() -> None:
    assert read(node_form(("entries", "{}")).removesuffix(b"\r\n")).text("entries") == "{}"


def test_what_follows_the_end_is_ignored() -> None:
    assert read(node_form(("entries", "{}")) + b"epilogue").text("entries") == "{}"


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x=1"]
)
def test_a_form_without_a_boundary_is_refused_as_immich_refuses_it(content_type: str) -> None:
    with pytest.raises(BadRequest, match=r"^Missing boundary in multipart\.$"):
        read(node_form(("entries", "{}")), content_type)


WHOLE = node_form(("entries", "{}"), ("image", b"12345678"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"not a form at all",
        WHOLE[:10],
        WHOLE[:-8],
        WHOLE[:-4],
        WHOLE[: WHOLE.index(b"12345678") + 3],
        WHOLE.replace(b"Content-Disposition", b"Content Disposition"),
        WHOLE.replace(b"Content-Disposition: form-data; name", b"Content-Disposition: form-data; nome"),
        WHOLE.replace(b"Content-Disposition", b"X-Disposition"),
        WHOLE.replace(b'name="entries"\r\n\r\n', b'name="entries"\r\n'),
        node_form(("entries", "{}"), boundary="another"),
        b"\x00" * 100,
    ],
    ids=range(13),
)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_broken_form_is_a_bad_request(body: bytes, size: int) -> None:
    with pytest.raises(BadRequest, match="There was an error parsing the body"):
        read([body[i : i + size] for i in range(0, len(body), size)])


def test_a_boundary_that_no_parser_takes_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        read(WHOLE, f"multipart/form-data; boundary={'b' * 10_000}")


def test_the_number_of_fields_is_bounded() -> None:
    fields = [("text", str(number)) for number in range(MAX_FIELDS)]
    assert read(node_form(*fields)).text("text") == str(MAX_FIELDS - 1)
    with pytest.raises(TooLarge, match=f"more than {MAX_FIELDS} fields"):
        read(node_form(*fields, ("entries", "{}")))


def test_the_body_is_bounded_and_reading_stops() -> None:
    read_chunks = []

    def endless() -> Iterable[bytes]:
        yield WHOLE[:100]
        while True:
            read_chunks.append(1)
            yield b"x" * 100

    with pytest.raises(TooLarge, match="more than the 1000 bytes allowed"):
        read(endless(), max_bytes=1000)
    assert len(read_chunks) == 10


@pytest.mark.parametrize("content_type", [CONTENT_TYPE, URLENCODED, "application/json"])
def test_the_limit_itself_is_allowed(content_type: str) -> None:
    read(WHOLE, content_type, max_bytes=len(WHOLE))
    with pytest.raises(TooLarge):
        read(WHOLE, content_type, max_bytes=len(WHOLE) - 1)


@pytest.mark.parametrize("content_type", [URLENCODED, f"{URLENCODED};charset=UTF-8", URLENCODED.upper()])
def test_urlencoded_text(content_type: str) -> None:
    body = urlencode([("entries", '{"a":1}'), ("text", "海边 的+日落"), ("empty", ""), ("text", "last")]).encode()
    form = read([body[:5], body[5:]], content_type)
    assert form.text("entries") == '{"a":1}'
    assert form.text("text") == "last"
    assert form.text("empty") == ""
    assert form.text("nothing") is None


def test_urlencoded_that_is_not_utf8() -> None:
    with pytest.raises(BadRequest, match="not valid UTF-8"):
        read(b"entries=\xff", URLENCODED)


def test_urlencoded_with_too_many_fields() -> None:
    assert read(b"&".join([b"a=1"] * MAX_FIELDS), URLENCODED).text("a") == "1"
    with pytest.raises(TooLarge, match="fields"):
        read(b"&".join([b"a=1"] * (MAX_FIELDS + 1)), URLENCODED)


def test_an_urlencoded_body_is_no_longer_than_a_text() -> None:
    assert read(b"text=" + b"a" * 95, URLENCODED, text_bytes=100).text("text") == "a" * 95
    with pytest.raises(TooLarge, match="100 bytes allowed"):
        read(b"text=" + b"a" * 96, URLENCODED, text_bytes=100)


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "text/plain", "multipart/mixed; boundary=b", "nonsense"]
)
def test_another_body_has_no_fields(content_type: str) -> None:
    assert read(b'{"entries": {}}', content_type).text("entries") is None


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_form_broken_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever bytes a client sends: a form, or one of our failures."""
    body = bytearray(node_form(("entries", "{}"), ("image", b"\r\n--" + BOUNDARY.encode()[:9])))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "double"])):
            case "change":
                body[at] = data.draw(st.integers(0, 255))
            case "cut":
                del body[at : at + data.draw(st.integers(1, 20))]
            case "insert":
                body[at:at] = data.draw(st.binary(max_size=10))
            case _:
                body[at:at] = body[at : at + 40]
        body = body or bytearray(b"-")
    content_type = data.draw(st.sampled_from([CONTENT_TYPE, URLENCODED, 'multipart/form-data; boundary="']))
    cut = data.draw(st.integers(0, len(body)))
    with suppress(BadRequest, TooLarge, InvalidEntries):
        form = read([bytes(body[:cut]), bytes(body[cut:])], content_type)
        form.file("image")
        form.text("entries")


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text(alphabet='multipart/form-data; boundary="=*%\\', max_size=80)))
def test_any_content_type_is_read_or_refused(content_type: str) -> None:
    with suppress(BadRequest, TooLarge, InvalidEntries):
        read(WHOLE, content_type.encode("latin-1", "replace").decode("latin-1"))
