import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from search_libraries import digest
from server import ROOT, wait_until

from immich_ml_cn.search.folder import Contents, Folder
from immich_ml_cn.search.query import parse
from immich_ml_cn.search.reader import Reader, rows_of
from immich_ml_cn.search.texts import Match
from immich_ml_cn.search.writer import PAUSE_S, SeenPicture, SeenText, Writer

MODEL = "clip/chinese-clip-vit-base-patch16"
MANY = 1_000_000


def vector(number: int, dimension: int = 32) -> NDArray[np.float32]:
    values = np.random.default_rng(number).normal(size=dimension).astype(np.float32)
    length = np.float32(np.linalg.norm(values))
    return values / length


def see(writer: Writer, number: int, text: str = "发票") -> None:
    writer.put(SeenPicture(digest(number), MODEL, vector(number)))
    writer.put(SeenText(digest(number), (text,)))


def match(reader: Reader, text: str = "发票") -> list[Match]:
    query = parse(f"ocr:{text}")
    assert query is not None
    return reader.match(query)


def numbers(reader: Reader, text: str = "发票") -> set[int]:
    return {int.from_bytes(found.digest[:8], "little") - 1 for found in match(reader, text)}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, MANY)


def test_nothing_is_opened_or_started_before_it_is_used(folder: Folder) -> None:
    writer, reader = Writer(folder), Reader(folder)
    assert match(reader) == []
    assert len(reader.photos(MODEL, 32)) == 0
    assert folder.contents() == Contents({}, 0, 0)
    assert writer.close(1)
    assert not folder.path.exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "search-writer"]


def test_what_was_seen_is_found(folder: Folder) -> None:
    writer, reader = Writer(folder, interval_s=0.01), Reader(folder)
    see(writer, 0)
    wait_until(lambda: numbers(reader) == {0})
    see(writer, 1, "發票 no 2")
    assert writer.close(10)
    found = match(reader)
    assert [entry.text for entry in found] == ["发票 no 2", "发票"] or len(found) == 2
    photos = reader.photos(MODEL, 32)
    rows, known = rows_of(photos, [*found, Match(digest(9), "", found[0].tier, 0, 0)])
    assert known == found
    by_digest = {entry.digest: photos.rows(rows[[place]])[0] for place, entry in enumerate(known)}
    for number in (0, 1):
        np.testing.assert_allclose(by_digest[digest(number)], vector(number), atol=1e-3)
    contents = folder.contents()
    assert (contents.photos, contents.texts) == ({MODEL: 2}, 2)
    assert contents.size == sum(path.stat().st_size for path in folder.path.iterdir())


def test_the_folder_is_its_owners_alone(folder: Folder) -> None:
    folder.write_pictures(MODEL, [(digest(0), vector(0))])
    folder.write_texts([(digest(0), "发票")])
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}


def test_models_are_kept_apart_and_so_are_dimensions(folder: Folder) -> None:
    folder.write_pictures(MODEL, [(digest(0), vector(0))])
    folder.write_pictures("clip/other", [(digest(1), vector(1))])
    folder.write_pictures("clip/other", [(digest(2), vector(2, 48))])
    reader = Reader(folder)
    assert [reader.photos(*key).count for key in ((MODEL, 32), ("clip/other", 32), ("clip/other", 48))] == [1, 1, 1]


def test_what_was_seen_longest_ago_goes_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path, max_photos=50)
    for number in range(0, 200, 20):
        folder.write_pictures(MODEL, [(digest(n), vector(n)) for n in range(number, number + 20)])
        folder.write_texts([(digest(n), "发票") for n in range(number, number + 20)])
    reader = Reader(folder)
    assert numbers(reader) == set(range(150, 200))
    photos = reader.photos(MODEL, 32)
    assert photos.count == 50
    assert (photos.find([digest(n) for n in range(200)]) >= 0).nonzero()[0].tolist() == list(range(150, 200))


