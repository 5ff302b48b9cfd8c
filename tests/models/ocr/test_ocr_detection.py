from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_ocr_pictures import MIXED, PICTURES, page, sans
from numpy.typing import NDArray
from ocr_session import detector
from PIL import Image
from rapidocr.ch_ppocr_det.utils import DetPreProcess

from immich_ml_cn.engines.session import TensorInfo
from immich_ml_cn.models.images import Picture, decode
from immich_ml_cn.models.ocr.detection import MAX_LONG_SIDE, MAX_PIXELS, DetectionInput, TextDetector, detection_size


@dataclass
class FakeSession:
    """Says that everything bright is text, and remembers what it was asked."""

    inputs: tuple[TensorInfo, ...] = (TensorInfo("x", "float32", (None, 3, None, None)),)
    outputs: tuple[TensorInfo, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def run(self, feeds: Any) -> list[NDArray[Any]]:
        self.shapes.append(feeds["x"].shape)
        return [(feeds["x"][:, :1] + 1) / 2]


def blank(width: int, height: int) -> Picture:
    return Picture.of(Image.new("RGB", (width, height)))


def with_bars(width: int, height: int, *bars: tuple[int, int, int, int]) -> Picture:
    pixels = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom in bars:
        pixels[top:bottom, left:right] = 255
    return Picture.of(Image.fromarray(pixels))


@pytest.mark.parametrize(
    ("size", "max_resolution", "expected"),
    [
        ((1920, 1440), 736, (736, 992)),  # Immich's preview: the shorter side down to 736
        ((1440, 2560), 736, (1312, 736)),
        ((640, 420), 736, (416, 640)),  # never up
        ((200, 60), 736, (64, 192)),
        ((20, 5), 736, (32, 32)),
        ((1440, 13333), 736, (4096, 448)),  # a long screenshot: the longer side down to 4096
        ((8000, 8000), 10**6, (2048, 2048)),
        ((1920, 1440), 1, (32, 32)),
    ],
)
def test_detection_size(size: tuple[int, int], max_resolution: int, expected: tuple[int, int]) -> None:
    assert detection_size(*size, max_resolution) == expected


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(-5, 20_000))
@settings(deadline=None)
def test_detection_size_is_bounded(width: int, height: int, max_resolution: int) -> None:
    sides = detection_size(width, height, max_resolution)
    assert all(side % 32 == 0 and 32 <= side <= MAX_LONG_SIDE for side in sides)
    assert sides[0] * sides[1] <= (MAX_PIXELS**0.5 + 16) ** 2 + 32 * MAX_LONG_SIDE


@pytest.mark.parametrize(("width", "height"), [(640, 420), (300, 1001), (33, 80)])
def test_the_tensor_is_rapidocrs(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    limit = max(width, height) * min(1, 320 / min(width, height))
    expected = DetPreProcess(limit, "max")(np.ascontiguousarray(pixels[:, :, ::-1]))
    assert expected is not None
    item = detector().prepare(Picture.of(Image.fromarray(pixels)), 320)
    np.testing.assert_allclose(item.tensor, expected[0], atol=1e-6)


def test_a_batch_of_equal_shapes_is_stacked() -> None:
    session = FakeSession()
    model = TextDetector(session)
    items = [model.prepare(picture, 736) for picture in (blank(64, 96), blank(70, 90))]
    assert [model.bucket(item) for item in items] == [(96, 64), (96, 64)]
    maps = model.infer(items)
    assert session.shapes == [(2, 3, 96, 64)]
    assert [found.shape for found in maps] == [(96, 64), (96, 64)]


def test_boxes_are_in_pixels_of_the_picture_in_order_and_keep_their_scores() -> None:
    model = TextDetector(FakeSession())
    item = model.prepare(with_bars(640, 320, (64, 200, 320, 240), (64, 40, 320, 80)), 160)
    probability = model.infer([item])[0]
    probability[:60] *= 0.75
    found = model.boxes(item, probability, 0.5)
    assert len(found) == 2
    assert found.boxes[0, :, 1].max() < found.boxes[1, :, 1].min()
    # The minimum-area rectangle touches pixels that are not text, which lower the mean.
    np.testing.assert_allclose(found.scores, [0.75, 1], atol=0.1)
    for box, (top, bottom) in zip(found.boxes, [(40, 80), (200, 240)], strict=True):
        assert box[0, 0] < 64 < 320 < box[2, 0]
        assert box[0, 1] < top < bottom < box[2, 1]


def test_nothing_found_is_empty() -> None:
    model = TextDetector(FakeSession())
    item = model.prepare(blank(100, 100), 736)
    found = model.boxes(item, model.infer([item])[0], 0.5)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4, 2)


@pytest.mark.parametrize("size", [(1, 1), (31, 5), (400, 20), (20, 400), (33, 31)])
def test_thin_pictures_are_padded_and_boxes_stay_inside(size: tuple[int, int]) -> None:
    model = TextDetector(FakeSession())
    item = model.prepare(Picture.of(Image.new("RGB", size, "white")), 736)
    assert min(model.bucket(item)) >= 32
    found = model.boxes(item, model.infer([item])[0], 0.5)
    assert ((found.boxes >= 0) & (found.boxes <= np.array(size) - 1)).all()


@pytest.mark.parametrize("height", [13, 16, 20, 28, 31])
def test_text_is_found_in_pictures_under_32_px(height: int) -> None:
    text = page((300, height), ["EXIT 出口 42"], sans(height * 2 // 3), pitch=0, start=(8, 0))
    item = detector().prepare(Picture.of(text), 736)
    found = detector().boxes(item, detector().infer([item])[0], 0.5)
    assert len(found) == 1
    assert (found.boxes[0].max(axis=0) <= [299, height - 1]).all()
    assert np.ptp(found.boxes[0, :, 1]) > height / 2


def test_the_map_is_the_same_alone_and_in_a_batch() -> None:
    pictures = [decode((PICTURES / f"{name}.png").read_bytes(), 10**7) for name in ("mixed", "english")]
    items = [detector().prepare(picture, 320) for picture in pictures]
    together = detector().infer(items)
    for item, probability in zip(items, together, strict=True):
        np.testing.assert_allclose(probability, detector().infer([item])[0], atol=1e-3)


def test_lines_are_cropped_from_the_full_picture() -> None:
    picture = Picture.of(page((900, 600), MIXED, sans(34), pitch=70))
    item = detector().prepare(picture, 320)
    assert (item.height, item.width) == (600, 900)
    np.testing.assert_array_equal(item.image, picture.rgb)
    assert isinstance(item, DetectionInput)
