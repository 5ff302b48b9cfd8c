from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from immich_ml_cn.search.folder import Folder
from immich_ml_cn.search.query import Query, for_text
from immich_ml_cn.search.searcher import Searcher
from immich_ml_cn.search.texts import Match, Texts

MODEL = "clip/made-up"
LIMIT_S = 1.0


class SlowTexts:
    """A clock on which every look-up of texts takes some seconds."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.look_ups = 0
        look_up = Texts.match

        def match(texts: Texts, query: Query, *, misread: bool = True) -> list[Match]:
            self.now += seconds
            self.look_ups += 1
            return look_up(texts, query, misread=misread)

        monkeypatch.setattr(Texts, "match", match)

    def clock(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Three photos with 发票, one of them with 红色."""
    folder = Folder(tmp_path, 100)
    digests = [bytes([number]) * 16 for number in (1, 2, 3)]
    folder.write_pictures(MODEL, [(digest, np.eye(8, dtype=np.float32)[digest[0]]) for digest in digests])
    folder.write_texts([(digest, "发票 红色" if digest[0] == 2 else "发票") for digest in digests])
    return folder


@pytest.fixture
def searchers() -> Iterator[list[Searcher]]:
    opened: list[Searcher] = []
    yield opened
    for searcher in opened:
        searcher.close()


@pytest.mark.parametrize(("look_up_s", "left_s"), [(0.0, 1.0), (0.3, 0.7), (0.9, 0.5), (5.0, 0.5)])
def test_the_vector_has_the_time_that_the_look_up_left(
    folder: Folder, searchers: list[Searcher], monkeypatch: pytest.MonkeyPatch, look_up_s: float, left_s: float
) -> None:
    slow = SlowTexts(look_up_s, monkeypatch)
    searcher = Searcher(folder, time_limit_s=LIMIT_S, clock=slow.clock)
    searchers.append(searcher)
    limits: list[float] = []
    monkeypatch.setattr(
        "immich_ml_cn.search.searcher.steer", lambda *_, time_limit_s, **__: limits.append(time_limit_s)
    )
    found = searcher.find(MODEL, 8, for_text("发票"))
    assert len(found) == 3
    searcher.steer(found)
    assert limits == [pytest.approx(left_s)]


def test_fewer_words_are_looked_up_as_long_as_there_is_time(
    folder: Folder, searchers: list[Searcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    for look_up_s, look_ups, meaning in ((0.01, 9, "a b c d e f g h"), (0.4, 3, "")):
        slow = SlowTexts(look_up_s, monkeypatch)
        searcher = Searcher(folder, time_limit_s=LIMIT_S, clock=slow.clock)
        searchers.append(searcher)
        found = searcher.find(MODEL, 8, for_text("发票 a b c d e f g h"))
        assert (slow.look_ups, found.query.meaning, len(found)) == (look_ups, meaning, 3 if meaning else 0)
        monkeypatch.undo()