def test_files_do_not_grow_beyond_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immich_ml_cn.search.embeddings.LAST_CHECKED", 20)
    folder = Folder(tmp_path, max_photos=100)
    for _ in range(30):
        folder.write_pictures(MODEL, [(digest(n), vector(n)) for n in range(40)])
    size = folder.embeddings(MODEL, 32).stat().st_size
    assert size <= 200 * (20 + 64)
    assert Reader(folder).photos(MODEL, 32).count == 40


def test_a_reader_follows_a_cleared_index(folder: Folder) -> None:
    reader = Reader(folder)
    folder.write_pictures(MODEL, [(digest(0), vector(0))])
    folder.write_texts([(digest(0), "发票")])
    assert (numbers(reader), reader.photos(MODEL, 32).count) == ({0}, 1)
    folder.clear()
    assert (numbers(reader), reader.photos(MODEL, 32).count) == (set(), 0)
    assert folder.contents().photos == {}
    folder.write_texts([(digest(1), "发票")])
    assert numbers(reader) == {1}


def test_a_failure_switches_writing_off_with_one_line_and_on_again_later(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    writer = Writer(folder, interval_s=0.01, clock=lambda: now[0])

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_pictures", full)
        see(writer, 0)
        wait_until(lambda: writer.failure)
        see(writer, 1)
        wait_until(lambda: writer.lost >= 3)
    see(writer, 2)
    wait_until(lambda: writer.lost >= 5)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    now[0] = PAUSE_S
    see(writer, 3)
    wait_until(lambda: writer.failure is None)
    assert writer.close(10)
    assert numbers(Reader(folder)) == {3}


def test_a_file_that_is_no_database_is_put_aside(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.path.mkdir()
    folder.texts.write_bytes(b"nonsense" * 1000)
    folder.write_texts([(digest(0), "发票")])
    assert numbers(Reader(folder)) == {0}
    assert folder.texts.with_suffix(".damaged").read_bytes() == b"nonsense" * 1000
    assert "begun anew" in caplog.text


WRITE_FOR_EVER = """
import sys
import numpy as np
from pathlib import Path
from immich_ml_cn.search.folder import Folder
folder = Folder(Path(sys.argv[1]), 1_000_000)
for number in range(int(sys.argv[2]), 10**9, 20):
    entries = {n: (n + 1).to_bytes(8, "little") * 2 for n in range(number, number + 20)}
    folder.write_pictures("clip/m", [(digest, np.full(32, n % 7, np.float32)) for n, digest in entries.items()])
    folder.write_texts([(digest, f"发票 {n}") for n, digest in entries.items()])
    print(number + 20, flush=True)
"""


def start_writer(cache: Path, first: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(cache), str(first)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_loses_at_most_its_last_batch(tmp_path: Path) -> None:
    """Killed at any moment, several times over, with another process that goes on reading."""
    folder, written = Folder(tmp_path, MANY), 0
    reader = Reader(folder)
    for attempt in range(5):
        process = start_writer(tmp_path, written)
        assert process.stdout is not None
        for _ in range(3 + attempt):
            written = int(process.stdout.readline())
        time.sleep(0.003 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        written = max([written, *map(int, process.stdout.read().split())])
        process.stdout.close()
        photos = reader.photos("clip/m", 32)
        assert (photos.find([digest(number) for number in range(written)]) >= 0).all()
        assert numbers(reader) >= set(range(written))
        assert photos.count <= written + 20
    with closing(sqlite3.connect(folder.texts)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_two_processes_write_into_one_folder_in_turns(tmp_path: Path) -> None:
    processes = [start_writer(tmp_path, first) for first in (0, 1_000_000)]
    for process in processes:
        assert process.stdout is not None
        for _ in range(6):
            process.stdout.readline()
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    reader = Reader(Folder(tmp_path, MANY))
    expected = {*range(120), *range(1_000_000, 1_000_120)}
    with closing(sqlite3.connect(Folder(tmp_path, MANY).texts)) as connection:  # a look-up weighs 5,000 at most
        kept = {row for (row,) in connection.execute("SELECT digest FROM photos")}
    assert kept >= {digest(number) for number in expected}
    assert (reader.photos("clip/m", 32).find([digest(number) for number in expected]) >= 0).all()
