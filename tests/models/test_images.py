"""Bytes → picture: every format and mode, every way a file can be broken, and the limits."""

import base64
import io
import json
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from corpus import resized
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import encoded, gradient, png_of
from PIL import Image, ImageOps

from immich_ml_cn.errors import BadImage, TooLarge
from immich_ml_cn.models.heic import coded_pixels, is_heic
from immich_ml_cn.models.images import Picture, decode, measure, upright

LIMIT = 178_956_970
FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B"),
    "JPEG": ("L", "RGB", "CMYK"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "HEIF": ("L", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "DDS": ("L", "LA", "RGB", "RGBA"),
    "ICO": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "QOI": ("RGB", "RGBA"),
    "SGI": ("L", "RGB", "RGBA"),
    "TGA": ("L", "P", "RGB", "RGBA"),
    "PCX": ("1", "L", "P", "RGB"),
}
pillow_heif.register_heif_opener()  # which writes them; `images` has to find its reader itself
FILES = [(kind, mode) for kind, modes in FORMATS.items() for mode in modes]


@pytest.mark.parametrize(("kind", "mode"), FILES)
def test_every_format_and_mode(kind: str, mode: str) -> None:
    data = encoded(gradient(mode), kind)
    picture = decode(data, LIMIT)
    assert measure(data, LIMIT) == (picture.width, picture.height) == (40, 30)
    pixels = picture.rgb
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8
    reference = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(pixels, np.asarray(reference))
    assert mode in ("I", "F", "I;16", "I;16B") or pixels.max() > pixels.min()


def test_the_pixels_are_right_and_read_only() -> None:
    picture = decode(encoded(gradient()), LIMIT)
    assert np.array_equal(picture.rgb, np.asarray(gradient()))
    assert picture.rgb is picture.rgb
    with pytest.raises(ValueError, match="read-only"):
        picture.rgb[0, 0] = 0


def test_an_rgb_picture_is_not_copied_or_converted() -> None:
    image = gradient()
    assert Picture.of(image).image is image


def test_transparency_is_dropped_not_blended() -> None:
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    assert decode(encoded(image), LIMIT).rgb[0, 0].tolist() == [200, 100, 50]


def test_16_bit_grey_is_clipped_as_immich_clips_it() -> None:
    grey = Image.fromarray(np.array([[0, 100, 255, 256, 65535]], dtype=np.uint16))
    assert decode(encoded(grey), LIMIT).rgb[0, :, 0].tolist() == [0, 100, 255, 255, 255]


def test_exif_orientation_is_not_applied() -> None:
    """Immich sends upright previews, and its own service does not turn them either."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(gradient(), "JPEG", exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    picture = decode(data, LIMIT)
    assert (picture.width, picture.height) == (40, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])  # a TIFF comes upright from Pillow
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_upright_is_as_opencv_turns_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(gradient(), kind, exif=exif), LIMIT)
    turned = gradient()
    turned.getexif()[0x0112] = orientation
    reference = ImageOps.exif_transpose(turned)
    assert picture.orientation == orientation
    assert upright(picture).size == upright(picture).image.size == reference.size
    assert np.abs(upright(picture).rgb.astype(int) - np.asarray(reference).astype(int)).mean() < 5


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 300])
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    picture = decode(encoded(gradient(), "JPEG", exif=exif), LIMIT)
    assert upright(picture) is picture


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_one_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    picture = decode(data, LIMIT)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert picture.rgb[0, 0].tolist() == [255, 0, 0]


def test_a_progressive_jpeg_with_a_colour_profile() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(gradient(), "JPEG", progressive=True, icc_profile=profile, quality=80, subsampling=0)
    assert decode(data, LIMIT).rgb.shape == (30, 40, 3)


@pytest.mark.parametrize("read", [measure, decode])
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\x00", "no format"),
        (b"\xff\xd8\xff", "no format"),
        (b"not an image", "no format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no format"),
        (b"%PDF-1.7\n", "no format"),
        (b"\x00" * 10_000, "no format"),
        (png_of(0, 5), "zero width or height|no format|cannot be decoded"),
        (png_of(5, 0), "zero width or height|no format|cannot be decoded"),
        (b"P6 0 5 255\n", "zero width or height|no format|cannot be decoded"),
    ],
    ids=range(10),
)
def test_what_is_no_image(read: Any, data: bytes, why: str) -> None:
    with pytest.raises(BadImage, match=why) as caught:
        read(data, LIMIT)
    assert caught.value.status == 400


@pytest.mark.parametrize(("kind", "mode"), [(kind, "RGB") for kind in FORMATS if "RGB" in FORMATS[kind]])
def test_a_truncated_file_is_refused(kind: str, mode: str) -> None:
    """Noise, so that a half of the file is not by chance a whole picture."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).convert(mode)
    data = encoded(noise, kind)
    with pytest.raises(BadImage):
        decode(data[: len(data) // 2], LIMIT)


def test_a_jpeg_cut_at_any_place_is_refused() -> None:
    data = encoded(gradient(size=(64, 64)), "JPEG")
    for end in range(0, len(data) - 20, 7):
        with pytest.raises(BadImage):
            decode(data[:end], LIMIT)


@pytest.mark.parametrize("read", [measure, decode])
@pytest.mark.parametrize(("width", "height", "limit"), [(101, 100, 10_100 - 1), (100, 101, 1), (8_000, 5_000, 1 << 20)])
def test_too_many_pixels_are_refused_from_the_header(read: Any, width: int, height: int, limit: int) -> None:
    with pytest.raises(TooLarge, match=f"{width} x {height} pixels, more than the {limit} allowed") as caught:
        read(png_of(width, height), limit)
    assert caught.value.status == 413


@pytest.mark.parametrize("read", [measure, decode])
@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_from_the_header(read: Any, size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="pixels"):
        read(png_of(*size), LIMIT)


@pytest.mark.parametrize("read", [measure, decode])
@pytest.mark.parametrize("size", [(1_000_001, 1), (1, 1_000_001)])
def test_a_line_of_pixels_has_a_limit_of_its_own(read: Any, size: tuple[int, int]) -> None:
    """A hundred million rows kept all threads for a second; as many columns were a failure of ours."""
    with pytest.raises(TooLarge, match=f"{size[0]} x {size[1]} pixels, more than 1000000 wide or high"):
        read(png_of(*size), LIMIT)
    assert measure(png_of(min(size[0], 1_000_000), min(size[1], 1_000_000)), LIMIT)


def test_the_limit_itself_is_allowed() -> None:
    assert measure(png_of(100, 100), 10_000) == (100, 100)
    assert decode(encoded(gradient(size=(100, 100))), 10_000).width == 100


def test_nothing_is_decoded_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(TooLarge):
        decode(encoded(gradient()), 100)


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_an_icon_that_holds_more_than_it_promises_is_refused(kind: str) -> None:
    """The header may say 16 x 16 where the picture inside is larger than the limit."""
    inside = encoded(gradient(size=(300, 200)))
    if kind == "ICO":
        data = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22) + inside
    else:
        data = b"icns" + struct.pack(">I", 16 + len(inside)) + b"icp4" + struct.pack(">I", 8 + len(inside)) + inside
    with pytest.raises(TooLarge if kind == "ICO" else BadImage):
        decode(data, 10_000)


def test_memory_that_does_not_suffice_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(TooLarge, match="memory"):
        decode(encoded(gradient()), LIMIT)


RUN_BY_PILLOW = """
import io, sys
from PIL import Image
sys.path.insert(0, ".")
from immich_ml_cn.models.images import decode, measure
data = sys.stdin.buffer.read()
theirs = [lambda: Image.open(io.BytesIO(data)).load()]
ours = [lambda: measure(data, 1 << 20), lambda: decode(data, 1 << 20)]
for read in theirs if sys.argv[1] == "pillow" else ours:
    try:
        read()
    except Exception as error:
        print(error)
"""


def iptc(inside: bytes) -> bytes:
    """An IPTC record with another file as its picture."""

    def field(group: int, number: int, data: bytes) -> bytes:
        return bytes([0x1C, group, number]) + struct.pack(">H", len(data)) + data

    head = field(3, 60, b"\x01\x00") + field(3, 65, b"\x01") + field(3, 20, b"\x00\x28") + field(3, 30, b"\x00\x1e")
    return head + field(3, 120, b"\x05") + field(8, 10, inside)


@pytest.mark.parametrize("wrapped", [False, True])
def test_no_program_is_started_for_a_picture(tmp_path: Path, wrapped: bool) -> None:
    """Pillow itself starts `gs` for PostScript, and for what an IPTC record holds."""
    ran = tmp_path / "ran"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
    ghostscript.chmod(0o755)
    eps = encoded(gradient(), "EPS")
    data = iptc(eps) if wrapped else eps

    def run(reader: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", RUN_BY_PILLOW, reader],
            input=data,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            check=True,
        ).stdout.decode()

    assert run("ours") == "the image is of no format this server can read\n" * 2
    assert not ran.exists()
    run("pillow")
    assert ran.exists(), "the test would not see it"


HEIC_ALONE = """
import json, sys
sys.path.insert(0, ".")
if sys.argv[1] == "without":
    sys.modules["pillow_heif"] = None
from immich_ml_cn.errors import BadImage
from immich_ml_cn.models.images import decode, measure
data = sys.stdin.buffer.read()
early = "pillow_heif" in sys.modules and sys.modules["pillow_heif"] is not None
said = []
for read in (measure, decode):
    try:
        read(data, 1 << 20)
        said.append("read")
    except BadImage as error:
        said.append(f"{error.status} {error}")
print(json.dumps({"early": early, "said": said}))
"""


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("with", "read"),
        ("without", "400 the image is HEIC, which this server cannot read without the library pillow-heif"),
    ],
)
def test_heic_needs_a_library_that_is_imported_for_it(library: str, said: str) -> None:
    """In a process of its own, where nobody has told Pillow of it."""
    answer = subprocess.run(
        [sys.executable, "-c", HEIC_ALONE, library], input=encoded(gradient(), "HEIF"), capture_output=True, check=True
    )
    assert json.loads(answer.stdout) == {"early": False, "said": [said, said]}


