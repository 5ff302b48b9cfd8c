"""Chinese-CLIP's tokenizer against cn-clip's: its answers kept in ``golden/clip``, and itself where it is installed."""

import gzip
import hashlib
import importlib.util
import json
import sys
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server import ROOT

from immich_ml_cn.models.clip import WordPieceTokenizer
from immich_ml_cn.models.clip.wordpiece import BUNDLED_VOCABULARY, read_vocabulary

GOLDEN = ROOT / "tests" / "golden"
CODE_POINTS = 0x110000
UNKNOWN, CLS, SEP = 100, 101, 102


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer.from_file()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    found: list[str] = json.loads(gzip.decompress((GOLDEN / "clip" / "texts.json.gz").read_bytes()))
    return found


@pytest.fixture(scope="module")
def maker() -> Any:
    """The script that made the golden files, which knows how to load cn-clip's tokenizer."""
    spec = importlib.util.spec_from_file_location("make_clip_tokens", GOLDEN / "make_clip_tokens.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def oracle(maker: Any) -> Any:
    """cn-clip's own tokenizer."""
    if importlib.util.find_spec("cn_clip") is None or importlib.util.find_spec("six") is None:
        pytest.skip("cn-clip is not installed (pip install --no-deps cn-clip six)")
    return maker.load_oracle()


def padded(ids: list[int]) -> list[int]:
    return ids + [0] * (52 - len(ids))


def test_golden_texts(tokenizer: WordPieceTokenizer, texts: list[str]) -> None:
    expected = np.load(GOLDEN / "clip" / "tokens.npz")["ids"].tolist()
    assert len(set(texts)) > 5000
    different = [t for t, ids in zip(texts, expected, strict=True) if padded(tokenizer.encode(t)) != ids]
    assert different == []


@pytest.mark.usefixtures("untraced")
def test_every_golden_code_point(tokenizer: WordPieceTokenizer, maker: Any) -> None:
    """Those whose category is not what it was in Unicode 14 are left out: few, and only on a later Python."""
    with np.load(GOLDEN / "clip" / "tokens.npz") as golden:
        lengths, pieces, categories = (golden[name] for name in ("lengths", "pieces", "categories"))
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    starts = [0, *ends[:-1]]
    flat = pieces.tolist()
    names = [maker.CATEGORIES[i] for i in categories.tolist()]
    same = [c for c in range(CODE_POINTS) if unicodedata.category(chr(c)) == names[c]]
    assert len(same) > 1_080_000
    wrong = [c for c in same if tokenizer.encode(chr(c))[1:-1] != flat[starts[c] : ends[c]]]
    assert wrong == []


def test_live_texts(tokenizer: WordPieceTokenizer, oracle: Any, maker: Any) -> None:
    """Other texts than the golden ones, and with the Unicode tables of this Python."""
    live = maker.make_texts(seed=sys.version_info.minor)
    assert [t for t in live if tokenizer.encode(t) != maker.expected(oracle, t)] == []


def test_live_code_points(tokenizer: WordPieceTokenizer, oracle: Any, maker: Any) -> None:
    wrong = [c for c in range(CODE_POINTS) if tokenizer.encode(chr(c))[1:-1] != maker.pieces(oracle, chr(c))[:50]]
    assert wrong == []


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_ids_are_framed_and_bounded(text: str) -> None:
    ids = SMALL.encode(text)
    assert (ids[0], ids[-1]) == (1, 2)
    assert 2 <= len(ids) <= 6


SMALL = WordPieceTokenizer({"[UNK]": 3, "[CLS]": 1, "[SEP]": 2, "ab": 4, "##c": 5, "a": 6}, context_length=6)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [1, 2]),
        ("ABC", [1, 4, 5, 2]),
        ("abd a", [1, 3, 6, 2]),
        ("a a a a a", [1, 6, 6, 6, 6, 2]),
        ("a[CLS]", [1, 6, 3, 3, 3, 2]),
    ],
)
def test_greedy_longest_match(text: str, ids: list[int]) -> None:
    assert SMALL.encode(text) == ids


def test_language_plays_no_part() -> None:
    assert SMALL.encode("ab", "zh-CN") == SMALL.encode("ab", None)


def test_missing_special_token() -> None:
    with pytest.raises(KeyError, match="SEP"):
        WordPieceTokenizer({"[UNK]": 0, "[CLS]": 1})


def test_bundled_vocabulary_is_bert_base_chinese() -> None:
    digest = hashlib.sha256(BUNDLED_VOCABULARY.read_bytes()).hexdigest()
    assert digest == "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"
    vocabulary = read_vocabulary(BUNDLED_VOCABULARY)
    assert [vocabulary[t] for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, UNKNOWN, CLS, SEP]
    assert max(vocabulary.values()) == 21127
