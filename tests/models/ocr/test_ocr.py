"""Our text is RapidOCR's text: same weights, same picture, same detection size.

RapidOCR's detection size is made ours with ``Det.limit_type=max`` and ``Det.limit_side_len`` = the
longer side after Immich's scaling; its resizing to 30…2000 px and its black padding of flat pictures
are switched off, because Immich's protocol says what is searched at what size.

Not compared: a space between Chinese and Latin or digits. Whether the recogniser sees it hangs on a
few pixels of padding, and RapidOCR, whose padding comes from the five neighbours of a line,
contradicts itself there; the pictures avoid the closest calls.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_ocr_pictures import ENGLISH, MIXED, NEWS, PICTURES, POEM, SAMPLE, STRIP
from numpy.typing import NDArray
from ocr_pipeline import OcrModels, read_picture
from rapidocr import RapidOCR

from immich_ml_cn.models.images import decode

MAX_RESOLUTION = 736

IN_THE_SAME_ORDER = [
    *("chinese.png", "english.png", "mixed.png", "small.png", "tiny.png", "strip.png"),
    *("large.jpg", "dense.png", "slanted.png", "light_on_dark.jpg"),
    *("transparent_dark.png", "transparent_light.png", "two_columns.png", "screenshot.png"),
]
# RapidOCR sorts everything by the top of the boxes; we read vertical lines from right to left, and a page that was
# photographed upside down from its own top.
IN_ANOTHER_ORDER = ["vertical.png", "rotated_90.png", "rotated_180.png", "rotated_270.png"]


@dataclass(frozen=True)
class Page:
    texts: list[str]
    boxes: NDArray[np.float32]


def our_page(name: str, *, parallel: bool = True) -> Page:
    """What the pipeline answers for one page, its lines side by side, as on a CPU, or in batches."""
    return _read_once(name, parallel)


@cache
def _read_once(name: str, parallel: bool) -> Page:
    read = read_picture(path_of(name).read_bytes(), models=OcrModels.bundled(parallel=parallel))
    return Page(list(read.texts), read.lines.boxes)


@cache
def their_page(name: str) -> Page:
    image = decode(path_of(name).read_bytes(), 10**8).image
    detector = reference()._load_det_model()
    detector.limit_type = "max"
    detector.limit_side_len = max(image.size) * min(1, MAX_RESOLUTION / min(image.size))
    answer = reference()(image)
    if answer.boxes is None:
        return Page([], np.zeros((0, 4, 2), np.float32))
    return Page(list(answer.txts), answer.boxes)


@cache
def reference() -> Any:
    options = {"use_preprocess_img": False, "use_vertical_padding": False, "log_level": "critical"}
    return RapidOCR(params={f"Global.{key}": value for key, value in options.items()})


def path_of(name: str) -> Path:
    return SAMPLE if name == SAMPLE.name else PICTURES / name


def without_spaces(texts: list[str]) -> str:
    return "".join("".join(texts).split())


@pytest.mark.parametrize("parallel", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", IN_THE_SAME_ORDER)
def test_text_and_order_are_rapidocrs(name: str, parallel: bool) -> None:
    assert our_page(name, parallel=parallel).texts == their_page(name).texts
    assert our_page(name, parallel=parallel).texts


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("name", IN_ANOTHER_ORDER)
def test_text_is_rapidocrs_in_reading_order(name: str, parallel: bool) -> None:
    assert sorted(our_page(name, parallel=parallel).texts) == sorted(their_page(name).texts)


@pytest.mark.parametrize("name", IN_THE_SAME_ORDER)
def test_boxes_are_rapidocrs(name: str) -> None:
    # RapidOCR stretches a side of 24 px to 32 px, we pad it.
    tolerance = 1 if name == "tiny.png" else 0
    np.testing.assert_allclose(our_page(name).boxes, their_page(name).boxes, atol=tolerance)


@pytest.mark.parametrize("name", IN_ANOTHER_ORDER)
def test_boxes_are_rapidocrs_from_any_corner(name: str) -> None:
    ours, theirs = (sorted(sorted(box) for box in page(name).boxes.tolist()) for page in (our_page, their_page))
    assert ours == theirs


def test_no_text_gives_nothing() -> None:
    assert our_page("no_text.jpg").texts == their_page("no_text.jpg").texts == []


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("chinese.png", NEWS),
        ("english.png", ENGLISH),
        ("mixed.png", MIXED),
        ("rotated_90.png", MIXED),
        ("rotated_180.png", MIXED),
        ("rotated_270.png", MIXED),
        ("strip.png", [STRIP]),
        ("tiny.png", ["出口 EXIT 42"]),
        ("transparent_dark.png", MIXED[:3]),
        ("transparent_light.png", MIXED[2:]),
        ("vertical.png", ["静夜思", "李白", *POEM]),
    ],
)
def test_text_is_what_was_drawn(name: str, drawn: list[str]) -> None:
    assert without_spaces(our_page(name).texts) == without_spaces(drawn)


def test_the_sample_of_the_readme() -> None:
    assert without_spaces(our_page(SAMPLE.name).texts) == without_spaces(
        [
            *("山间音乐会", "Concert in the Hills", "2026年5月1日 晚上七点半"),
            *("Friday, May 1st, 7:30 pm", "杭州西湖露天剧场", "Free entry·免费入场"),
        ]
    )
