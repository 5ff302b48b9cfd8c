import signal
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from immich_ml_cn.engines import child_process
from immich_ml_cn.search.normalisation import normalise_lines
from immich_ml_cn.search.query import Query, parse
from immich_ml_cn.search.texts import VERSION, Match, OtherVersion, Texts, Tier
from immich_ml_cn.search.words import Words

MANY = 1_000_000


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def texts(tmp_path: Path) -> Iterator[Texts]:
    opened = Texts.create(tmp_path / "texts.db")
    yield opened
    opened.close()


def fill(texts: Texts, *photos: str) -> None:
    """Take in photos whose lines are separated by a slash."""
    entries = [(digest(number), normalise_lines(photo.split("/"))) for number, photo in enumerate(photos)]
    texts.write(entries, MANY)


def asked(text: str) -> Query:
    query = parse(f"ocr:{text}")
    assert query is not None
    return query


def found(texts: Texts, text: str) -> list[tuple[int, Tier]]:
    return [(int.from_bytes(match.digest, "big"), match.tier) for match in texts.match(asked(text))]


EXACT, ACROSS, MISREAD = Tier.EXACT, Tier.ACROSS_LINES, Tier.MISREAD


@pytest.mark.parametrize(
    ("photo", "query", "tier"),
    [
        ("电子发票", "发票", EXACT),
        ("电子发票", "票", EXACT),
        ("电子发票", "电", EXACT),
        ("电子發票", "發票", EXACT),
        ("電子發票", "发票", EXACT),
        ("电子发票", "發票", EXACT),
        ("电 子 发 票", "电子发票", EXACT),
        ("ＴＡＸ ｉｎｖｏｉｃｅ", "invoice", EXACT),
        ("Invoices", "invoice", EXACT),
        ("one box", "boxes", EXACT),
        ("family of cats", "families", EXACT),
        ("Café", "cafe", EXACT),
        ("iPhone15", "iphone 15", EXACT),
        ("iPhone 15", "iphone15", EXACT),
        ("第1章", "第1章", EXACT),
        ("total 12.50", "12.50", EXACT),
        ("虹/桥机场", "虹桥", ACROSS),
        ("no/smoking", '"no smoking"', ACROSS),
        ("增值税发粟", "增值税发票", MISREAD),
        ("销肀额", "销售额", MISREAD),
        ("增值税/发粟", "增值税发票", MISREAD),
        ("involce", "invoice", MISREAD),
        ("lnvoice", "invoice", MISREAD),
    ],
)
def test_found(texts: Texts, photo: str, query: str, tier: Tier) -> None:
    fill(texts, photo, "别的东西 unrelated 99")
    assert found(texts, query) == [(0, tier)]


@pytest.mark.parametrize(
    ("photo", "query"),
    [
        ("发粟", "发票"),
        ("voice", "invoice"),
        ("invoiced", "invoice"),
        ("2023", "202"),
        ("票发", "发票"),
        ("销肀领", "销售额"),
        ("增值税发粟", '"增值税发票"'),
        ("invoices", '"invoice"'),
        ("发票/作废", "发票 -作废"),
        ("发票", "发票 报销"),
        ("smoking no", '"no smoking"'),
        ("发。票", "发票"),
    ],
)
def test_not_found(texts: Texts, photo: str, query: str) -> None:
    fill(texts, photo)
    assert found(texts, query) == []


def test_several_words_are_all_there_wherever_they_stand(texts: Texts) -> None:
    fill(texts, "报销/发票", "发票", "发票 报销 2024", "报销")
    assert {number for number, _ in found(texts, "发票 报销")} == {0, 2}
    assert found(texts, "发票 报销 -2024") == [(0, EXACT)]


def test_the_worst_word_decides_the_tier(texts: Texts) -> None:
    fill(texts, "虹/桥 发票", "虹桥 增值税发粟", "虹桥 增值税发票")
    assert found(texts, "虹桥 发票") == [(2, EXACT), (0, ACROSS)]
    assert found(texts, "虹桥 增值税发票") == [(2, EXACT), (1, MISREAD)]


def test_within_a_tier_the_more_relevant_then_the_newer(texts: Texts) -> None:
    filler = "一二三四五六七八九十" * 5
    fill(texts, f"发票{filler}", "发票", "发票", f"发票发票发票{filler}")
    numbers = [number for number, _ in found(texts, "发票")]
    assert numbers.index(2) < numbers.index(1) < numbers.index(0)


@pytest.fixture
def words() -> Iterator[Words]:
    started = Words()
    yield started
    started.close()