def test_heic_and_avif_are_told_apart_by_their_brands() -> None:
    heic, avif = encoded(gradient(), "HEIF"), encoded(gradient(), "AVIF")
    assert (is_heic(heic), is_heic(avif)) == (True, False)
    assert is_heic(heic.replace(b"ftypheic", b"ftypmif1")), "as some cameras write them"
    assert not is_heic(heic[:10])
    assert not is_heic(encoded(gradient(), "JPEG"))


def test_a_heic_picture_is_turned_as_its_container_says() -> None:
    """In HEIC that is part of decoding, unlike EXIF's orientation: a phone's picture comes upright."""
    image = gradient()
    image.getexif()[0x0112] = 6
    data = encoded(image, "HEIF", quality=-1)
    assert measure(data, LIMIT) == (30, 40)
    picture = decode(data, LIMIT)
    assert (picture.width, picture.height) == (30, 40)
    assert upright(picture) is picture
    turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(picture.rgb.astype(int) - turned).mean() < 5


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("read", [measure, decode])
def test_a_heic_or_avif_bomb_is_refused_from_the_header(read: Any, kind: str) -> None:
    data = encoded(gradient(size=(128, 64)), kind)
    with pytest.raises(TooLarge, match="pixels"):
        read(resized(data, (14_000, 14_000)), LIMIT)  # libavif has a limit of its own, 268 million
    with pytest.raises(TooLarge, match=r"pixels.*, more than the 8191 allowed"):
        read(data, 8191)
    assert measure(data, 8192) == (128, 64)


