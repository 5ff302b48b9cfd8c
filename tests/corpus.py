"""Bad and odd inputs, made by code: what a hostile, broken or merely unlucky client may send."""

import json
import struct
import zlib
from collections.abc import Iterator

import pillow_heif
from picture_files import encoded, gradient, png_chunk, png_of
from PIL import Image
from server import BOUNDARY, CLIP, node_form, predict_form

FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B"),
    "JPEG": ("L", "RGB", "CMYK"),
    "JPEG2000": ("L", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "HEIF": ("L", "RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
    "DDS": ("RGB", "RGBA"),
    "ICO": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB"),
    "QOI": ("RGB", "RGBA"),
    "SGI": ("L", "RGB"),
    "TGA": ("L", "P", "RGB", "RGBA"),
    "PCX": ("L", "P", "RGB"),
    "MPO": ("RGB",),
    "XBM": ("1",),
    "PDF": ("RGB",),
    "EPS": ("RGB",),
}
"""Formats that Pillow writes; of PDF it reads nothing back, and EPS would start another program, which must not be."""

STRANGE_NAMES = (
    "../../../etc/passwd",
    "..",
    "../",
    "/etc/passwd",
    "//etc/passwd",
    "..\\..\\windows\\system32",
    "C:\\windows",
    "a\0b",
    "\0",
    "x" * 10_000,
    "模" * 5_000,
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "${jndi:ldap://x}",
    "; rm -rf /",
    "$(id)",
    ".",
    ".hidden",
    "~root",
    "~/.ssh/id_rsa",
    "huggingface:someone/anything",
    "https://example.com/model.onnx",
    "file:///etc/passwd",
    "\u202e\u0000\ud7ff",
    "con",
    " ",
    "\n",
    f"{CLIP}/../../../secret",
    f"{CLIP}/visual",
    f"../clip/{CLIP}",
)


pillow_heif.register_heif_opener()


STRANGE_TEXTS = (
    *("⾬天", "⼤海", "⻄湖", "汽⻋", "ﬁsh", "ＣＡＴ", "㍿", "ﷺ" * 100, "e\u0301" * 500),
    *("hello🐶", "👨‍👩‍👧‍👦" * 50, "1️⃣", "🇨🇳🇨", "\ufe0f", "\u200d" * 1_000, "\ud7ff\uffff", "猫\0狗"),
)
"""Queries in characters that vocabularies do not have."""

STRANGE_SOCKETS = {
    "smuggling": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /",
    "two lengths": b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "negative length": b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    "giant length": b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n",
    "giant chunk": b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
    "bad chunk": b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx",
    "no protocol": b"GET /\r\n\r\n",
    "HTTP/9": b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    "percent in the path": b"GET /%ff%00%zz HTTP/1.1\r\nhost: x\r\n\r\n",
    "dots in the path": b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "HTTP/0.9 with a body": b"POST /predict\r\n\r\n--x",
    "compressed": b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b",
    "NUL in a header": b"GET / HTTP/1.1\r\nhost: x\0y\r\n\r\n",
    "long path": b"GET /" + b"x" * 60_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 3_000 + b"\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
}


def png_with(*chunks: bytes) -> bytes:
    """A good PNG with more chunks after its header."""
    data = encoded(gradient())
    return data[:33] + b"".join(chunks) + data[33:]


def long_metadata(size: int) -> dict[str, bytes]:
    """Chunks of a PNG that are small, and large once unpacked: what stands in each, by its kind."""
    text = zlib.compress(b"x" * size)
    return {
        "zTXt": png_chunk(b"zTXt", b"Comment\0\0" + text),
        "iTXt": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + text),
        "iCCP": png_chunk(b"iCCP", b"profile\0\0" + text),
    }


