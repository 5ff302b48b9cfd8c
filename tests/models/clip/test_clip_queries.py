"""Queries as people paste them: radicals, ligatures, full-width letters and emoji that the vocabulary does not have."""

import gzip
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import ROOT

from immich_ml_cn.models.clip import WordPieceTokenizer
from immich_ml_cn.models.clip.queries import normalized

UNKNOWN = 100


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer.from_file()


def pieces(tokenizer: WordPieceTokenizer, text: str) -> list[int]:
    """Without the special tokens."""
    return tokenizer.encode(tokenizer.normalize(text))[1:-1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [("⾬天", [7433, 1921]), ("⼤海", [1920, 3862]), ("⻄湖", [6205, 3959]), ("ﬁsh", [11676])],
)
def test_the_ids_that_people_expect(tokenizer: WordPieceTokenizer, query: str, expected: list[int]) -> None:
    """Copied from a PDF; cn-clip finds an unknown word in each."""
    assert UNKNOWN in tokenizer.encode(query)
    assert pieces(tokenizer, query) == expected


@pytest.mark.parametrize(
    ("query", "plain"),
    [
        ("汽⻋", "汽车"),
        ("⻘⻦", "青鸟"),
        ("⺟亲", "母亲"),
        ("ＣＡＴ", "cat"),
        ("２０２４年", "2024年"),
        ("ｶﾒﾗ", "カメラ"),
        ("ｶﾞ", "ガ"),
        ("㊗", "祝"),
        ("㍿", "株式会社"),
        ("é", "e"),
    ],
)
def test_what_looks_the_same_is_the_same(tokenizer: WordPieceTokenizer, query: str, plain: str) -> None:
    assert pieces(tokenizer, query) == tokenizer.encode(plain)[1:-1]


@pytest.mark.parametrize("emoji", ["🐶", "👨‍👩‍👧", "🇨🇳", "👍🏽", "⛄"])
def test_an_emoji_does_not_take_the_word_with_it(tokenizer: WordPieceTokenizer, emoji: str) -> None:
    hello = tokenizer.encode("hello")[1:-1]
    assert tokenizer.encode(f"hello{emoji}")[1:-1] == [UNKNOWN]
    assert pieces(tokenizer, f"hello{emoji}")[: len(hello)] == hello
    assert pieces(tokenizer, f"{emoji}hello")[-len(hello) :] == hello


@pytest.mark.parametrize("query", ["hello❤️", "好👍", "❤❤️", "hello🔥"])
def test_an_emoji_that_the_vocabulary_has_within_a_word_stays_there(tokenizer: WordPieceTokenizer, query: str) -> None:
    assert UNKNOWN not in pieces(tokenizer, query)
    assert pieces(tokenizer, query) == tokenizer.encode(query)[1:-1]


def test_a_keycap_leaves_its_digit(tokenizer: WordPieceTokenizer) -> None:
    assert pieces(tokenizer, "1️⃣")[:1] == tokenizer.encode("1")[1:-1]


@pytest.mark.parametrize(
    "query", ["红色的车，在海边！", "36℃", "①", "㎡", "“你好”", "a photo of a cat", "30°", "「猫」"]
)
def test_what_the_vocabulary_has_stays(tokenizer: WordPieceTokenizer, query: str) -> None:
    """Chinese-CLIP was trained with full-width punctuation."""
    assert tokenizer.normalize(query) == query


def test_ordinary_texts_are_read_as_cn_clip_reads_them(tokenizer: WordPieceTokenizer) -> None:
    """Of the golden texts, all that have neither unknown words nor forms that are made plain."""
    texts = json.loads(gzip.decompress((ROOT / "tests" / "golden" / "clip" / "texts.json.gz").read_bytes()))
    plain = [text for text in texts if unicodedata.is_normalized("NFKC", text)]
    ordinary = [text for text in plain if UNKNOWN not in tokenizer.encode(text)]
    assert len(ordinary) > 100
    different = [text for text in ordinary if pieces(tokenizer, text) != tokenizer.encode(text)[1:-1]]
    assert different == []


@given(st.text(max_size=60))
def test_any_text_is_normalised_once(tokenizer: WordPieceTokenizer, text: str) -> None:
    once = tokenizer.normalize(text)
    assert " ".join(tokenizer.normalize(once).split()) == " ".join(once.split())


def test_every_radical_that_unicode_maps_is_an_ideograph() -> None:
    """The Kangxi radicals by NFKC, those of the supplement by the table, but for a few without an equal."""
    without = []
    for code in (*range(0x2E80, 0x2EF4), *range(0x2F00, 0x2FD6)):
        char = chr(code)
        if unicodedata.category(char) == "Cn":
            continue
        mapped = normalized(char, ())
        if mapped == char:
            without.append(char)
        else:
            assert unicodedata.name(mapped).startswith("CJK UNIFIED IDEOGRAPH")
    assert set(without) <= set("⺀⺅⺇⺈⺋⺏⺖⺣⺤⺥⺨⺭⺰⺱⺲⺳⺵⺶⺷⺸⺺⺻⺽⻍⻎⻕⻊⻏⻖⻗⻙⻞⻟⻠⻡")