def test_what_a_heic_picture_shows_does_not_hide_what_is_decoded() -> None:
    """HEVC codes blocks: 40 x 30 pixels are cut out of 64 x 64, and could be cut out of any size."""
    data = encoded(gradient(), "HEIF")
    assert measure(data, 64 * 64) == (40, 30)
    with pytest.raises(TooLarge, match="4096 pixels before it is cropped, more than the 4095 allowed"):
        measure(data, 64 * 64 - 1)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 2**32 - 1])
def test_boxes_of_impossible_sizes_end_the_search(size: int) -> None:
    heic = encoded(gradient(), "HEIF")
    at = heic.index(b"ipco") - 4
    assert coded_pixels(heic) == 4096
    assert coded_pixels(heic[:at] + struct.pack(">I", size) + heic[at + 4 :]) in (0, 4096)
    assert coded_pixels(heic[: at + 6]) == 0
    with pytest.raises(BadImage, match="more than 10000 boxes"):
        measure(heic + struct.pack(">I", 8) * 40_000, LIMIT)


def test_a_heic_picture_with_more_in_it_than_its_header_says_is_refused() -> None:
    """Its memory was reserved for the size that `measure` gave."""
    data = resized(encoded(gradient(size=(400, 300)), "HEIF"), (10, 10))
    assert measure(data, 1000) == (10, 10)
    with pytest.raises(BadImage):
        decode(data, 1000)


