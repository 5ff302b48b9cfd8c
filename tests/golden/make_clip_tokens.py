"""Makes ``tests/golden/clip``: what cn-clip's own tokenizer answers, so that tests need no cn-clip.

    python tests/golden/make_clip_tokens.py         # where cn_clip and six are importable; torch is not needed

``texts.json.gz``   the texts (ASCII-escaped JSON: some hold lone surrogates)
``tokens.npz``      ``ids`` uint16 (texts, 52) as ``cn_clip.clip.tokenize`` gives them; and of every code point alone
                    ``lengths`` uint8 (0x110000,) and ``pieces`` uint16 (their sum,), without [CLS] and [SEP],
                    and ``categories`` uint8 (0x110000,): its index in the sorted list of Unicode's categories

Made with the tables of Unicode 14 (Python 3.11). The texts hold only characters assigned there, whose properties later
versions keep; a test of single code points compares those whose category is still the same.
"""

import gzip
import importlib.util
import json
import random
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).with_name("clip")
MINORS = {"C": "cfnos", "L": "lmotu", "M": "cen", "N": "dlo", "P": "cdefios", "S": "ckmo", "Z": "lps"}
CATEGORIES = [major + minor for major, minors in MINORS.items() for minor in minors]
CODE_POINTS = 0x110000

CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种"
    "面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本"
    "去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比"
    "或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总"
    "次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指几九区强放决西被干做"
    "必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压志世金增争济阶油思术极交受联什认六共权"
    "收证改清己美再采转更单风切打白教速花带安场身车例真务具万每目至达走积示议声报斗完类八离华名确才科张信"
    "马节话米整空元况今集温传土许步群广石记需段研界拉林律叫且究观越织装影算低持音众书布复容儿须际商非验连"
    "断深难近矿千周委素技备半办青省列习响约支般史感劳便团往酸历市克何除消构府称太准精值号率族维划选标写存"
    "候毛亲快效斯院查江型眼王按格养易置派层片始却专状育厂京识适属圆包火住调满县局照参红细引听该铁价严猫狗"
    "雪桥日落沙滩婚礼蛋糕"
)
# fmt: off
ENGLISH = [
    "a", "photo", "of", "the", "cat", "dog", "beach", "sunset", "mountain",
    "people", "child", "wedding", "car", "street", "night", "city", "food", "birthday",
    "party", "river", "snow", "forest", "running", "smiling", "unaffable", "internationalization", "xylophone",
    "iPhone", "McDonald's", "2024", "don't", "co-op", "e.g.", "U.S.A.", "$5.99", "100%",
    "#tag", "@user", "https://example.com/a_b?c=d&e=f",
]
EMOJI = [*"😀🎂🐱🌅❤☀", "👨‍👩‍👧‍👦", "👍🏽", "🏳️‍🌈", "🇨🇳", "❤️", "1️⃣", "👩🏻‍💻", "🫠"]
ACCENTS = [
    "café", "naïve", "Ångström", "ÀÉÎÕÜ", "e\u0301", "o\u0308\u0304", "ǖ", "ệ", "İstanbul",
    "ß", "Ǆ", "ﬁ", "ﬀ", "Ø", "ð",
]
SPECIAL = ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "##ing", "##", "[unused1]", "<S>", "<T>", "[ MASK ]"]
CONTROL = [
    *map(chr, range(0x21)), "\x7f", "\x85", "\x9f", "\u00ad", "\u200b", "\u200d", "\u202e", "\ufeff", "\ufffd",
    "\u2028", "\u2029", "\u3000", "\u00a0", "\u1680", "\u061c", "\U000e0001",
]
LONG = [
    *("x" * n for n in (99, 100, 101, 199, 200, 201, 400)), *("好" * n for n in (49, 50, 51)),
    "a" * 25000, "好" * 25000, "一只猫" * 8333, "a b " * 6250, "\u200b" * 25000, "ab,c" * 60, "é" * 201,
    "e\u0301" * 150, "あ" * 201, "[MASK]" * 40,
]
FIXED = ["", " ", "\t\n", "ΟΔΥΣΣΕΥΣ ΣΑΣ Σ σΣ", "ΑΣ.", "ΑΣ\u0301Β", "A\u0345Σ", *SPECIAL, *ACCENTS, *EMOJI, *LONG]
# fmt: on


