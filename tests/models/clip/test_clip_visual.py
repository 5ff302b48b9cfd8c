"""The image tower, on random-weight graphs of every signature in the field."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_models import DIMENSION, cosine, save_chinese_text, save_preprocessing, save_visual
from numpy.typing import NDArray
from ort_session import OrtSession
from PIL import Image

from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.engines.session import Model
from immich_ml_cn.errors import InferenceFailed, Unavailable
from immich_ml_cn.models.clip import Embedding, ImageTransform, VisualEncoder, chinese_clip_transform, load_visual
from immich_ml_cn.models.images import Picture
from immich_ml_cn.settings import Settings

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Five pictures of different sizes and structure."""
    rng = np.random.default_rng(5)
    sizes = [(40, 60), (64, 48), (100, 33), (32, 32), (51, 97)]
    small = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in sizes]
    return [Image.fromarray(s).resize(z, Image.Resampling.BILINEAR) for s, z in zip(small, sizes, strict=True)]


def squashed(image: Image.Image, size: int = 32) -> NDArray[np.float32]:
    """The plain Pillow and NumPy transform of Chinese-CLIP."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC).convert("RGB"))
    return ((pixels.astype(np.float32) / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)


def reference(path: Path, image: Image.Image) -> NDArray[np.float64]:
    """The bare graph on one plainly prepared picture, normalised in float64."""
    tensor = squashed(image)[None]
    session = OrtSession(path)
    outputs = session.run({session.inputs[0].name: tensor.astype(session.inputs[0].dtype)})
    features = np.asarray(outputs[-1][0], np.float64)
    unit: NDArray[np.float64] = features / np.linalg.norm(features)
    return unit


@pytest.mark.parametrize(
    "export",
    [
        {},
        {"batch": 1},
        {"batch": 4},
        {"dtype": "float16"},
        {"outputs": ("unnorm_image_features",), "batch": 1},
        {"outputs": ("embedding", "features")},
        {"outputs": ("features", "embedding")},
        {"outputs": ("last_hidden", "image_embeds")},
        {"outputs": ("hidden", "features")},
        {"outputs": ("anything",)},
    ],
    ids=str,
)
def test_equals_the_bare_graph(tmp_path: Path, photos: list[Image.Image], export: dict[str, Any]) -> None:
    """Alone and among neighbours."""
    path = save_visual(tmp_path / "model.onnx", **export)
    encoder = load_visual(tmp_path, path, OrtSession, chinese_clip_transform(32))
    model: Model[NDArray[np.float32], Embedding] = encoder
    items = [encoder.prepare(Picture.of(photo)) for photo in photos]
    dynamic = save_visual(tmp_path / "dynamic.onnx", **export | {"batch": "batch"})
    expected = [reference(dynamic, photo) for photo in photos]
    alone = [encoder.infer([item])[0].vector for item in items]
    for one, together in zip(alone, [embedding.vector for embedding in model.infer(items)], strict=True):
        assert one.shape == (DIMENSION,)
        assert one.dtype == together.dtype == np.float32
        assert abs(float(np.linalg.norm(together)) - 1) < 1e-6
        assert cosine(one, together) > 0.99999
    for one, right in zip(alone, expected, strict=True):
        assert cosine(one, right) > 0.9999
    assert cosine(alone[0], alone[1]) < 0.999


def test_fixed_batch_is_served_one_by_one(tmp_path: Path, photos: list[Image.Image]) -> None:
    session = OrtSession(save_visual(tmp_path / "model.onnx", batch=1))
    encoder = VisualEncoder(session, chinese_clip_transform(32))
    encoder.infer([encoder.prepare(Picture.of(photo)) for photo in photos])
    assert session.runs == [{"image": (1, 3, 32, 32)}] * 5


def test_fixed_batch_of_four_is_filled_up(tmp_path: Path, photos: list[Image.Image]) -> None:
    session = OrtSession(save_visual(tmp_path / "model.onnx", batch=4))
    encoder = VisualEncoder(session, chinese_clip_transform(32))
    assert len(encoder.infer([encoder.prepare(Picture.of(photo)) for photo in photos])) == 5
    assert session.runs == [{"image": (4, 3, 32, 32)}] * 2


def test_dynamic_batch_runs_once(tmp_path: Path, photos: list[Image.Image]) -> None:
    session = OrtSession(save_visual(tmp_path / "model.onnx"))
    encoder = VisualEncoder(session, chinese_clip_transform(32))
    items = [encoder.prepare(Picture.of(photo)) for photo in photos]
    assert len({encoder.bucket(item) for item in items}) == 1
    encoder.infer(items)
    assert session.runs == [{"image": (5, 3, 32, 32)}]


@pytest.mark.parametrize("export", [{}, {"batch": 1}, {"dtype": "float16"}, {"outputs": ("embedding", "features")}])
def test_pictures_may_run_on_a_core_each(tmp_path: Path, photos: list[Image.Image], export: dict[str, Any]) -> None:
    """With the same embeddings as one after the other."""
    path = save_visual(tmp_path / "model.onnx", **export)
    engine = CpuEngine(Settings(intra_op_threads=2))
    transform = chinese_clip_transform(32)
    encoder = load_visual(tmp_path, path, lambda graph: engine.open(graph, "bulk", 0, parallel=True), transform)
    single = load_visual(tmp_path, path, lambda graph: engine.open(graph, "bulk", 0), transform)
    items = [encoder.prepare(Picture.of(photo)) for photo in photos]
    found = encoder.infer(items)
    for embedding, item in zip(found, items, strict=True):
        (expected,) = single.infer([item])
        assert cosine(embedding.vector, expected.vector) > 0.99999
        assert (embedding.features is None) == (expected.features is None)


@pytest.mark.parametrize("outputs", [("embedding", "features"), ("unnorm_image_features",)])
def test_features_are_not_normalised(tmp_path: Path, photos: list[Image.Image], outputs: tuple[str, ...]) -> None:
    encoder = load_visual(
        tmp_path, save_visual(tmp_path / "model.onnx", outputs=outputs), OrtSession, chinese_clip_transform(32)
    )
    items = [encoder.prepare(Picture.of(photo)) for photo in photos]
    for embedding in encoder.infer(items):
        assert embedding.features is not None
        assert np.linalg.norm(embedding.features) > 1.5
        assert cosine(embedding.features, embedding.vector) > 0.999999


def test_no_features(tmp_path: Path, photos: list[Image.Image]) -> None:
    encoder = load_visual(tmp_path, save_visual(tmp_path / "model.onnx"), OrtSession, chinese_clip_transform(32))
    assert encoder.infer([encoder.prepare(Picture.of(photos[0]))])[0].features is None


def test_configuration_of_the_folder(tmp_path: Path, photos: list[Image.Image]) -> None:
    save_preprocessing(tmp_path, size=32, resize_mode="squash", mean=[0, 0, 0], std=[1, 1, 1])
    encoder = load_visual(tmp_path, save_visual(tmp_path / "visual" / "model.onnx"), OrtSession)
    assert encoder.transform == ImageTransform((32, 32), (0, 0, 0), (1, 1, 1), resize_mode="squash")
    assert encoder.dimension == DIMENSION
    tensor = encoder.prepare(Picture.of(photos[0]))
    assert np.allclose(tensor, squashed(photos[0]) * STD[:, None, None] + MEAN[:, None, None], atol=1e-6)


def test_another_picture_size_is_refused(tmp_path: Path) -> None:
    path = save_visual(tmp_path / "model.onnx", size=32)
    with pytest.raises(Unavailable, match=r"pictures of 32 x 32 pixels, its configuration says 64 x 64"):
        load_visual(tmp_path, path, OrtSession, chinese_clip_transform(64))


def test_a_graph_not_understood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no CLIP image tower: expected.*; its inputs are text int32 \[\?, \?\]"):
        load_visual(tmp_path, save_chinese_text(tmp_path / "m.onnx"), OrtSession, chinese_clip_transform(32))


@pytest.mark.parametrize("outputs", [("a", "b"), ("logits_per_image", "logits_per_text")])
def test_unknown_outputs_are_refused(tmp_path: Path, outputs: tuple[str, ...]) -> None:
    path = save_visual(tmp_path / "model.onnx", outputs=outputs)
    with pytest.raises(Unavailable, match=f"expected one output.*{outputs[0]}"):
        load_visual(tmp_path, path, OrtSession, chinese_clip_transform(32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_never_leaves(tmp_path: Path, value: float) -> None:
    encoder = load_visual(tmp_path, save_visual(tmp_path / "model.onnx"), OrtSession, chinese_clip_transform(32))
    with pytest.raises(InferenceFailed, match="not finite"):
        encoder.infer([np.zeros((3, 32, 32), np.float32), np.full((3, 32, 32), value, np.float32)])
