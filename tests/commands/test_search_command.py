"""`immich-ml-cn search`: what a person types, and what it answers."""

from pathlib import Path

import numpy as np
import pytest
from command_line import Run, command

from immich_ml_cn.search.folder import Folder


@pytest.fixture
def search(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `search …` on a cache of its own."""
    return command(capsys, "search", MACHINE_LEARNING_CACHE_FOLDER=str(tmp_path), IMMICH_ML_CN_LANGUAGE="en")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Three photos with text, of which two have an embedding."""
    folder = Folder(tmp_path, 1000)
    digests = [bytes([number]) * 16 for number in (1, 2, 3)]
    folder.write_texts(list(zip(digests, ("电子发票\n金额 100", "发\n票", "销舍额"), strict=True)))
    ones = np.ones(512, np.float32)
    folder.write_pictures("clip/chinese-clip-vit-base-patch16", [(digest, ones) for digest in digests[:2]])
    folder.write_pictures("clip/chinese-clip-vit-base-patch16", [(digests[0], ones)])
    return folder


@pytest.mark.parametrize("query", ["发票", "ocr:发票", "發票"])
def test_what_matches_is_printed_with_its_text_and_score(search: Run, folder: Folder, query: str) -> None:
    answer = search(query)
    lines = answer.out.splitlines()
    assert answer.code == 0
    assert lines[0].split() == ["FIT", "SCORE", "EMBEDDING", "TEXT"]
    assert lines[1].startswith("exact")
    assert lines[1].endswith("yes        电子发票 / 金额 100")
    assert lines[2].startswith("across lines")
    assert lines[-1] == "2 photos have this text"


def test_json(search: Run, folder: Folder) -> None:
    (found,) = search("销售额", "--json").json
    assert found.pop("score") > 0
    assert found == {"digest": "03" * 16, "fit": "misread", "embedding": False, "text": ["销舍额"]}


def test_the_limit(search: Run, folder: Folder) -> None:
    answer = search("发票", "--limit", "1")
    assert len(answer.out.splitlines()) == 3
    assert "2 photos have this text" in answer.out


def test_stats(search: Run, folder: Folder) -> None:
    answer = search("--stats")
    assert str(folder.path) in answer.out
    assert "3 photos with text" in answer.out
    assert "2 photos with an embedding of 512 numbers, clip/chinese-clip-vit-base-patch16" in answer.out
    stats = search("--stats", "--json").json
    assert stats["models"] == [{"model": "clip/chinese-clip-vit-base-patch16", "dimension": 512, "photos": 2}]
    assert stats["bytes"] == sum(path.stat().st_size for path in folder.path.iterdir())


def test_clear(search: Run, folder: Folder) -> None:
    assert search("--clear").code == 0
    assert search("--stats", "--json").json["texts"] == 0
    assert "0 photos have this text" in search("发票").out


def test_nothing_is_made_where_nothing_is_kept(search: Run, tmp_path: Path) -> None:
    assert "0 photos have this text" in search("发票").out
    assert search("--stats").code == search("--clear").code == 0
    assert not list(tmp_path.iterdir())


def test_it_says_what_it_needs(search: Run) -> None:
    answer = search()
    assert (answer.code, answer.out) == (2, "")
    assert "--stats" in answer.err


def test_a_folder_that_cannot_be_used(search: Run, folder: Folder) -> None:
    folder.texts.write_bytes(b"nonsense" * 1000)
    answer = search("发票")
    assert answer.code == 1
    assert str(folder.path) in answer.err


def test_it_speaks_chinese(search: Run, folder: Folder) -> None:
    assert "2 张照片含有这段文字" in search("发票", IMMICH_ML_CN_LANGUAGE="zh").out