VALID = [encoded(gradient(mode, (24, 17)), kind) for kind, mode in FILES]


CROPPED_HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAA"
    "AAAERAAAEAAQAAAAABoQABAAAAAAAAABwAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAA"
    "AADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkA"
    "AAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAA"
    "AAAoY2xhcAAAACwAAAABAAAAKAAAAAH////oAAAAAv///+gAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAC"
    "RtZGF0AAAAGCgBrxOA9SeBP/+UFH/+BBnhuNV+efLU8A=="
)
"""A file that the fuzzer has found: 44 x 40 by its header, 42 x 40 once it is cropped."""


def test_the_size_is_that_of_the_pixels() -> None:
    """Where the header has another, faces and lines of text would be beside the picture."""
    picture = decode(base64.b64decode(CROPPED_HEIC), LIMIT)
    assert picture.size == picture.image.size == (42, 40)


@pytest.mark.filterwarnings("ignore::Warning")
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_picture_or_refused(data: st.DataObject) -> None:
    """Whatever Pillow raises, `decode` raises one of ours, and what it returns has its pixels."""
    file = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, min(60, len(file) - 1)), st.integers(0, len(file) - 1)))
        match data.draw(st.sampled_from(["byte", "bytes", "cut", "insert"])):
            case "byte":
                file[at] = data.draw(st.integers(0, 255))
            case "bytes":
                file[at : at + 4] = data.draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]))
            case "cut":
                del file[max(1, at) :]
            case _:
                file[at:at] = data.draw(st.binary(max_size=8))
    with suppress(BadImage, TooLarge):
        measure(bytes(file), 1 << 20)
    with suppress(BadImage, TooLarge):
        picture = decode(bytes(file), 1 << 20)
        assert picture.rgb.shape == (picture.height, picture.width, 3)
        assert picture.width * picture.height <= 1 << 20


def photo(width: int, height: int, orientation: int = 1) -> bytes:
    """A JPEG with something in it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.radial_gradient("L").resize((width, height)).convert("RGB"), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("size", "min_side", "decoded"),
    [
        ((1440, 1081), 448, (720, 541)),
        ((1081, 1440), 200, (271, 360)),
        ((1440, 1440), 100, (180, 180)),
        ((800, 600), 448, (800, 600)),
        ((800, 600), 6000, (800, 600)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_suffices(
    size: tuple[int, int], min_side: int, decoded: tuple[int, int]
) -> None:
    picture = decode(photo(*size), LIMIT, min_side)
    assert picture.image.size == decoded
    assert (picture.width, picture.height) == picture.size == size


def test_other_formats_are_decoded_whole() -> None:
    assert decode(encoded(Image.new("RGB", (900, 600))), LIMIT, 100).image.size == (900, 600)


def test_a_scaled_picture_is_turned_with_its_size() -> None:
    for orientation, size, decoded in ((6, (600, 1000), (300, 500)), (3, (1000, 600), (500, 300))):
        picture = upright(decode(photo(1000, 600, orientation), LIMIT, 200))
        assert (picture.size, picture.image.size) == (size, decoded)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_jpeg_is_refused_at_any_scale(kept: float) -> None:
    data = photo(1440, 1080)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * kept)], LIMIT, 200)
