"""Text search on a running server: switched off, with a disk that takes nothing, killed, and shared by two."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from server import OCR_TASK, TEXTUAL, VISUAL, Client, RunningServer, fill_cache, wait_until

SAMPLE = Path(__file__).parents[2] / "docs" / "sample.jpg"
OFF = {"MACHINE_LEARNING_TEXT_SEARCH": "off"}


def import_sample(client: Client) -> bytes:
    """Send the sample for CLIP and OCR; CLIP's answer."""
    picture = SAMPLE.read_bytes()
    assert client.predict(OCR_TASK, picture).status == 200
    reply = client.predict(VISUAL, picture)
    assert reply.status == 200
    return reply.body


def vector(client: Client, query: str) -> list[float]:
    reply = client.predict(TEXTUAL, text=query)
    assert reply.status == 200
    numbers: list[float] = json.loads(reply.json["clip"])
    return numbers


def finds_sample(client: Client) -> bool:
    """Whether a search for text is answered with the embedding of the one photo that has it."""
    embedding = json.loads(json.loads(import_sample(client))["clip"])
    answer = vector(client, "ocr:音乐会")
    return float(np.dot(answer, embedding)) > 0.999


def has_texts(client: Client) -> bool:
    return bool(client.get("/status").json["textSearch"]["texts"])


def test_off_keeps_nothing_and_answers_the_same_to_the_bit(cache: Path) -> None:
    with RunningServer(cache, **OFF) as off, off.client(timeout=170) as client:
        picture, text = import_sample(client), client.predict(TEXTUAL, text="山间音乐会").body
        prefixed = client.predict(TEXTUAL, text="ocr:音乐会").body
        assert client.get("/status").json["textSearch"] == {"mode": "off"}
        assert b"immich_ml_search" not in client.get("/metrics").body.replace(b"immich_ml_search_seconds", b"")
        maps = Path(f"/proc/{off.process.pid}/maps").read_text()
        assert "opencc" not in maps
        assert "_sqlite3" not in maps
        assert off.stop() == 0
    assert not (cache / "search").exists()
    with RunningServer(cache) as on, on.client(timeout=170) as client:
        assert (import_sample(client), client.predict(TEXTUAL, text="山间音乐会").body) == (picture, text)
        wait_until(lambda: has_texts(client))
        assert client.predict(TEXTUAL, text="ocr:音乐会").body != prefixed
        assert on.stop() == 0


def test_what_was_seen_outlives_a_kill(tmp_path: Path) -> None:
    cache = fill_cache(tmp_path)
    for attempt in range(3):
        with RunningServer(cache) as server, server.client(timeout=170) as client:
            if attempt == 0:
                import_sample(client)
                wait_until(lambda client=client: has_texts(client))  # type: ignore[misc]
            assert finds_sample(client)
            os.kill(server.process.pid, signal.SIGKILL)
            server.wait()


def test_two_servers_share_one_index(tmp_path: Path) -> None:
    """Both write, in turns: what one has seen the other finds."""
    cache = fill_cache(tmp_path)
    with (
        RunningServer(cache) as one,
        RunningServer(cache) as other,
        one.client(timeout=170) as first,
        other.client(timeout=170) as second,
    ):
        picture = SAMPLE.read_bytes()
        assert first.predict(OCR_TASK, picture).status == 200
        reply = second.predict(VISUAL, picture)
        embedding = json.loads(reply.json["clip"])
        wait_until(lambda: has_texts(second) and client_photos(first) == 1)
        for client in (first, second):
            assert float(np.dot(vector(client, "ocr:音乐会"), embedding)) > 0.999
        assert (one.stop(), other.stop()) == (0, 0)


def client_photos(client: Client) -> int:
    return sum(client.get("/status").json["textSearch"]["photos"].values())


def test_a_folder_that_cannot_be_written_disturbs_nothing(tmp_path: Path) -> None:
    cache = fill_cache(tmp_path)
    (cache / "search").write_bytes(b"not a folder")
    with RunningServer(cache) as server, server.client(timeout=170) as client:
        for _ in range(3):
            import_sample(client)
            assert len(vector(client, "ocr:音乐会")) == 512
        server.wait_for_log("text search takes in no photos for now")
        import_sample(client)
        assert server.log.count("text search takes in no photos for now") == 1
        assert "Traceback" not in server.log
        assert server.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root only")
def test_a_full_disk_disturbs_nothing(tmp_path: Path) -> None:
    cache = fill_cache(tmp_path)
    (cache / "search").mkdir()
    mounted = os.system(f"mount -t tmpfs -o size=40k tmpfs {cache / 'search'} 2>/dev/null")
    if mounted != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        with RunningServer(cache) as server, server.client(timeout=170) as client:
            import_sample(client)
            server.wait_for_log("text search takes in no photos for now")
            import_sample(client)
            assert len(vector(client, "ocr:音乐会")) == 512
            assert "No space left" in server.log or "full" in server.log
            assert "Traceback" not in server.log
            assert server.stop() == 0
    finally:
        os.system(f"umount {cache / 'search'}")
