"""The text tower, on random-weight graphs of every signature in the field."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_models import (
    DIMENSION,
    cosine,
    save_chinese_text,
    save_masked_text,
    save_openclip_text,
    save_tokenizer,
    save_visual,
)
from numpy.typing import NDArray
from ort_session import OrtSession

from immich_ml_cn.engines.graphs.files import EditedGraph, Graph
from immich_ml_cn.engines.session import Model
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.models.clip import Embedding, TextualEncoder, Tokens, WordPieceTokenizer, load_textual

QUERIES = ["一只猫在沙发上", "a photo of the beach at sunset", "", "生日蛋糕🎂 " * 20, "海"]


@pytest.fixture(scope="module")
def chinese() -> WordPieceTokenizer:
    return WordPieceTokenizer.from_file()


def unit(features: NDArray[Any]) -> NDArray[np.float64]:
    return features.astype(np.float64) / np.linalg.norm(features.astype(np.float64))


def check(encoder: TextualEncoder, expected: list[NDArray[np.float64]], queries: list[str] = QUERIES) -> None:
    """Alone and among neighbours the embedding is what the bare graph gives for the padded text."""
    items = [encoder.tokenize(query) for query in queries]
    model: Model[Tokens, Embedding] = encoder
    together = [embedding.vector for embedding in model.infer(items)]
    for item, neighbour, right in zip(items, together, expected, strict=True):
        alone = encoder.infer([item])[0].vector
        assert alone.shape == (DIMENSION,)
        assert alone.dtype == neighbour.dtype == np.float32
        assert abs(float(np.linalg.norm(neighbour)) - 1) < 1e-6
        assert cosine(alone, right) > 0.9999
        assert cosine(neighbour, right) > 0.9999
    assert cosine(together[0], together[1]) < 0.99


@pytest.mark.parametrize(
    "export",
    [
        {},
        {"length": 52},
        {"batch": 1, "length": 52, "dtype": "int64", "outputs": ("unnorm_text_features",)},
        {"batch": 1},
        {"dtype": "int64", "outputs": ("features", "embedding")},
    ],
    ids=str,
)
def test_chinese_clip(tmp_path: Path, chinese: WordPieceTokenizer, export: dict[str, Any]) -> None:
    path = save_chinese_text(tmp_path / "model.onnx", **export)
    bare = OrtSession(path)
    expected = []
    for query in QUERIES:
        ids = np.zeros((1, 52), bare.inputs[0].dtype)
        tokens = chinese.encode(query)
        ids[0, : len(tokens)] = tokens
        expected.append(unit(bare.run({"text": ids})[0][0]))
    check(load_textual(tmp_path, path, OrtSession, chinese), expected)


def test_padding_is_trimmed_to_the_longest(tmp_path: Path, chinese: WordPieceTokenizer) -> None:
    session = OrtSession(save_chinese_text(tmp_path / "model.onnx"))
    encoder = TextualEncoder(session, chinese)
    encoder.infer([encoder.tokenize("猫"), encoder.tokenize("一只狗")])
    assert session.runs == [{"text": (2, 5)}]


def test_padding_stays_where_the_length_is_fixed(tmp_path: Path, chinese: WordPieceTokenizer) -> None:
    session = OrtSession(save_chinese_text(tmp_path / "model.onnx", length=52))
    encoder = TextualEncoder(session, chinese)
    encoder.infer([encoder.tokenize("猫")])
    assert session.runs == [{"text": (1, 52)}]
    assert encoder.bucket(encoder.tokenize("猫")) == encoder.bucket(encoder.tokenize("猫" * 50))


def test_texts_of_like_length_share_a_batch(tmp_path: Path, chinese: WordPieceTokenizer) -> None:
    encoder = TextualEncoder(OrtSession(save_chinese_text(tmp_path / "model.onnx")), chinese)
    lengths = range(2, 53)
    buckets = [encoder.bucket(encoder.tokenize("猫" * (length - 2))) for length in lengths]
    assert len(set(buckets)) == 7
    members = [[n for n, b in zip(lengths, buckets, strict=True) if b == bucket] for bucket in set(buckets)]
    assert max(max(m) - min(m) for m in members) < 8


@pytest.mark.usefixtures("untraced")
def test_a_tokenizer_sees_no_more_than_it_can_use(tmp_path: Path, chinese: WordPieceTokenizer) -> None:
    seen = []

    class Spy(WordPieceTokenizer):
        def encode(self, text: str, language: str | None = None) -> list[int]:
            seen.append(len(text))
            return super().encode(text, language)

    spy = Spy(chinese._vocabulary)
    encoder = TextualEncoder(OrtSession(save_chinese_text(tmp_path / "model.onnx")), spy)
    longest_words = "internationalization " * 60_000
    for text in ("a" * 1_000_000, "&amp;" * 200_000, "海边的日落" * 200_000, " " * 60_000 + longest_words):
        assert encoder.tokenize(text).ids.tolist() == chinese.encode(text)
    assert max(seen) <= 64 * chinese.context_length


@pytest.mark.parametrize("batch", ["batch", 1])
def test_openclip(tmp_path: Path, batch: int | str) -> None:
    vocabulary = save_tokenizer(tmp_path)
    path = save_openclip_text(tmp_path / "textual" / "model.onnx", vocabulary=vocabulary, batch=batch)
    encoder = load_textual(tmp_path, path, OrtSession)
    bare, pad = OrtSession(path), encoder.tokenizer.pad_id
    expected = []
    for query in QUERIES:
        ids = encoder.tokenizer.encode(query)
        row = np.array([ids + [pad] * (77 - len(ids))], np.int32)
        expected.append(unit(bare.run({"text": row})[0][0]))
    check(encoder, expected)


def test_openclip_is_never_trimmed(tmp_path: Path) -> None:
    """Not even where the sequence axis claims to be dynamic: the position embedding is added whole."""
    vocabulary = save_tokenizer(tmp_path)
    path = save_openclip_text(tmp_path / "model.onnx", vocabulary=vocabulary, length="length")
    session = OrtSession(path)
    encoder = load_textual(tmp_path, path, lambda _: session)
    assert not encoder.trims_padding
    encoder.infer([encoder.tokenize("cat")])
    assert session.runs == [{"text": (1, 77)}]


def test_siglip_like_of_64(tmp_path: Path) -> None:
    """FG-CLIP 2 and SigLIP: 64 tokens, canonical text."""
    vocabulary = save_tokenizer(tmp_path, length=64, tokenizer_kwargs={"clean": "canonicalize"})
    path = save_openclip_text(tmp_path / "model.onnx", vocabulary=vocabulary, context=64)
    encoder = load_textual(tmp_path, path, OrtSession)
    (loud, quiet) = encoder.infer([encoder.tokenize("A CAT!"), encoder.tokenize("a cat")])
    assert np.array_equal(loud.vector, quiet.vector)


@pytest.mark.parametrize("length", ["length", 77])
def test_m_clip(tmp_path: Path, length: int | str) -> None:
    vocabulary = save_tokenizer(tmp_path)
    path = save_masked_text(tmp_path / "model.onnx", vocabulary=vocabulary, length=length)
    encoder = load_textual(tmp_path, path, OrtSession)
    bare = OrtSession(path)
    expected = []
    for query in QUERIES:
        ids = encoder.tokenizer.encode(query)
        row, mask = np.full((1, 77), encoder.tokenizer.pad_id, np.int32), np.zeros((1, 77), np.int32)
        row[0, : len(ids)], mask[0, : len(ids)] = ids, 1
        expected.append(unit(bare.run({"input_ids": row, "attention_mask": mask})[0][0]))
    assert encoder.trims_padding == (length == "length")
    check(encoder, expected)


def test_padding_and_mask_as_fed(tmp_path: Path) -> None:
    """The rest of a row is the tokenizer's padding token, which need not be 0, and is masked."""
    vocabulary = save_tokenizer(tmp_path)
    session = OrtSession(save_masked_text(tmp_path / "model.onnx", vocabulary=vocabulary, length=77))
    encoder = load_textual(tmp_path, tmp_path / "model.onnx", lambda _: session)
    item = encoder.tokenize("a photo")
    encoder.infer([item])
    rest = 77 - len(item)
    assert session.fed["input_ids"].tolist() == [item.ids.tolist() + [1] * rest]
    assert session.fed["attention_mask"].tolist() == [[1] * len(item) + [0] * rest]
    assert {array.dtype for array in session.fed.values()} == {np.dtype(np.int32)}


