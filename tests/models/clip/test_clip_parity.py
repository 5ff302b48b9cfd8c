"""Our encoders against PyTorch: small Chinese-CLIPs, converted, and its answers (tests/golden/make_clip_parity.py)."""

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chinese_clips import GOLDEN, QUERIES, SMALL, convert_small
from clip_models import cosine
from numpy.typing import NDArray
from ort_session import OrtSession

from immich_ml_cn.models.clip import Embedding, TextualEncoder, VisualEncoder, load_textual, load_visual
from immich_ml_cn.models.images import Picture, decode
from immich_ml_cn.store.joint_graphs import split_joint

ANSWERS: dict[str, Any] = json.loads((GOLDEN / "answers.json").read_text(encoding="utf-8"))
CONVERTED_BY_OTHERS = "chinese-clip-vit-base-patch16"
LEAST_COSINE = {"model.onnx": 0.999999, "model_fp16.onnx": 0.9999, "model_int8.onnx": 0.998}
"""Of the answers of a graph and PyTorch's."""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folders of the small models, each in every precision."""
    cache = tmp_path_factory.mktemp("converted")
    return {name: convert_small(name, cache / name) for name in SMALL}


def pictures(names: Sequence[str]) -> list[Picture]:
    return [decode((GOLDEN / "pictures" / name).read_bytes(), 1_000_000) for name in names]


def images_of(architecture: str) -> tuple[list[Picture], NDArray[np.float64]]:
    """The pictures, and cn-clip's features of them on PyTorch."""
    expected: dict[str, list[float]] = ANSWERS[architecture]["visual"]
    return pictures(list(expected)), np.array(list(expected.values()))


def texts_of(architecture: str) -> tuple[Sequence[str], NDArray[np.float64]]:
    return QUERIES, np.array(ANSWERS[architecture]["textual"])


def assert_equal(found: Sequence[Embedding], expected: NDArray[np.float64], graph: str = "model.onnx") -> None:
    assert len(found) == len(expected)
    least = LEAST_COSINE[graph]
    for embedding, features in zip(found, expected, strict=True):
        assert cosine(embedding.vector, features) >= least
        assert np.linalg.norm(embedding.vector) == pytest.approx(1, abs=1e-6)
        assert embedding.features is not None
        assert np.linalg.norm(embedding.features) == pytest.approx(
            np.linalg.norm(features), rel=20 * (1 - least) + 1e-4
        )
        assert cosine(embedding.features, features) >= least


def encode_images(encoder: VisualEncoder, items: Sequence[Picture], size: int) -> list[Embedding]:
    prepared = [encoder.prepare(item) for item in items]
    return list(itertools.chain.from_iterable(encoder.infer(batch) for batch in batches(prepared, size)))


def encode_texts(encoder: TextualEncoder, items: Sequence[str], size: int) -> list[Embedding]:
    tokens = [encoder.tokenize(item) for item in items]
    return list(itertools.chain.from_iterable(encoder.infer(batch) for batch in batches(tokens, size)))


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def visual(folder: Path, configuration: Path | None = None, graph: str = "model.onnx") -> VisualEncoder:
    return load_visual(configuration or folder, folder / "visual" / graph, OrtSession)


def textual(folder: Path, configuration: Path | None = None, graph: str = "model.onnx") -> TextualEncoder:
    return load_textual(configuration or folder, folder / "textual" / graph, OrtSession)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("half", ["visual", "textual"])
def test_the_inputs_are_far_enough_apart_to_tell_a_wrong_answer(name: str, half: str) -> None:
    _, expected = images_of(name) if half == "visual" else texts_of(name)
    cosines = [cosine(a, b) for a, b in itertools.combinations(expected, 2)]

    assert max(cosines) < 0.9995


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("graph", LEAST_COSINE)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_pictures_are_embedded_as_by_pytorch(converted: Mapping[str, Path], name: str, graph: str, size: int) -> None:
    items, expected = images_of(name)

    assert_equal(encode_images(visual(converted[name], graph=graph), items, size), expected, graph)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("graph", LEAST_COSINE)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_queries_are_embedded_as_by_pytorch(converted: Mapping[str, Path], name: str, graph: str, size: int) -> None:
    items, expected = texts_of(name)
    encoder = textual(converted[name], graph=graph)

    assert encoder.trims_padding
    assert_equal(encode_texts(encoder, items, size), expected, graph)


@pytest.mark.parametrize("size", [1, 5])
def test_the_conversion_with_a_batch_of_one_gives_the_same(converted: Mapping[str, Path], size: int) -> None:
    folder, configuration = GOLDEN / "cn-clip", converted[CONVERTED_BY_OTHERS]
    items, expected = images_of(CONVERTED_BY_OTHERS)
    texts, expected_of_texts = texts_of(CONVERTED_BY_OTHERS)
    images, queries = visual(folder, configuration), textual(folder, configuration)

    assert not queries.trims_padding
    assert_equal(encode_images(images, items, size), expected)
    assert_equal(encode_texts(queries, texts, size), expected_of_texts)


@pytest.mark.parametrize("size", [1, 5])
def test_the_joint_conversion_gives_the_same(converted: Mapping[str, Path], tmp_path: Path, size: int) -> None:
    shutil.copytree(GOLDEN / "joint", tmp_path, dirs_exist_ok=True)
    split_joint(tmp_path, OrtSession)
    configuration = converted[CONVERTED_BY_OTHERS]
    items, expected = images_of(CONVERTED_BY_OTHERS)
    texts, expected_of_texts = texts_of(CONVERTED_BY_OTHERS)
    queries = textual(tmp_path, configuration)

    assert queries.trims_padding
    assert_equal(encode_images(visual(tmp_path, configuration), items, size), expected)
    assert_equal(encode_texts(queries, texts, size), expected_of_texts)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("graph", LEAST_COSINE)
def test_our_conversions_have_the_names_of_immichs_exports(
    converted: Mapping[str, Path], name: str, graph: str
) -> None:
    image = OrtSession(converted[name] / "visual" / graph)
    text = OrtSession(converted[name] / "textual" / graph)
    dimension = SMALL[name].dimension

    assert [(i.name, i.dtype) for i in (*image.inputs, *text.inputs)] == [("image", "float32"), ("text", "int32")]
    assert text.inputs[0].shape == (None, None)
    assert image.inputs[0].shape[:2] == (None, 3)
    for session in (image, text):
        assert [(output.name, output.dtype, output.shape) for output in session.outputs] == [
            ("embedding", "float32", (None, dimension)),
            ("features", "float32", (None, dimension)),
        ]