def jpeg_of_many_scans(size: tuple[int, int], scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(Image.new("RGB", size, "olive"), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xc4") : -2] * scans + data[-2:]


def jpegs_with_fill_bytes(count: int) -> Iterator[tuple[str, bytes]]:
    """Good JPEGs with as many bytes of 255 as that before a marker, where they mean nothing; and with junk."""
    plain, progressive = encoded(gradient(), "JPEG"), encoded(gradient(), "JPEG", progressive=True)
    places = {
        "at the start": (plain, 2),
        "before the scan": (plain, plain.index(b"\xff\xda")),
        "before the end": (plain, len(plain) - 2),
        "between scans": (progressive, progressive.rindex(b"\xff\xda")),
    }
    for name, (data, at) in places.items():
        yield f"JPEG with fill bytes {name}", data[:at] + b"\xff" * count + data[at:]
    at = places["before the scan"][1]
    yield "JPEG with junk before the scan", plain[:at] + b"\x11" * count + plain[at:]


def exif_that_repeats_itself(size: int) -> bytes:
    """An EXIF block whose entries all hold the block: read out, it is as many times as large."""
    entries = min(65_535, (size - 14) // 12)
    entry = b"".join(struct.pack("<HHII", 0x8000 + n % 0x7000, 7, size - 6, 0) for n in range(entries))
    return (b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + entry).ljust(size, b"\0")


def jpeg_with_exif(exif: bytes) -> bytes:
    """A JPEG with an EXIF block of any size, in as many segments as it takes."""
    pieces = [exif[at : at + 65_000] for at in range(6, len(exif), 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(piece) + 8) + b"Exif\0\0" + piece for piece in pieces]
    return b"\xff\xd8" + b"".join(segments) + encoded(gradient(), "JPEG")[20:]


def resized(file: bytes, size: tuple[int, int]) -> bytes:
    """A HEIC or AVIF file whose header promises another size than its pixels have."""
    at = file.index(b"ispe") + 8
    return file[:at] + struct.pack(">II", *size) + file[at + 8 :]


def valid_pictures() -> Iterator[tuple[str, bytes]]:
    """A file of every format and mode."""
    for kind, modes in FORMATS.items():
        for mode in modes:
            yield f"{kind} {mode}", encoded(gradient(mode), kind)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG", "MPO", "AVIF", "HEIF"):
        yield f"animated {kind}", encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    for kind, mode in (("GIF", "P"), ("PNG", "P"), ("PNG", "L"), ("PNG", "1"), ("PNG", "RGB")):
        picture = gradient(mode)
        transparent = picture.getpixel((20, 15))
        yield f"{kind} {mode} with a transparent colour", encoded(picture, kind, transparency=transparent)
    yield "PNG P with levels of opacity", encoded(gradient("P"), "PNG", transparency=bytes(range(200)))
    yield "HEIF of tiles", encoded(gradient(size=(150, 100)), "HEIF", tile_size=64)
    for kind, chunk in long_metadata(2_000_000).items():
        yield f"PNG with a {kind} of 2 MB", png_with(chunk)
    yield from jpegs_with_fill_bytes(100_000)
    yield "JPEG with EXIF that repeats itself", jpeg_with_exif(exif_that_repeats_itself(60_000))
    yield "JPEG with EXIF in many segments", jpeg_with_exif(exif_that_repeats_itself(2_000_000))


def broken_pictures() -> Iterator[tuple[str, bytes]]:
    """Files that are cut, changed, empty, of a size they do not have, or that lie about their metadata."""
    for name, data in valid_pictures():
        for share in (0.1, 0.5, 0.9):
            yield f"{name} cut to {share:.0%}", data[: max(1, int(len(data) * share))]
        for at in (4, 20, len(data) // 2):
            changed = bytearray(data)
            changed[at % len(data)] ^= 0xFF
            yield f"{name} changed at {at}", bytes(changed)
    jpeg = encoded(gradient(), "JPEG")
    for name, exif in (("short", b"Exif\0\0II"), ("nonsense", b"Exif\0\0" + b"\xff" * 200), ("empty", b"Exif\0\0")):
        yield f"EXIF {name}", encoded(gradient(), "JPEG", exif=exif)
    yield "ICC nonsense", encoded(gradient(), "JPEG", icc_profile=b"\xff" * 3000)
    yield "ICC short", encoded(gradient(), "PNG", icc_profile=b"x")
    yield "jpeg in jpeg", jpeg + jpeg
    for size in ((0, 0), (0, 9), (9, 0), (65_500, 65_500), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (1, 10**8)):
        yield f"png of {size}", png_of(*size)
    yield "bomb", png_of(20_000, 20_000, b"\0" * 1_000_000)
    for kind in ("HEIF", "AVIF"):
        for size in ((0, 0), (10, 10), (41, 30), (20_000, 5_000), (65_500, 65_500), (2**31, 2**31)):
            yield f"{kind} of {size}", resized(encoded(gradient(), kind), size)
    yield "JPEG of 20,000 scans", jpeg_of_many_scans((500, 500), 20_000)
    yield "JPEG of 10,001 segments", jpeg[:2] + b"\xff\xfe\0\2" * 10_001 + jpeg[2:]
    yield "JPEG of 1,000 tables", jpeg[:2] + b"\xff\xdd\0\4\0\0" * 1_000 + jpeg[2:]
    yield "PNG of 100,001 chunks", png_with(png_chunk(b"teSt", b"") * 100_001)
    yield "bomb within the pixels", png_of(13_000, 13_000, b"\0" * 100_000)
    for name, data in (
        ("nothing", b""),
        ("a byte", b"\0"),
        ("text", b"hello"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("html", b"<html><script>"),
        ("zip", b"PK\3\4" + b"\0" * 100),
        ("pickle", b"\x80\4\x95\0\0\0\0\0\0\0\0."),
        ("postscript that runs", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n%%EOF"),
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200),
        ("zeros", b"\0" * 100_000),
        ("ones", b"\xff" * 100_000),
    ):
        yield name, data


def costly_pictures(scale: float = 1) -> Iterator[tuple[str, bytes]]:
    """Small files that are much work, or keep other threads waiting.

    Args:
        scale: of width and height, and of the number of scans and fill bytes.
    """
    for kind, side, how in (
        ("JPEG2000", 10_000, {}),
        ("WEBP", 13_000, {"method": 0}),
        ("AVIF", 12_000, {"speed": 10}),
        ("HEIF", 8_000, {}),
        ("QOI", 1_000, {}),
        ("DDS", 1_000, {}),
        ("PNG", 13_000, {"compress_level": 1}),
    ):
        side = round(side * scale)
        yield f"{kind} of {side} x {side}", encoded(Image.new("RGB", (side, side), "olive"), kind, **how)
    width, height = round(5_472 * scale), round(3_648 * scale)
    photo = Image.radial_gradient("L").resize((width, height)).convert("RGB")
    for kind in ("JPEG", "WEBP"):
        yield f"{kind} of {width} x {height}, a preview", encoded(photo, kind)
    for scans in (round(150 * scale), round(5_000 * scale)):
        yield f"JPEG of {width} x {height} in {scans:,} scans", jpeg_of_many_scans((width, height), scans)
    yield from jpegs_with_fill_bytes(round(30_000_000 * scale))


def slowest_picture() -> bytes:
    """A file that takes half a minute: its codec is written in Python."""
    return encoded(Image.new("RGB", (4_000, 4_000), "olive"), "DDS")


def costly_texts(size: int = 1_000_000) -> Iterator[tuple[str, str]]:
    """Texts that are much work to tokenise."""
    for text in ("&amp;", "a", "海", "\U0001f600", " "):
        yield f"a text of {text!r}", text * (size // len(text.encode()))


def strange_entries() -> Iterator[tuple[str, str]]:
    """`entries` fields that are malformed, absurd or enormous."""
    for text in (
        *("", "null", "0", "[]", '""', "true", "{", "{}}", "NaN", "Infinity", "-1e999", '{"clip":', "\ufeff{}"),
        *('{"clip":null}', '{"clip":[]}', '{"clip":{"visual":null}}', '{"clip":{"visual":{}}}', '{"":{}}'),
        *("[" * 100_000, '{"a":' * 50_000, '{"clip":' + "[" * 900 + "]" * 900 + "}"),
        *('{"clip":{"visual":{"modelName":null}}}', '{"clip":{"visual":{"modelName":["x"]}}}'),
        *('{"clip":{"visual":{"modelName":' + "9" * 50_000 + "}}}", '{"clip":{"visual":{"modelName":"\\ud800"}}}'),
        '{"clip":{"visual":{"modelName":"x","modelName":"y"}}}',
        json.dumps({f"task{number}": {} for number in range(5_000)}),
        json.dumps({"clip": {f"type{number}": {} for number in range(5_000)}}),
    ):
        yield f"entries {text[:40]!r}", text
    for task, option in (("facial-recognition", "minScore"), ("ocr", "minScore"), ("ocr", "maxResolution")):
        for value in (
            *("NaN", "1e999", "-1e999", "1e308", "-1", "0", "null", '"0.5"', "[]", "{}", "true", "1e-320", "0.5"),
            *("9" * 400, "18446744073709551616", "1.5", "-0.0"),
        ):
            model = "buffalo_l" if task == "facial-recognition" else "PP-OCRv6_small"
            entry = f'{{"modelName":"{model}","options":{{"{option}":{value}}}}}'
            yield f"{task}.{option}={value[:20]}", f'{{"{task}":{{"detection":{entry}}}}}'


def strange_forms() -> Iterator[tuple[str, bytes, str]]:
    """Bodies broken in every way, each with its content type."""
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    whole = predict_form({"clip": {"visual": {"modelName": CLIP}}}, png_of(8, 8))
    start = f"--{BOUNDARY}\r\n".encode()
    yield "no body", b"", kind
    yield "only the end", f"--{BOUNDARY}--\r\n".encode(), kind
    yield "no type", whole, ""
    for wrong in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=x",
        "a/b",
        "\t",
    ):
        yield f"type {wrong!r}", whole, wrong
    yield "long boundary", whole, "multipart/form-data; boundary=" + "b" * 20_000
    for cut in range(1, len(whole), 37):
        yield f"cut at {cut}", whole[:cut], kind
    for old, new in (
        (b"\r\n", b"\n"),
        (b"form-data", b""),
        (b'name="', b"name="),
        (b'"entries"', b'""'),
        (b"--", b"-"),
    ):
        yield f"{old!r} became {new!r}", whole.replace(old, new), kind
    yield "only a preamble", b"This is a message of several parts.\r\n" * 300, kind
    yield "long preamble", b"x" * 5_000 + b"\r\n" + whole, kind
    yield "preamble without a line break", b"x" + whole, kind
    yield "no name", start + b"Content-Disposition: form-data\r\n\r\nx\r\n--" + BOUNDARY.encode() + b"--", kind
    yield "NUL name", node_form(("\0", "x"), ("entries", "{}")), kind
    yield "name that is no UTF-8", whole.replace(b"entries", b"\xff\xfe"), kind
    yield "long name", node_form(("x" * 3_000, "")), kind
    yield "long header", start + b"X: " + b"x" * 100_000 + b"\r\n\r\n", kind
    yield "many headers", start + b"X: y\r\n" * 10_000, kind
    yield "many parts", node_form(*[("x", "")] * 1_000), kind
    yield "base64 as the encoding", whole.replace(b"Content-Type", b"Content-Transfer-Encoding: base64\r\nX"), kind
    yield "percents", b"entries=%" + b"%zz" * 1_000, "application/x-www-form-urlencoded"
    yield "many pairs", b"a=1&" * 10_000, "application/x-www-form-urlencoded"
    yield "json", b'{"entries":{}}', "application/json"