def test_a_fixed_length_is_cut_to_the_text(tmp_path: Path) -> None:
    """OpenCLIP: a token sees only those before it, and the embedding is that of the largest, so that padding does
    nothing."""
    vocabulary = save_tokenizer(tmp_path)
    path = save_openclip_text(tmp_path / "model.onnx", vocabulary=vocabulary, batch=1)
    opened: list[OrtSession] = []
    encoder = load_textual(tmp_path, path, partial(_remember, opened))
    item = encoder.tokenize("a photo")
    (embedding,) = encoder.infer([item])
    (freed,) = opened
    assert freed.fed["text"].shape == (1, len(item))
    assert encoder.bucket(item) == 1
    row = np.full((1, 77), encoder.tokenizer.pad_id, np.int32)
    row[0, : len(item)] = item.ids
    assert cosine(embedding.vector, OrtSession(path).run({"text": row})[0][0]) > 0.999999


def test_a_length_stays_where_padding_changes_the_embedding(tmp_path: Path) -> None:
    """As it does a little where the scale of int8 is taken over all tokens."""

    class Shaken(OrtSession):
        def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
            (embeddings,) = super().run(feeds)
            return [embeddings + 0.01 * feeds["text"].shape[1] * np.eye(1, embeddings.shape[1], dtype=np.float32)]

    vocabulary = save_tokenizer(tmp_path)
    path = save_openclip_text(tmp_path / "model.onnx", vocabulary=vocabulary)

    def open_session(graph: Graph) -> OrtSession:
        return Shaken(graph) if isinstance(graph, EditedGraph) else OrtSession(graph)

    encoder = load_textual(tmp_path, path, open_session)
    assert not encoder.trims_padding


