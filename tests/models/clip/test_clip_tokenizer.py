"""The ``tokenizer.json`` families: whitespace, canonicalisation, truncation, the language of NLLB."""

import json
from pathlib import Path
from typing import Any

import pytest
from clip_models import save_tokenizer

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.models.clip import HuggingFaceTokenizer
from immich_ml_cn.models.clip.textual import read_tokenizer
from immich_ml_cn.models.clip.tokenizer import canonicalize
from immich_ml_cn.models.clip.wordpiece import WordPieceTokenizer

LANGUAGES = ("eng_Latn", "zho_Hans", "zho_Hant", "jpn_Jpan")


def load(folder: Path, **options: Any) -> HuggingFaceTokenizer:
    save_tokenizer(folder, **options)
    tokenizer = read_tokenizer(folder)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    return tokenizer


def token(folder: Path, text: str) -> int:
    """The id of a token, from the file itself."""
    vocabulary = json.loads((folder / "textual" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    found: int = vocabulary[text]
    return found


def test_frame_without_padding(tmp_path: Path) -> None:
    ids = load(tmp_path).encode("cat")
    assert (ids[0], ids[-1]) == (token(tmp_path, "<s>"), token(tmp_path, "</s>"))
    assert token(tmp_path, "<pad>") not in ids


def test_whitespace_collapses(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    assert tokenizer.encode("  a\tphoto \n of ") == tokenizer.encode("a photo of")
    assert tokenizer.encode("a  photo") != tokenizer.encode("aphoto")


def test_truncation_keeps_the_end(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, length=8)
    ids = tokenizer.encode("zqxj" * 100)
    assert len(ids) == 8
    assert (ids[0], ids[-1]) == (token(tmp_path, "<s>"), token(tmp_path, "</s>"))


def test_canonicalize_only_if_configured(tmp_path: Path) -> None:
    plain = load(tmp_path / "plain")
    canonical = load(tmp_path / "canonical", tokenizer_kwargs={"clean": "canonicalize"})
    lower = load(tmp_path / "lower", tokenizer_kwargs={"clean": "lower"})
    assert canonical.encode("A Photo, of_a -- CAT!") == plain.encode("a photo of a cat")
    assert plain.encode("A Photo!") != plain.encode("a photo")
    assert lower.encode("A Photo!") == plain.encode("A Photo!")


def test_canonicalize_keeps_other_scripts() -> None:
    assert canonicalize("It's_ÉTÉ：（中文）。!?") == "its été：（中文）。"


def test_lone_surrogate(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a?b")


def test_language_is_ignored_outside_nllb(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    assert tokenizer.encode("cat", "zh-CN") == tokenizer.encode("cat")


@pytest.mark.parametrize(
    ("language", "code"),
    [("zh-CN", "zho_Hans"), ("zh-TW", "zho_Hant"), ("ja", "jpn_Jpan"), ("en-null", "eng_Latn"), (None, "eng_Latn")],
)
def test_nllb_begins_with_the_language(tmp_path: Path, language: str | None, code: str) -> None:
    tokenizer = load(tmp_path, languages=LANGUAGES)
    ids, english = tokenizer.encode("cat", language), tokenizer.encode("cat", "en")
    assert ids[0] == token(tmp_path, code)
    assert ids[1:] == english[1:]
    assert ids[-1] == token(tmp_path, "</s>")


def test_nllb_language_the_vocabulary_lacks(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, languages=LANGUAGES)
    assert tokenizer.encode("cat", "de") == tokenizer.encode("cat", "en")


def test_nllb_truncation_keeps_language_and_end(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, languages=LANGUAGES, length=8)
    ids = tokenizer.encode("zqxj" * 100, "zh-CN")
    assert len(ids) == 8
    assert (ids[0], ids[-1]) == (token(tmp_path, "zho_Hans"), token(tmp_path, "</s>"))


def test_pad_token_as_an_object(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, pad_token={"content": "<pad>", "lstrip": False})
    assert tokenizer.pad_id == token(tmp_path, "<pad>")


@pytest.mark.parametrize(("pad_token", "message"), [(None, "no pad_token"), ("<nothing>", "does not know")])
def test_bad_pad_token(tmp_path: Path, pad_token: str | None, message: str) -> None:
    save_tokenizer(tmp_path, pad_token=pad_token)
    with pytest.raises(Unavailable, match=message):
        read_tokenizer(tmp_path)


def test_broken_tokenizer(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "textual" / "tokenizer.json").write_text("{}")
    with pytest.raises(Unavailable, match="is no tokenizer"):
        read_tokenizer(tmp_path)


def test_no_context_length(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Unavailable, match="context_length"):
        read_tokenizer(tmp_path)


def test_vocab_txt_alone_is_chinese_clip(tmp_path: Path) -> None:
    (tmp_path / "textual").mkdir()
    (tmp_path / "textual" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n猫\n", encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path)
    assert isinstance(tokenizer, WordPieceTokenizer)
    assert tokenizer.encode("猫！") == [2, 4, 1, 3]
    assert tokenizer.context_length == 52
    (tmp_path / "config.json").write_text('{"text_cfg": {"context_length": 64}}')
    assert read_tokenizer(tmp_path).context_length == 64


def test_vocab_txt_beside_tokenizer_json_is_not(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "textual" / "vocab.txt").write_text("[UNK]\n")
    assert isinstance(read_tokenizer(tmp_path), HuggingFaceTokenizer)


def test_broken_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "textual").mkdir()
    (tmp_path / "textual" / "vocab.txt").write_text("[UNK]\n")
    with pytest.raises(Unavailable, match="is no BERT vocabulary"):
        read_tokenizer(tmp_path)
