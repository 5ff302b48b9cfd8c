import pytest

from immich_ml_cn.search.normalisation import normalise, normalise_lines
from immich_ml_cn.search.query import MAX_TERMS, Query, Term, parse, plain
from immich_ml_cn.search.tokens import runs, tokens


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("ＡＢＣ１２３", "abc123"),
        ("發票 號碼", "发票号码"),
        ("臺灣鐘錶", "台湾钟表"),
        ("Straße  CAFÉ", "strasse cafe"),
        ("发 票\u3000报 销", "发票报销"),
        ("iPhone 15 发票", "iphone 15 发票"),
        ("ガラス 가방", "ガラス가방"),
        ("①㎏ ﬁn", "1kg fin"),
        ("", ""),
    ],
)
def test_one_form_of_what_is_written(written: str, normal: str) -> None:
    assert normalise(written) == normal
    assert normalise(normal) == normal


def test_lines_stay_lines_and_blank_ones_go() -> None:
    assert normalise_lines(["  電子 發票 ", "", "\t", "No\n12"]) == "电子发票\nno 12"


def test_tokens_are_pairs_and_the_last_character() -> None:
    assert list(tokens("电子发票 no12\n金额")) == ["电子", "子发", "发票", "票", "no", "12", "金额", "额"]


def test_chinese_goes_on_in_the_next_line() -> None:
    assert list(tokens("虹\n桥\nno\nsmoking")) == ["虹桥", "桥", "no", "smoking"]


def test_marks_are_no_tokens() -> None:
    assert [run.text for run in runs("100%，_«票»—a.b")] == ["100", "票", "a", "b"]


def terms(*texts: str) -> tuple[Term, ...]:
    return tuple(Term(text) for text in texts)


PREFIXES = ("ocr:", "OCR:", "ocr：", " Ocr: ", "文字:", "文字：", "ｏｃｒ：", "OCR :")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix(prefix: str) -> None:
    assert parse(f"{prefix}發票") == Query(terms("发票"), words="发票")


@pytest.mark.parametrize("text", ["", "  ", "发票", "how ocr works", "microcr:x", "clip:红色", "文字游戏"])
def test_no_prefix_no_text_search(text: str) -> None:
    assert parse(text) is None


def test_words_are_all_wanted_but_those_with_a_minus() -> None:
    assert parse('ocr:发票 2024 -作废 -"草 稿"') == Query(
        terms("发票", "2024"), (Term("作废"), Term("草稿", exact=True)), words="发票 2024"
    )


@pytest.mark.parametrize("quoted", ['"报销 单"', "“报销 单”", "「报销 单」", '"报销 单'])
def test_quotes_make_a_phrase(quoted: str) -> None:
    assert parse(f"ocr:{quoted}") == Query((Term("报销单", exact=True),), words="报销单")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("红色 ocr:发票", "红色"),
        ("ocr:发票 clip:红色 的车", "红色 的车"),
        ("ocr:发票 画面：红色", "红色"),
        ("a red car OCR:发票 clip:at night", "a red car at night"),
    ],
)
def test_what_the_photo_should_show(text: str, meaning: str) -> None:
    query = parse(text)
    assert query is not None
    assert (query.terms, query.meaning) == (terms("发票"), meaning)
    assert query.words == f"{meaning} 发票"


@pytest.mark.parametrize("text", ["ocr:", "ocr: ", "ocr:!?", "ocr:-发票", 'ocr:""'])
def test_a_prefix_without_words_finds_nothing(text: str) -> None:
    query = parse(text)
    assert query is not None
    assert query.terms == ()


def test_a_query_is_bounded() -> None:
    query = parse("ocr:" + " ".join(f"w{number}" for number in range(100)) + "x" * 10_000)
    assert query is not None
    assert len(query.terms) == MAX_TERMS
    long = parse("ocr:" + "票" * 10_000)
    assert long is not None
    assert len(long.terms[0].text) == 64


@pytest.mark.parametrize("text", ["发票", "invoice", "发票 2024", "120", "增值税发票 invoice"])
def test_a_plain_query_of_long_enough_words(text: str) -> None:
    query = plain(text)
    assert query is not None
    assert query.words == text
    assert query.terms == terms(*text.split())


@pytest.mark.parametrize("text", ["票", "cat", "12", "a photo of an invoice", "红 发票", "!", ""])
def test_a_plain_query_with_a_short_word(text: str) -> None:
    assert plain(text) is None
