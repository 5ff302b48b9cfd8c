"""Detection: insightface's own detectors on the same weights are the reference."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_models import build_constant_detector, build_detector, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from ort_session import OrtSession
from PIL import Image, ImageDraw

from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.errors import BadImage, InferenceFailed, Unavailable
from immich_ml_cn.models.faces import FaceDetector, load_detector
from immich_ml_cn.models.faces.detection import suppress
from immich_ml_cn.models.images import Picture
from immich_ml_cn.models.results import Faces

PHOTOS = ("astronaut", "coffee", "tall-coffee", "rocket", "tall-rocket", "motorcycle_left", "hubble_deep_field", "t1")
# Smooth or masked by large even areas, where equal scores are common.
TIED_PHOTOS = ("chelsea", "mask_blue", "mask_white")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> FaceDetector:
    return load_detector(build_detector(tmp_path_factory.mktemp("flat") / "model.onnx"), OrtSession)


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> FaceDetector:
    path = build_detector(tmp_path_factory.mktemp("batched") / "model.onnx", batch_axis=True)
    return load_detector(path, OrtSession)


def detect(detector: FaceDetector, picture: Picture, min_score: float = 0.7) -> Faces:
    item = detector.prepare(picture)
    return detector.faces(item, detector.infer([item])[0], min_score)


def detect_with_insightface(
    detector: FaceDetector, picture: Picture, min_score: float = 0.7, kind: str = "SCRFD"
) -> Faces:
    from insightface import model_zoo

    assert isinstance(detector.session, OrtSession)
    reference = getattr(model_zoo, kind)(session=detector.session.ort)
    reference.prepare(0, det_thresh=min_score, input_size=(640, 640))
    found, landmarks = reference.detect(np.ascontiguousarray(picture.rgb[..., ::-1]))
    return Faces(found[:, :4], found[:, 4], landmarks)


def assert_same_faces(ours: Faces, theirs: Faces, within: float = 0.5) -> None:
    assert len(ours.scores) == len(theirs.scores)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, rtol=0, atol=within)
    np.testing.assert_allclose(ours.landmarks, theirs.landmarks, rtol=0, atol=within)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-5)


class TestAgainstInsightface:
    @pytest.mark.parametrize("name", PHOTOS + TIED_PHOTOS)
    def test_scrfd(self, detector: FaceDetector, name: str) -> None:
        ours = detect(detector, photo(name))
        assert len(ours.scores) >= 10
        assert_same_faces(ours, detect_with_insightface(detector, photo(name)))

    @pytest.mark.parametrize("name", PHOTOS)
    def test_retinaface(self, detector: FaceDetector, name: str) -> None:
        assert_same_faces(
            detect(detector, photo(name)), detect_with_insightface(detector, photo(name), kind="RetinaFace")
        )

    @pytest.mark.parametrize("name", PHOTOS[:3])
    def test_graph_with_a_batch_axis(self, batched: FaceDetector, name: str) -> None:
        ours = detect(batched, photo(name))
        assert len(ours.scores) >= 10
        assert_same_faces(ours, detect_with_insightface(batched, photo(name)))

    def test_suppression_has_work_to_do(self, detector: FaceDetector) -> None:
        item = detector.prepare(photo("t1"))
        (raw,) = detector.infer([item])
        candidates = sum(int((scores >= 0.7).sum()) for scores in raw[:3])
        assert candidates >= 1.5 * len(detector.faces(item, raw, 0.7).scores)

    @pytest.mark.parametrize("name", ["t1", "tall-rocket"])
    def test_five_strides_with_one_anchor(self, tmp_path: Path, name: str) -> None:
        path = build_detector(tmp_path / "model.onnx", strides=(8, 16, 32, 64, 128), anchors=1)
        detector = load_detector(path, OrtSession)
        ours = detect(detector, photo(name))
        assert len(ours.scores) >= 10
        assert_same_faces(ours, detect_with_insightface(detector, photo(name)))

    @pytest.mark.parametrize("name", ["t1", "tall-rocket"])
    def test_input_size_the_graph_declares(self, tmp_path: Path, name: str) -> None:
        detector = load_detector(build_detector(tmp_path / "model.onnx", size=(320, 256)), OrtSession)
        assert detector.size == (320, 256)
        ours = detect(detector, photo(name))
        assert len(ours.scores) >= 5
        assert_same_faces(ours, detect_with_insightface(detector, photo(name)))


class TestLetterbox:
    @pytest.mark.parametrize("size", [(640, 640), (1280, 886), (886, 1280), (300, 200), (2560, 1440), (3000, 500)])
    def test_a_mark_goes_where_the_scale_says(self, detector: FaceDetector, size: tuple[int, int]) -> None:
        width, height = size
        centre = np.array([width * 0.8, height * 0.7])
        radius = max(size) / 20
        image = Image.new("RGB", size)
        ImageDraw.Draw(image).ellipse([*(centre - radius), *(centre + radius)], fill=(255, 0, 0))
        item = detector.prepare(Picture.of(image))
        assert item.tensor.dtype == np.float32
        assert item.tensor.shape == (3, 640, 640)
        rows, columns = np.nonzero(item.tensor[0] > 0.9)
        # insightface rounds the short side down to a whole pixel and divides both axes by what that makes the scale.
        lost = centre.max() / (640 * min(size) // max(size))
        np.testing.assert_allclose((columns.mean() / item.scale, rows.mean() / item.scale), centre, atol=1 + lost)

    def test_colours_and_range(self, detector: FaceDetector) -> None:
        item = detector.prepare(Picture.of(Image.new("RGB", (640, 320), (255, 127, 0))))
        np.testing.assert_array_equal(item.tensor[:, 0, 0], np.array([127.5, -0.5, -127.5], np.float32) / 128)
        np.testing.assert_array_equal(item.tensor[:, 319, 639], item.tensor[:, 0, 0])
        np.testing.assert_array_equal(item.tensor[:, 320], np.full((3, 640), -127.5 / 128, np.float32))

    @pytest.mark.parametrize("size", [(640, 640), (1280, 886), (1024, 1280), (320, 160)])
    def test_a_known_face_lands_on_its_pixels(self, tmp_path: Path, size: tuple[int, int]) -> None:
        offsets = [-1, -1, 1, -1, 0, 0, -1, 1, 1, 1]
        path = build_constant_detector(tmp_path / "model.onnx", (20, 30), [0.9, 2, 3, 4, 5, *offsets])
        found = detect(load_detector(path, OrtSession), Picture.of(Image.new("RGB", size)))
        pixels = max(size) / 640
        centre = np.array([20 * 8, 30 * 8])
        box = (centre[[0, 1, 0, 1]] + [-16, -24, 32, 40]) * pixels
        landmarks = (centre + 8 * np.array(offsets).reshape(5, 2)) * pixels
        np.testing.assert_allclose(found.boxes, [box], atol=0.5)
        np.testing.assert_allclose(found.landmarks, [landmarks], atol=0.5)
        np.testing.assert_allclose(found.scores, [0.9], atol=1e-6)


class TestOddPictures:
    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 3000), (3000, 1), (7, 40000), (40000, 7), (2, 1)])
    def test_extreme_sizes_are_answered(self, detector: FaceDetector, size: tuple[int, int]) -> None:
        found = detect(detector, Picture.of(Image.effect_noise(size, 80)), 0.3)
        assert found.boxes.shape == (len(found.scores), 4)
        assert found.landmarks.shape == (len(found.scores), 5, 2)
        assert np.isfinite(found.boxes).all()
        assert np.isfinite(found.landmarks).all()

    @pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
    def test_no_pixels(self, detector: FaceDetector, size: tuple[int, int]) -> None:
        with pytest.raises(BadImage, match="zero width or height"):
            detector.prepare(Picture.of(Image.new("RGB", size)))

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
    def test_other_modes_are_seen_as_rgb(self, detector: FaceDetector, mode: str) -> None:
        image = photo("coffee").image.convert(mode)
        converted = detector.prepare(Picture.of(image.convert("RGB")))
        np.testing.assert_array_equal(detector.prepare(Picture.of(image)).tensor, converted.tensor)

    def test_no_face(self, detector: FaceDetector) -> None:
        found = detect(detector, photo("t1"), 1.1)
        assert (found.boxes.shape, found.scores.shape, found.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
        assert {found.boxes.dtype, found.scores.dtype, found.landmarks.dtype} == {np.dtype(np.float32)}


class TestBatches:
    def test_equal_one_by_one(self, batched: FaceDetector) -> None:
        items = [batched.prepare(photo(name)) for name in ("t1", "tall-coffee", "rocket")]
        assert len({batched.bucket(item) for item in items}) == 1
        assert isinstance(batched.session, OrtSession)
        batched.session.runs.clear()
        together = batched.infer(items)
        assert batched.session.batches == [3]
        for item, raw in zip(items, together, strict=True):
            (alone,) = batched.infer([item])
            assert_same_faces(batched.faces(item, raw, 0.7), batched.faces(item, alone, 0.7), within=1e-3)

    def test_flattened_outputs_run_one_by_one(self, detector: FaceDetector) -> None:
        items = [detector.prepare(photo(name)) for name in ("t1", "tall-coffee")]
        assert isinstance(detector.session, OrtSession)
        detector.session.runs.clear()
        together = detector.infer(items)
        assert detector.session.batches == [1, 1]
        for item, raw in zip(items, together, strict=True):
            (alone,) = detector.infer([item])
            assert_same_faces(detector.faces(item, raw, 0.7), detector.faces(item, alone, 0.7), within=0)

    def test_nothing(self, detector: FaceDetector, batched: FaceDetector) -> None:
        assert detector.infer([]) == []
        assert batched.infer([]) == []

    def test_min_score_is_an_argument(self, detector: FaceDetector) -> None:
        item = detector.prepare(photo("astronaut"))
        (raw,) = detector.infer([item])
        strict, loose, again = (detector.faces(item, raw, score) for score in (0.9, 0.6, 0.9))
        assert 0 < len(strict.scores) < len(loose.scores)
        assert strict.scores.min() >= 0.9 > loose.scores.min() >= 0.6
        assert_same_faces(strict, again, within=0)

    def test_the_model_cannot_be_changed(self, detector: FaceDetector) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            detector.size = (1, 1)  # type: ignore[misc]


class FakeSession(OrtSession):
    """A session whose first output is replaced."""

    def __init__(self, source: Graph, first: NDArray[np.float32] | None = None) -> None:
        super().__init__(source)
        self.first = first

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        outputs = super().run(feeds)
        return outputs if self.first is None else [self.first, *outputs[1:]]


class TestBrokenGraphs:
    @pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64, 128)])
    def test_without_landmarks(self, tmp_path: Path, strides: tuple[int, ...]) -> None:
        path = build_detector(tmp_path / "model.onnx", strides=strides, anchors=1, landmarks=False)
        with pytest.raises(Unavailable, match=rf"model\.onnx .* {2 * len(strides)} outputs have no landmarks"):
            load_detector(path, OrtSession)

    def test_another_number_of_outputs(self, tmp_path: Path) -> None:
        path = build_detector(tmp_path / "model.onnx", strides=(8,))
        with pytest.raises(Unavailable, match="3 outputs instead of 9 or 15"):
            load_detector(path, OrtSession)

    def test_outputs_in_another_order(self, tmp_path: Path) -> None:
        class Shuffled(OrtSession):
            outputs = property(lambda self: super().outputs[::-1])

        with pytest.raises(Unavailable, match="1 float32 columns belong"):
            load_detector(build_detector(tmp_path / "model.onnx"), Shuffled)

    def test_answer_of_another_shape(self, tmp_path: Path) -> None:
        first = np.zeros((5, 1), dtype=np.float32)
        path = build_detector(tmp_path / "model.onnx")
        detector = load_detector(path, lambda source: FakeSession(source, first))
        with pytest.raises(InferenceFailed, match=r"\(5, 1\)"):
            detector.infer([detector.prepare(photo("t1"))])

    def test_numbers_that_are_not_finite_are_no_faces(self, detector: FaceDetector) -> None:
        item = detector.prepare(photo("astronaut"))
        raw = detector.infer([item])[0]
        spoilt = [output.copy() for output in raw]
        best = int(spoilt[0].argmax())
        spoilt[0][best] = 0.9999
        spoilt[3][best] = np.nan
        spoilt[0][0] = np.nan
        found = detector.faces(item, tuple(spoilt), 0.7)
        assert len(found.scores) >= 10
        assert np.isfinite(found.boxes).all()
        assert found.scores.max() < 0.9999


def overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes, border pixels counted, in plain Python."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]) + 1)
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]) + 1)
    areas = [float((box[2] - box[0] + 1) * (box[3] - box[1] + 1)) for box in (one, other)]
    return float(width * height) / (sum(areas) - float(width * height))


def boxes_from(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    corners = numbers[:, :2].astype(np.float32)
    return np.hstack((corners, corners + numbers[:, 2:].astype(np.float32)))


SOME_BOXES = st.integers(0, 25).flatmap(lambda n: arrays(np.int64, (n, 4), elements=st.integers(0, 60))).map(boxes_from)


class TestSuppress:
    @given(boxes=SOME_BOXES, order=st.randoms(use_true_random=False))
    @settings(max_examples=80, deadline=None)
    def test_keeps_what_greedy_suppression_keeps(self, boxes: NDArray[np.float32], order: Any) -> None:
        scores = np.linspace(0.1, 0.9, len(boxes), dtype=np.float32)
        order.shuffle(scores)
        wanted: list[int] = []
        for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
            if all(overlap(boxes[index], boxes[kept]) <= 0.4 for kept in wanted):
                wanted.append(index)
        assert suppress(boxes, scores, 0.4).tolist() == wanted

    @given(boxes=SOME_BOXES, seed=st.integers(0, 1000))
    @settings(max_examples=50, deadline=None)
    def test_the_order_of_the_boxes_does_not_matter(self, boxes: NDArray[np.float32], seed: int) -> None:
        random = np.random.default_rng(seed)
        scores = random.permutation(len(boxes)).astype(np.float32)
        shuffled = random.permutation(len(boxes))
        kept = suppress(boxes[shuffled], scores[shuffled], 0.4)
        assert shuffled[kept].tolist() == suppress(boxes, scores, 0.4).tolist()

    def test_of_equal_scores_the_first_wins(self) -> None:
        boxes = np.array([[0, 0, 9, 9], [1, 0, 10, 9], [50, 50, 60, 60]], dtype=np.float32)
        assert suppress(boxes, np.full(3, 0.8, np.float32), 0.4).tolist() == [0, 2]

    def test_a_box_at_the_limit_stays(self) -> None:
        boxes = np.array([[0, 0, 9, 6], [0, 3, 9, 9]], dtype=np.float32)
        assert overlap(boxes[0], boxes[1]) == pytest.approx(0.4)
        scores = np.array([0.9, 0.8], dtype=np.float32)
        assert suppress(boxes, scores, 0.4001).tolist() == [0, 1]
        assert suppress(boxes, scores, 0.3999).tolist() == [0]
