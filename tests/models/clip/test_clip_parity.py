"""Our encoders against PyTorch: small Chinese-CLIPs, exported, and their answers (tests/golden/make_clip_parity.py)."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_models import OrtSession, cosine
from numpy.typing import NDArray
from server import ROOT

from immich_ml_cn.models.clip import Embedding, TextualEncoder, VisualEncoder, load_textual, load_visual
from immich_ml_cn.models.images import Picture, decode
from immich_ml_cn.store.conversions import split_joint

GOLDEN = ROOT / "tests" / "golden" / "clip_parity"
ANSWERS: dict[str, Any] = json.loads((GOLDEN / "answers.json").read_text(encoding="utf-8"))
QUERIES: list[str] = ANSWERS["queries"]
ARCHITECTURES = ("vit", "resnet")


def pictures(names: Sequence[str]) -> list[Picture]:
    return [decode((GOLDEN / "pictures" / name).read_bytes(), 1_000_000) for name in names]


def images_of(architecture: str) -> tuple[list[Picture], NDArray[np.float64]]:
    """The pictures, and cn-clip's features of them on PyTorch."""
    expected: dict[str, list[float]] = ANSWERS[architecture]["visual"]
    return pictures(list(expected)), np.array(list(expected.values()))


def texts_of(architecture: str) -> tuple[list[str], NDArray[np.float64]]:
    return QUERIES, np.array(ANSWERS[architecture]["textual"])


def assert_equal(found: Sequence[Embedding], expected: NDArray[np.float64]) -> None:
    assert len(found) == len(expected)
    for embedding, features in zip(found, expected, strict=True):
        assert cosine(embedding.vector, features) >= 0.99999
        assert np.linalg.norm(embedding.vector) == pytest.approx(1, abs=1e-6)
        assert embedding.features is not None
        assert np.linalg.norm(embedding.features) == pytest.approx(np.linalg.norm(features), rel=1e-3)
        assert cosine(embedding.features, features) >= 0.99999


def encode_images(encoder: VisualEncoder, items: Sequence[Picture], size: int) -> list[Embedding]:
    prepared = [encoder.prepare(item) for item in items]
    return list(itertools.chain.from_iterable(encoder.infer(batch) for batch in batches(prepared, size)))


def encode_texts(encoder: TextualEncoder, items: Sequence[str], size: int) -> list[Embedding]:
    tokens = [encoder.tokenize(item) for item in items]
    return list(itertools.chain.from_iterable(encoder.infer(batch) for batch in batches(tokens, size)))


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def visual(folder: Path, configuration: Path | None = None) -> VisualEncoder:
    return load_visual(configuration or folder, folder / "visual" / "model.onnx", OrtSession)


def textual(folder: Path, configuration: Path | None = None) -> TextualEncoder:
    return load_textual(configuration or folder, folder / "textual" / "model.onnx", OrtSession)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("half", ["visual", "textual"])
def test_the_inputs_are_far_enough_apart_to_tell_a_wrong_answer(architecture: str, half: str) -> None:
    _, expected = images_of(architecture) if half == "visual" else texts_of(architecture)
    cosines = [cosine(a, b) for a, b in itertools.combinations(expected, 2)]

    assert max(cosines) < 0.9995


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_pictures_are_embedded_as_by_pytorch(architecture: str, size: int) -> None:
    items, expected = images_of(architecture)

    assert_equal(encode_images(visual(GOLDEN / architecture), items, size), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_queries_are_embedded_as_by_pytorch(architecture: str, size: int) -> None:
    items, expected = texts_of(architecture)
    encoder = textual(GOLDEN / architecture)

    assert encoder.trims_padding
    assert_equal(encode_texts(encoder, items, size), expected)


@pytest.mark.parametrize("size", [1, 5])
def test_the_conversion_with_a_batch_of_one_gives_the_same(size: int) -> None:
    folder = GOLDEN / "cn-clip"
    items, expected = images_of("vit")
    texts, expected_of_texts = texts_of("vit")
    images, queries = visual(folder, GOLDEN / "vit"), textual(folder, GOLDEN / "vit")

    assert not queries.trims_padding
    assert_equal(encode_images(images, items, size), expected)
    assert_equal(encode_texts(queries, texts, size), expected_of_texts)


@pytest.mark.parametrize("size", [1, 5])
def test_the_joint_conversion_gives_the_same(tmp_path: Path, size: int) -> None:
    shutil.copytree(GOLDEN / "joint", tmp_path, dirs_exist_ok=True)
    split_joint(tmp_path, OrtSession)
    items, expected = images_of("vit")
    texts, expected_of_texts = texts_of("vit")
    queries = textual(tmp_path, GOLDEN / "vit")

    assert queries.trims_padding
    assert_equal(encode_images(visual(tmp_path, GOLDEN / "vit"), items, size), expected)
    assert_equal(encode_texts(queries, texts, size), expected_of_texts)


def test_our_exports_have_the_names_of_immichs() -> None:
    for architecture in ARCHITECTURES:
        image = OrtSession(GOLDEN / architecture / "visual" / "model.onnx")
        text = OrtSession(GOLDEN / architecture / "textual" / "model.onnx")

        assert [(i.name, i.dtype) for i in (*image.inputs, *text.inputs)] == [("image", "float32"), ("text", "int32")]
        assert text.inputs[0].shape == (None, None)
        assert image.inputs[0].shape[:2] == (None, 3)
        for session in (image, text):
            assert [(output.name, output.dtype) for output in session.outputs] == [
                ("embedding", "float32"),
                ("features", "float32"),
            ]