def test_a_length_that_the_configuration_contradicts_is_not_cut(tmp_path: Path) -> None:
    vocabulary = save_tokenizer(tmp_path, length=64)
    path = save_openclip_text(tmp_path / "model.onnx", vocabulary=vocabulary)
    with pytest.raises(Unavailable, match="takes 77 tokens, its configuration says 64"):
        load_textual(tmp_path, path, OrtSession)


def _remember(opened: list[OrtSession], graph: Graph) -> OrtSession:
    opened.append(OrtSession(graph))
    return opened[-1]


def test_nllb_heeds_the_language(tmp_path: Path) -> None:
    vocabulary = save_tokenizer(tmp_path, languages=("eng_Latn", "zho_Hans"))
    path = save_openclip_text(tmp_path / "model.onnx", vocabulary=vocabulary)
    encoder = load_textual(tmp_path, path, OrtSession)
    spoken = {language: encoder.tokenize("angel", language) for language in ("en", "zh-CN", "xx", None)}
    english, mandarin, unknown, none = (embedding.vector for embedding in encoder.infer(list(spoken.values())))
    assert cosine(english, mandarin) < 0.9999
    assert np.array_equal(english, unknown)
    assert np.array_equal(english, none)


def test_dimension(tmp_path: Path, chinese: WordPieceTokenizer) -> None:
    assert TextualEncoder(OrtSession(save_chinese_text(tmp_path / "m.onnx")), chinese).dimension == DIMENSION


def test_features(tmp_path: Path, chinese: WordPieceTokenizer) -> None:
    encoder = TextualEncoder(OrtSession(save_chinese_text(tmp_path / "m.onnx")), chinese)
    (embedding,) = encoder.infer([encoder.tokenize("猫")])
    assert embedding.features is not None
    assert np.linalg.norm(embedding.features) > 1.5
    assert cosine(embedding.features, embedding.vector) > 0.999999


def test_another_context_length_is_refused(tmp_path: Path, chinese: WordPieceTokenizer) -> None:
    path = save_chinese_text(tmp_path / "m.onnx", length=50)
    with pytest.raises(Unavailable, match="takes 50 tokens, its configuration says 52"):
        load_textual(tmp_path, path, OrtSession, chinese)


def test_a_graph_not_understood_is_refused(tmp_path: Path, chinese: WordPieceTokenizer) -> None:
    path = save_visual(tmp_path / "m.onnx")
    with pytest.raises(
        Unavailable, match=r"no CLIP text tower: expected.*; its inputs are image float32 \[\?, 3, 32, 32\]"
    ):
        load_textual(tmp_path, path, OrtSession, chinese)