def test_a_single_character_that_is_a_word_comes_before_part_of_a_word(
    texts: Texts, tmp_path: Path, words: Words
) -> None:
    filler = "今天天气很好我们去公园"
    fill(texts, "鸡毛蒜皮", f"买一只鸡回家/{filler}", "田鸡")
    with_words = Texts.open(tmp_path / "texts.db", words)
    assert with_words is not None
    numbers = [int.from_bytes(match.digest, "big") for match in with_words.match(asked("鸡"))]
    with_words.close()
    assert numbers[0] == 1
    assert set(numbers) == {0, 1, 2}


def test_the_dictionary_is_asked_about_single_characters_only(
    texts: Texts, tmp_path: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_about: list[str] = []

    def stand_alone(word: str, texts: Sequence[str]) -> list[bool]:
        asked_about.append(word)
        return [True] * len(texts)

    monkeypatch.setattr(words, "stand_alone", stand_alone)
    fill(texts, "发票 票", "车票")
    with_words = Texts.open(tmp_path / "texts.db", words)
    assert with_words is not None
    for text in ("发票", "x", "5", "没", "票", "票 发票"):
        with_words.match(asked(text))
    with_words.close()
    assert asked_about == ["票", "票"]


def test_words_are_told_again_after_their_process_has_ended(words: Words) -> None:
    for _ in range(2):
        assert words.stand_alone("鸡", ["买一只鸡", "鸡毛\n蒜皮", "鱼\n一只鸡", ""]) == [True, False, True, False]
        assert words._process is not None
        words._process.kill()
        words._process.wait()


def test_without_a_process_nothing_is_a_word(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["false"], ["/no/such/program"]):
        monkeypatch.setattr("immich_ml_cn.search.words.child_process.command", lambda *_, command=command: command)
        assert words.stand_alone("鸡", ["买一只鸡"] * 9) == [False] * 9


def test_the_process_that_knows_words_ends_when_nobody_asks(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    command = child_process.command("immich_ml_cn.search.words", "main")
    command[2] = f"from immich_ml_cn.search import words; words.IDLE_S = 1; {command[2]}"
    monkeypatch.setattr("immich_ml_cn.search.words.child_process.command", lambda *_: command)
    assert words.stand_alone("鸡", ["买一只鸡"]) == [True]
    assert words._process is not None
    assert words._process.wait(10) == -signal.SIGALRM


def test_a_photo_seen_again_is_renewed(texts: Texts) -> None:
    fill(texts, "旧文字", "不变")
    texts.write([(digest(0), "新文字")], MANY)
    assert found(texts, "旧文字") == [(0, MISREAD)]
    assert found(texts, "新文") == [(0, EXACT)]
    assert texts.count() == 2
    texts.write([(digest(0), "")], MANY)
    assert (found(texts, "新文字"), texts.count()) == ([], 1)


def test_what_was_seen_longest_ago_goes_first(texts: Texts) -> None:
    fill(texts, "甲字", "乙字", "丙字")
    texts.write([(digest(0), "甲字")], MANY)
    texts.write([(digest(9), "丁字")], 2)
    assert {number for number, _ in found(texts, "字")} == {0, 9}


def test_clear(texts: Texts) -> None:
    fill(texts, "发票")
    texts.clear()
    assert (found(texts, "发票"), texts.count()) == ([], 0)
    fill(texts, "发票")
    assert found(texts, "发票") == [(0, EXACT)]


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    Texts.create(tmp_path / "texts.db").close()
    assert (tmp_path / "texts.db").stat().st_mode & 0o777 == 0o600


def test_no_file_is_no_text(tmp_path: Path) -> None:
    assert Texts.open(tmp_path / "texts.db") is None
    assert not list(tmp_path.iterdir())


def test_a_reader_sees_what_is_written_meanwhile(texts: Texts, tmp_path: Path) -> None:
    reader = Texts.open(tmp_path / "texts.db")
    assert reader is not None
    fill(texts, "发票")
    assert [match.tier for match in reader.match(asked("发票"))] == [EXACT]
    reader.close()


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.db"
    Texts.create(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(OtherVersion):
        Texts.create(path)
    assert Texts.open(path) is None


def test_a_failed_write_changes_nothing(texts: Texts) -> None:
    fill(texts, "发票")

    def broken() -> Iterator[tuple[bytes, str]]:
        yield digest(0), "别的"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        texts.write(broken(), MANY)
    assert found(texts, "发票") == [(0, EXACT)]
    assert texts.count() == 1


def test_order_of_matches() -> None:
    matches = [
        Match(b"", "", Tier.MISREAD, 9, 9),
        Match(b"", "", Tier.EXACT, 1, 1),
        Match(b"", "", Tier.EXACT, 1, 2),
        Match(b"", "", Tier.EXACT, 2, 0),
    ]
    assert sorted(matches, key=lambda match: match.order) == [matches[3], matches[2], matches[1], matches[0]]
