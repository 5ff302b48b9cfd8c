"""Recognition: insightface's ArcFaceONNX on the same weights is the reference."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from face_models import build_detector, build_recognizer, photo
from numpy.typing import NDArray
from ort_session import OrtSession

from immich_ml_cn.engines.graphs import edits
from immich_ml_cn.engines.graphs.files import EditedGraph, Graph
from immich_ml_cn.errors import InferenceFailed, Unavailable
from immich_ml_cn.models.faces import FaceRecognizer, load_detector, load_recognizer
from immich_ml_cn.models.images import Picture

PHOTOS = ("astronaut", "coffee", "tall-rocket", "motorcycle_left", "chelsea", "t1")
# insightface calls what scikit-image and NumPy deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def landmarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float32]]:
    """Four faces of each photo, of different sizes and angles, found by a random detector."""
    detector = load_detector(build_detector(tmp_path_factory.mktemp("detector") / "model.onnx"), OrtSession)
    found = {}
    for name in PHOTOS:
        item = detector.prepare(photo(name))
        faces = detector.faces(item, detector.infer([item])[0], 0.7)
        found[name] = faces.landmarks[:4]
    return found


def embed(recognizer: FaceRecognizer, picture: Picture, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack(recognizer.infer(recognizer.prepare(picture, landmarks)))


def embed_with_insightface(path: Path, picture: Picture, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    from insightface.model_zoo import ArcFaceONNX

    reference = ArcFaceONNX(str(path), session=OrtSession(path).ort)
    pixels = np.ascontiguousarray(picture.rgb[..., ::-1])
    return np.stack([reference.get(pixels, SimpleNamespace(kps=points)) for points in landmarks])


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    products = (one.astype(np.float64) * other).sum(axis=1)
    return np.asarray(products / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1))


def session_of(recognizer: FaceRecognizer) -> OrtSession:
    assert isinstance(recognizer.session, OrtSession)
    return recognizer.session


class TestAgainstInsightface:
    @pytest.mark.parametrize("name", PHOTOS)
    @pytest.mark.parametrize("flatten", ["Flatten", "Reshape"])
    def test_embeddings(
        self, tmp_path: Path, landmarks: dict[str, NDArray[np.float32]], name: str, flatten: str
    ) -> None:
        path = build_recognizer(tmp_path / "model.onnx", flatten=flatten)
        recognizer = load_recognizer(path, OrtSession)
        assert recognizer.batched
        ours = embed(recognizer, photo(name), landmarks[name])
        theirs = embed_with_insightface(path, photo(name), landmarks[name])
        assert ours.shape == (4, 512)
        assert ours.dtype == np.float32
        assert cosines(ours, theirs).min() >= 0.9999
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())

    def test_the_random_weights_tell_faces_apart(
        self, tmp_path: Path, landmarks: dict[str, NDArray[np.float32]]
    ) -> None:
        recognizer = load_recognizer(build_recognizer(tmp_path / "model.onnx"), OrtSession)
        ours = embed(recognizer, photo("t1"), landmarks["t1"])
        assert cosines(ours, np.roll(ours, 1, axis=0)).max() < 0.99

    def test_a_graph_that_normalises(self, tmp_path: Path, landmarks: dict[str, NDArray[np.float32]]) -> None:
        path = build_recognizer(tmp_path / "model.onnx", normalises=True)
        recognizer = load_recognizer(path, OrtSession)
        crops = recognizer.prepare(photo("t1"), landmarks["t1"])
        assert max(crop.max() for crop in crops) > 100
        ours = np.stack(recognizer.infer(crops))
        assert cosines(ours, embed_with_insightface(path, photo("t1"), landmarks["t1"])).min() >= 0.9999


class TestPrepare:
    def test_crops(self, tmp_path: Path, landmarks: dict[str, NDArray[np.float32]]) -> None:
        from insightface.utils.face_align import norm_crop

        recognizer = load_recognizer(build_recognizer(tmp_path / "model.onnx"), OrtSession)
        crops = recognizer.prepare(photo("coffee"), landmarks["coffee"])
        assert [crop.shape for crop in crops] == [(3, 112, 112)] * 4
        assert {crop.dtype for crop in crops} == {np.dtype(np.float32)}
        assert len({recognizer.bucket(crop) for crop in crops}) == 1
        for crop, points in zip(crops, landmarks["coffee"], strict=True):
            wanted = (norm_crop(photo("coffee").rgb, points).astype(np.float32) - 127.5) / 127.5
            np.testing.assert_allclose(crop, wanted.transpose(2, 0, 1), rtol=0, atol=1e-6)

    def test_no_faces(self, tmp_path: Path) -> None:
        recognizer = load_recognizer(build_recognizer(tmp_path / "model.onnx"), OrtSession)
        assert recognizer.prepare(photo("coffee"), np.empty((0, 5, 2), np.float32)) == []
        assert recognizer.infer([]) == []

    def test_landmarks_that_are_no_face_are_embedded_all_the_same(self, tmp_path: Path) -> None:
        recognizer = load_recognizer(build_recognizer(tmp_path / "model.onnx"), OrtSession)
        points = np.full((2, 5, 2), np.nan, dtype=np.float32)
        points[1] = 3.0
        assert np.isfinite(embed(recognizer, photo("coffee"), points)).all()


class TestBatches:
    @pytest.mark.parametrize(
        ("batch", "flatten"),
        [
            ((1, 1), "Flatten"),
            ((1, 1), "Reshape"),
            (("None", 1), "Flatten"),
            (("None", 1), "Reshape"),
            (("batch", "batch"), "Flatten"),
        ],
    )
    def test_equal_one_by_one(
        self, tmp_path: Path, landmarks: dict[str, NDArray[np.float32]], batch: tuple[Any, Any], flatten: str
    ) -> None:
        path = build_recognizer(tmp_path / "model.onnx", batch=batch, flatten=flatten)
        recognizer = load_recognizer(path, OrtSession)
        crops = [crop for name in PHOTOS for crop in recognizer.prepare(photo(name), landmarks[name])]
        session_of(recognizer).runs.clear()
        together = np.stack(recognizer.infer(crops))
        assert session_of(recognizer).batches == [len(crops)]
        original = OrtSession(path)
        alone = np.stack([original.run({"input.1": crop[np.newaxis]})[0][0] for crop in crops])
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4 * np.abs(alone).max())

    def test_the_outputs_declared_size_is_freed_too(self, tmp_path: Path) -> None:
        """The stock packs declare a dynamic input and one row of output, at which ONNX Runtime warns on every run."""
        path = build_recognizer(tmp_path / "model.onnx", batch=("None", 1))
        session = session_of(load_recognizer(path, OrtSession))
        assert session.outputs[0].shape == (None, 512)

    def test_a_graph_that_is_right_for_one_only_runs_one_by_one(
        self, tmp_path: Path, landmarks: dict[str, NDArray[np.float32]]
    ) -> None:
        path = build_recognizer(tmp_path / "model.onnx", mixes_batch=True)
        recognizer = load_recognizer(path, OrtSession)
        assert not recognizer.batched
        assert session_of(recognizer).source == path
        ours = embed(recognizer, photo("t1"), landmarks["t1"])
        assert cosines(ours, embed_with_insightface(path, photo("t1"), landmarks["t1"])).min() >= 0.9999

    @pytest.mark.parametrize("flatten", ["Flatten", "Reshape"])
    def test_a_dynamic_graph_that_cannot_be_edited(
        self,
        tmp_path: Path,
        landmarks: dict[str, NDArray[np.float32]],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        flatten: str,
    ) -> None:
        """It is tried as it is: its own batches are right, or refused."""

        def too_large(path: Path) -> bytes:
            raise ValueError("too large")

        monkeypatch.setattr(edits, "with_batch_axis", too_large)
        path = build_recognizer(tmp_path / "model.onnx", batch=("batch", "batch"), flatten=flatten)
        with caplog.at_level(logging.WARNING):
            recognizer = load_recognizer(path, OrtSession)
        assert session_of(recognizer).source == path
        assert recognizer.batched == (flatten == "Flatten")
        assert ("refuses batches" in caplog.text) == (flatten == "Reshape")
        assert len(recognizer.infer(recognizer.prepare(photo("t1"), landmarks["t1"]))) == 4

    def test_a_dynamic_graph_of_one_row_inside_is_mended(self, tmp_path: Path) -> None:
        path = build_recognizer(tmp_path / "model.onnx", batch=("batch", "batch"), flatten="Reshape")
        assert load_recognizer(path, OrtSession).batched

    def test_an_engine_that_refuses_the_edited_graph(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        def open_session(source: Graph) -> OrtSession:
            if isinstance(source, EditedGraph):
                raise RuntimeError("no edits here")
            return OrtSession(source)

        path = build_recognizer(tmp_path / "model.onnx")
        with caplog.at_level(logging.WARNING):
            recognizer = load_recognizer(path, open_session)
        assert not recognizer.batched
        assert "no edits here" in caplog.text


class TestBrokenGraphs:
    def test_a_detector(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match=r"model\.onnx is no face recogniser"):
            load_recognizer(build_detector(tmp_path / "model.onnx"), OrtSession)

    def test_not_onnx(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(b"<html>404 not found</html>")
        with pytest.raises(Unavailable, match="not an ONNX graph"):
            load_recognizer(path, OrtSession)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load_recognizer(tmp_path / "model.onnx", OrtSession)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (np.full((2, 512), np.nan, np.float32), "not finite"),
            (np.zeros((1, 512), np.float32), r"shape \(1, 512\) for 2 faces"),
        ],
    )
    def test_a_wrong_answer(self, tmp_path: Path, answer: NDArray[np.float32], message: str) -> None:
        class Broken(OrtSession):
            def run(self, feeds: Any) -> list[NDArray[Any]]:
                return [answer]

        session = Broken(build_recognizer(tmp_path / "model.onnx"))
        recognizer = FaceRecognizer(session, normalises_input=False, batched=True)
        with pytest.raises(InferenceFailed, match=message):
            recognizer.infer([np.zeros((3, 112, 112), np.float32)] * 2)
