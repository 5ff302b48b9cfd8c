from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest
from make_ocr_pictures import NEWS, page, sans
from numpy.typing import NDArray
from ocr_session import bundled, classifier
from rapidocr.ch_ppocr_cls import TextClassifier

from immich_ml_cn.engines.session import TensorInfo
from immich_ml_cn.models.ocr.orientation import TextOrientation, load_classifier


def line(text: str) -> NDArray[np.uint8]:
    return np.asarray(page((34 * len(text) + 16, 46), [text], sans(32), pitch=0, start=(8, 0)))


@pytest.mark.parametrize("text", NEWS)
def test_upright_and_upside_down_lines_are_told_apart(text: str) -> None:
    items = [classifier().prepare(crop) for crop in (line(text), np.rot90(line(text), 2))]
    upright, upside_down = classifier().infer(items)
    assert upright < 0.5
    assert upside_down > 0.9


@pytest.mark.parametrize("width", [10, 100, 192, 900])
def test_the_tensor_is_rapidocrs(width: int) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (48, width, 3), np.uint8)
    reference = TextClassifier.__new__(TextClassifier)
    reference.cls_image_shape = [3, 48, 192]
    expected = reference.resize_norm_img(crop[:, :, ::-1])
    np.testing.assert_allclose(classifier().prepare(crop).tensor, expected, atol=1e-6)


def test_all_lines_share_a_bucket() -> None:
    buckets = {classifier().bucket(classifier().prepare(line(text))) for text in ("a", *NEWS)}
    assert buckets == {(3, 48, 192)}


def test_the_input_size_is_read_from_the_graph_when_it_says() -> None:
    class FakeSession:
        inputs = (TensorInfo("x", "float32", (None, 3, 80, 160)),)
        outputs = ()
        metadata: Mapping[str, str] = MappingProxyType({})

        def run(self, feeds: object) -> list[NDArray[np.float32]]:
            raise NotImplementedError

    model = load_classifier(bundled("unused"), lambda _: FakeSession())
    assert model == TextOrientation(model.session, (80, 160))
    assert model.prepare(line("a")).tensor.shape == (3, 80, 160)
