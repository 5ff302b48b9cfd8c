"""JPEG files without metadata show the same picture, and how much work one may be."""

import io
from collections.abc import Iterator

import corpus
import numpy as np
import pytest
from picture_files import encoded, gradient
from PIL import Image

from immich_ml_cn.errors import BadImage
from immich_ml_cn.models import jpeg
from immich_ml_cn.models.pieces import joined


def pixels(data: bytes) -> tuple[str, list[int]]:
    image = Image.open(io.BytesIO(data), formats=["JPEG", "MPO"])
    return image.mode, np.asarray(image).ravel().tolist()


def files() -> Iterator[tuple[str, bytes]]:
    for mode in ("L", "RGB", "CMYK"):
        for how in ({}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}, {"quality": 1}):
            yield f"{mode} {how}", encoded(gradient(mode), "JPEG", **how)
    for keep_rgb in (True, False):
        yield f"keep_rgb={keep_rgb}", encoded(gradient(), "JPEG", keep_rgb=keep_rgb)
    whole = {"exif": corpus.exif_that_repeats_itself(300), "icc_profile": b"\xff\xda" * 100_000, "comment": "\xff\xd9"}
    yield "metadata", encoded(gradient(), "JPEG", progressive=True, **whole)
    yield "MPO", encoded(gradient(), "MPO", save_all=True, append_images=[gradient()])


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize(("name", "data"), [*files()])
def test_the_picture_is_the_same(name: str, data: bytes) -> None:
    picture = joined(jpeg.split(data)[0]).read()
    assert pixels(picture) == pixels(data)
    jpeg.check_work(data)
    if name == "metadata":
        assert len(picture) < len(data) - 200_000


@pytest.mark.parametrize(("name", "data"), [*corpus.jpegs_with_fill_bytes(3_000)])
def test_fill_bytes_mean_nothing(name: str, data: bytes) -> None:
    short = joined(jpeg.split(data)[0]).read()
    assert len(short) < 3_000
    assert pixels(short) == pixels(data)


def test_exif_is_the_first_block() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(gradient(), "JPEG", exif=exif)
    at = data.index(b"\xff\xe1")
    second = b"\xff\xe1\0\x0cExif\0\0zzzz"
    for file in (data, data[:at] + b"\xff\xe1\0\x0ahttp://n" + data[at:], data[:-2] + second + data[-2:]):
        assert jpeg.split(file)[1] == exif.tobytes()
    assert jpeg.split(encoded(gradient(), "JPEG"))[1] == b""


def test_so_many_scans_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    data = corpus.jpeg_of_many_scans((40, 30), 90)
    scans = data.count(b"\xff\xda")
    monkeypatch.setattr(jpeg, "MAX_SCANNED_PIXELS", scans * 40 * 30)
    jpeg.check_work(data)
    monkeypatch.setattr(jpeg, "MAX_SCANNED_PIXELS", scans * 40 * 30 - 1)
    with pytest.raises(BadImage, match=f"draws its 1200 pixels more than {scans - 1} times"):
        jpeg.check_work(data)


def test_what_encoders_write_is_within_the_limits() -> None:
    """The largest picture that is allowed, progressive: its header is enough to tell."""
    data = corpus.jpeg_of_many_scans((40, 30), 10)
    at = data.index(b"\xff\xc2") + 5
    jpeg.check_work(data[:at] + (13_300).to_bytes(2, "big") * 2 + data[at + 4 :])


def test_scans_behind_what_looks_like_the_end_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end's marker inside of a comment is none, and after the end nothing is decoded."""
    data = corpus.jpeg_of_many_scans((40, 30), 2)
    monkeypatch.setattr(jpeg, "MAX_SCANNED_PIXELS", data.count(b"\xff\xda") * 40 * 30 - 1)
    at = data.rindex(b"\xff\xc4")
    with pytest.raises(BadImage):
        jpeg.check_work(data[:at] + b"\xff\xfe\0\4\xff\xd9" + data[at:])
    jpeg.check_work(data[:at] + b"\xff\xd9" + data[at:])


def test_a_single_scan_is_not_searched_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phones append films and further pictures, in which anything may stand."""
    monkeypatch.setattr(jpeg, "MAX_SCANNED_PIXELS", 40 * 30)
    jpeg.check_work(encoded(gradient(), "JPEG")[:-2] + b"\xff\xda\0\2" * 20_000)


@pytest.mark.parametrize("more", [b"\xff\xfe\0\2" * (jpeg.MAX_SEGMENTS + 1), b"\xff\xdb\0\2" * (jpeg.MAX_TABLES + 1)])
def test_more_segments_than_any_camera_writes_are_refused(more: bytes) -> None:
    data = encoded(gradient(), "JPEG")
    with pytest.raises(BadImage, match=r"more than 10000 segments|more than 200 tables"):
        jpeg.split(data[:2] + more + data[2:])


@pytest.mark.parametrize("cut", range(2, 640, 7))
def test_a_cut_file_is_read_to_its_end(cut: int) -> None:
    data = encoded(gradient(), "JPEG", exif=corpus.exif_that_repeats_itself(100))[:cut]
    jpeg.check_work(data)
    assert len(joined(jpeg.split(data)[0]).read()) <= len(data)
