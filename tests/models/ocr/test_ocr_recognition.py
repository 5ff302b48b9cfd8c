import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_ocr_pictures import ENGLISH, NEWS, STRIP, page, sans
from numpy.typing import NDArray
from ocr_session import bundled, open_session, recognizer
from rapidocr.ch_ppocr_rec.main import TextRecognizer as Reference

from immich_ml_cn.engines.session import TensorInfo
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.models.ocr.recognition import (
    MAX_COLUMNS,
    MAX_WIDTH,
    RecognitionInput,
    TextRecognizer,
    finely_padded_width,
    load_recognizer,
    padded_width,
)


@dataclass
class FakeSession:
    """Answers the width of each line as its only class.

    Attributes:
        classes: how many a time step gives: the likeliest one, two, or all.
    """

    classes: int | None = 2
    inputs: tuple[TensorInfo, ...] = (TensorInfo("x", "float32", (None, 3, 48, None)),)
    outputs: tuple[TensorInfo, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.shapes.append(feeds["x"].shape)
        best = np.rint(feeds["x"].sum(axis=(1, 2))[:, ::8]).astype(np.int64)
        if self.classes is None:
            return [np.eye(int(best.max()) + 1, dtype=np.float32)[best]]
        if self.classes == 1:
            return [best, np.ones(best.shape, np.float32)]
        return [np.stack([best, 0 * best], axis=2), np.stack([best**0, 0 * best], axis=2).astype(np.float32)]


def line(text: str) -> NDArray[np.uint8]:
    width = int(sans(32).getlength(text)) + 16
    image = page((width, 46), [text], sans(32), pitch=0, start=(8, 0))
    return np.asarray(image)


def item(value: int, width: int) -> RecognitionInput:
    return RecognitionInput(np.full((3, 48, width), value / 144, np.float32))


@pytest.mark.parametrize("text", [*NEWS, *ENGLISH, STRIP, "42"])
def test_drawn_lines_are_read(text: str) -> None:
    path = recognizer().infer([recognizer().prepare(line(text))])[0]
    read, score = recognizer().decode(path)
    assert "".join(read.split()) == "".join(text.split())
    assert score > 0.9


def test_a_line_reads_the_same_alone_and_with_neighbours() -> None:
    items = [recognizer().prepare(line(text)) for text in NEWS]
    bucket = recognizer().bucket(items[0])
    items = [item for item in items if recognizer().bucket(item) == bucket]
    assert len(items) >= 3
    together = [recognizer().decode(path) for path in recognizer().infer(items)]
    alone = [recognizer().decode(recognizer().infer([item])[0]) for item in items]
    assert [text for text, _ in together] == [text for text, _ in alone]
    np.testing.assert_allclose([s for _, s in together], [s for _, s in alone], atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(48, 101), (20, 75), (96, 400), (7, 3)])
def test_the_tensor_is_rapidocrs_but_for_its_padding(height: int, width: int) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    reference = Reference.__new__(Reference)
    reference.rec_image_shape = [3, 48, 320]
    expected = reference.resize_norm_img(crop[:, :, ::-1], 320 / 48)
    tensor = recognizer().prepare(crop).tensor
    shared = min(tensor.shape[2], 320)
    np.testing.assert_allclose(tensor[:, :, :shared], expected[:, :, :shared], atol=1e-6)
    assert not tensor[:, :, shared:].any()
    assert not expected[:, :, shared:].any()


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        *((1, 64), (64, 64), (65, 128), (512, 512), (513, 576), (1025, 1152), (2049, 2304)),
        *((MAX_WIDTH - 1, MAX_WIDTH), (MAX_WIDTH, MAX_WIDTH)),
    ],
)
def test_padded_width(width: int, expected: int) -> None:
    assert padded_width(width) == expected


@given(st.integers(1, MAX_WIDTH))
@settings(deadline=None)
def test_padding_is_little(width: int) -> None:
    padded = padded_width(width)
    assert width <= padded < width + max(64, width / 8 + 1)
    assert padded_width(padded) == padded