def load_oracle() -> Any:
    """cn-clip's `FullTokenizer`, loaded by file: importing ``cn_clip.clip`` would want torch."""
    package = importlib.util.find_spec("cn_clip")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "clip" / "bert_tokenizer.py"
    spec = importlib.util.spec_from_file_location("cn_clip_bert_tokenizer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FullTokenizer()


def pieces(oracle: Any, text: str) -> list[int]:
    """cn-clip's ids of `text`, without [CLS] and [SEP] and not cut."""
    ids: list[int] = oracle.convert_tokens_to_ids(oracle.tokenize(text))
    return ids


def expected(oracle: Any, text: str) -> list[int]:
    """What ``cn_clip.clip.tokenize`` puts before the padding."""
    return [oracle.vocab["[CLS]"], *pieces(oracle, text)[:50], oracle.vocab["[SEP]"]]


def make_texts(seed: int = 20261122, count: int = 5500) -> list[str]:
    """`FIXED`, then generated texts of every kind in turn, `count` in all."""
    rng = random.Random(seed)
    assigned = [chr(c) for c in range(CODE_POINTS) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]
    kinds = _kinds(rng, assigned)
    generated = [kinds[i % len(kinds)]() for i in range(count - len(FIXED))]
    return FIXED + generated


def _kinds(rng: random.Random, assigned: list[str]) -> list[Callable[[], str]]:
    def chars(low: int, high: int) -> list[str]:
        return [c for c in map(chr, range(low, high)) if unicodedata.category(c) != "Cn"]

    def drawn(alphabet: list[str] | str, longest: int, joiner: str = "") -> Callable[[], str]:
        return lambda: joiner.join(rng.choices(alphabet, k=rng.randint(1, longest)))

    def shuffled(*makers: Callable[[], str]) -> Callable[[], str]:
        return lambda: rng.choice(["", " ", "，", ", "]).join(rng.choice(makers)() for _ in range(rng.randint(1, 5)))

    chinese, english = drawn(CHINESE, 12), drawn(ENGLISH, 8, " ")
    fullwidth, kana, hangul = (drawn(chars(*r), 15) for r in ((0xFF01, 0xFFEF), (0x3040, 0x3100), (0xAC00, 0xD7A4)))
    emoji, accents = drawn(EMOJI, 6), drawn(ACCENTS, 6, " ")
    latin = drawn(chars(0xC0, 0x250) + chars(0x300, 0x370) + list("aeiou "), 20)
    greek = drawn(chars(0x370, 0x400) + ["Σ", "Σ ", "Α"] * 20, 15)
    control = drawn(CONTROL + list("ab好 "), 15)
    private = drawn([chr(c) for c in (0xE000, 0xF8FF, 0xF0000, 0x10FFFD)] + list("a好 "), 8)
    special, surrogates = drawn(SPECIAL + list("a好 "), 8), drawn(["\ud800", "\udfff", "\ud83d", *"a好 "], 8)
    ranges = ((0x3400, 0x3440), (0xF900, 0xFAFF), (0x20000, 0x20040), (0x2B820, 0x2B840), (0x2F800, 0x2FA1E))
    ideographs = drawn([c for r in ranges for c in chars(*r)], 10)
    punctuation = drawn(chars(0x21, 0x7F) + chars(0x2010, 0x2070) + chars(0x3000, 0x3020), 20)
    anything = drawn(assigned, 12)
    plain = [chinese, english, shuffled(chinese, english), shuffled(chinese, english, emoji, fullwidth, punctuation)]
    rest = [fullwidth, kana, hangul, emoji, accents, latin, greek, control, private, special, surrogates, ideographs]
    return [*plain, *rest, punctuation, anything, shuffled(chinese, english, control, special, anything, latin)]


def main() -> None:
    assert unicodedata.unidata_version == "14.0.0", "make the golden files with Python 3.11"
    oracle, texts = load_oracle(), make_texts()
    ids = np.zeros((len(texts), 52), np.uint16)
    for row, text in zip(ids, texts, strict=True):
        tokens = expected(oracle, text)
        row[: len(tokens)] = tokens
    single = [pieces(oracle, chr(c)) for c in range(CODE_POINTS)]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "texts.json.gz").write_bytes(gzip.compress(json.dumps(texts).encode("ascii"), mtime=0))
    np.savez_compressed(
        FOLDER / "tokens.npz",
        ids=ids,
        lengths=np.array([len(p) for p in single], np.uint8),
        pieces=np.array([i for p in single for i in p], np.uint16),
        categories=np.array([CATEGORIES.index(unicodedata.category(chr(c))) for c in range(CODE_POINTS)], np.uint8),
    )
    print(f"{len(texts)} texts, {len(set(texts))} different", file=sys.stderr)


if __name__ == "__main__":
    main()