def test_there_are_few_widths() -> None:
    assert len({padded_width(width) for width in range(1, MAX_WIDTH + 1)}) == 40


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (500, 1), (48, 20_000)])
def test_extreme_crops_are_bounded(size: tuple[int, int]) -> None:
    tensor = recognizer().prepare(np.zeros((*size, 3), np.uint8)).tensor
    assert tensor.shape[:2] == (3, 48)
    assert 64 <= tensor.shape[2] <= MAX_WIDTH


@pytest.mark.parametrize("classes", [1, 2, None])
def test_outputs_keep_the_order_of_the_items(classes: int | None) -> None:
    model = TextRecognizer(FakeSession(classes), ())
    paths = model.infer([item(value, 64) for value in (3, 1, 2)])
    assert [indices[:, 0].tolist() for indices, _ in paths] == [[value] * 8 for value in (3, 1, 2)]
    assert [best.tolist() for _, best in paths] == [[[1.0] if classes == 1 else [1.0, 0.0]] * 8] * 3


def test_a_batch_of_wide_lines_is_split() -> None:
    session = FakeSession()
    model = TextRecognizer(session, ())
    width = MAX_COLUMNS // 2
    paths = model.infer([item(value, width) for value in range(5)])
    assert [shape[0] for shape in session.shapes] == [2, 2, 1]
    assert [int(indices[0, 0]) for indices, _ in paths] == list(range(5))


class FakeParallelSession(FakeSession):
    parallelism = 2

    def run_parallel(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[list[NDArray[Any]]]:
        return [self.run(feed) for feed in feeds]


@pytest.mark.parametrize("classes", [1, 2, None])
def test_lines_of_any_width_run_in_parallel_the_longest_first(classes: int | None) -> None:
    session = FakeParallelSession(classes)
    model = TextRecognizer(session, ())
    items = [item(3, 64), item(1, 320), item(2, 96)]
    assert len({model.bucket(item) for item in items}) == 1
    assert [int(indices[0, 0]) for indices, _ in model.infer(items)] == [3, 1, 2]
    assert session.shapes == [(1, 3, 48, 320), (1, 3, 48, 96), (1, 3, 48, 64)]


@pytest.mark.parametrize("height", [12, 48, 300])
@pytest.mark.parametrize("width", [1, 48, 700])
def test_a_line_that_runs_alone_gets_less_padding(height: int, width: int) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    shared = recognizer().prepare(crop).tensor
    alone = recognizer(parallel=True).prepare(crop).tensor
    assert alone.shape[2] <= shared.shape[2]
    np.testing.assert_array_equal(alone, shared[:, :, : alone.shape[2]])
    assert not shared[:, :, alone.shape[2] :].any()


@pytest.mark.parametrize(("width", "expected"), [(1, 64), (64, 64), (65, 96), (513, 544), (MAX_WIDTH, MAX_WIDTH)])
def test_finely_padded_width(width: int, expected: int) -> None:
    assert finely_padded_width(width) == expected


def copy_without_alphabet(folder: Path) -> Path:
    model = onnx.load(bundled("PP-OCRv6_rec_small"))
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_the_alphabet_may_lie_beside_the_graph(tmp_path: Path) -> None:
    path = copy_without_alphabet(tmp_path)
    characters = "\n".join(recognizer().alphabet[1:-1])
    path.with_name("charset.txt").write_text(characters, encoding="utf-8")
    assert load_recognizer(path, open_session).alphabet == recognizer().alphabet


def test_a_graph_that_is_not_edited_reads_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = onnx.load(bundled("PP-OCRv6_rec_small"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1 << 20)
    loaded = load_recognizer(path, open_session)
    assert "has weights outside" in caplog.text
    assert loaded.alphabet == recognizer().alphabet
    items = [recognizer().prepare(line(NEWS[0]))]
    assert loaded.decode(loaded.infer(items)[0])[0] == recognizer().decode(recognizer().infer(items)[0])[0]


@pytest.mark.parametrize("charset", [None, "a\nb\nc"])
def test_a_graph_without_its_alphabet_is_refused(tmp_path: Path, charset: str | None) -> None:
    path = copy_without_alphabet(tmp_path)
    if charset is not None:
        path.with_name("charset.txt").write_text(charset, encoding="utf-8")
    with pytest.raises(Unavailable, match="cannot be used for text recognition"):
        load_recognizer(path, open_session)
