"""The comparison with another server: its rows, its table, and a run between two servers of ten lines."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import ten_line_server
from tokenizers import Tokenizer

from benchmarks import comparison, openclip
from benchmarks.comparison import CLIENTS, Comparison
from benchmarks.comparison_rows import OTHER, comparison_table, rows
from benchmarks.measurements import Key, Measurements
from benchmarks.requests import Task
from benchmarks.server import LocalServer, Server
from benchmarks.targets import CLIP_VISUAL, OURS, TEXT_SHORT

TASKS = {name: Task(name, {}, images=(b"jpeg",) * 2) for name in (*CLIENTS, TEXT_SHORT)}


def filled(ours: float, other: float, key: Key) -> Measurements:
    measured = Measurements()
    measured.add(key._replace(series=OURS), ours)
    measured.add(key._replace(series=OTHER), other)
    return measured


@pytest.mark.parametrize(
    ("key", "ratio"), [(Key("rate", CLIP_VISUAL, "", 1), 0.5), (Key("p95", TEXT_SHORT, "", 1), 2.0)]
)
def test_above_one_is_better(key: Key, ratio: float) -> None:
    (row,) = (row for row in rows() if row.key == key)
    assert row.ratio(filled(1.0, 2.0, key)) == ratio


def test_the_table_says_what_was_not_measured() -> None:
    table = comparison_table(filled(3.0, 2.0, Key("rate", CLIP_VISUAL, "", 1)))
    assert "| clip-visual, 1 client | 1/s | 2.00 | 3.00 | 1.50 × | ≥ 1.05 × |" in table
    assert "Not measured: clip-visual, 2 clients; " in table


@pytest.fixture
def url() -> Iterator[str]:
    with ten_line_server.running() as port:
        yield f"http://127.0.0.1:{port}"


def test_two_running_servers_are_compared(url: str, tmp_path: Path) -> None:
    measured = Measurements()
    compared = Comparison(tmp_path, TASKS, measured, lambda text: None, rounds=1, seconds=0.01)
    servers = [Server(OURS, url), Server(OTHER, url)]
    compared.warm(servers)
    compared.throughput(servers, [CLIP_VISUAL])
    compared.text(servers)
    found = {row.what for row in rows() if row.ratio(measured) is not None}
    assert {"clip-visual, 8 clients", "text query, idle, p95"} < found
    assert "resident after all models have worked" not in found


SERVER = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    do_POST = do_GET
    def log_message(self, *args):
        pass

HTTPServer((os.environ["IMMICH_HOST"], int(os.environ["IMMICH_PORT"])), Handler).serve_forever()
"""


def test_two_servers_are_started_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "REST_S", 0.0)
    monkeypatch.setattr(comparison, "MEMORY_CLIENTS", 1)  # the server above has one thread
    (tmp_path / "cache").mkdir()
    command = [sys.executable, "-c", SERVER]
    starts = [partial(LocalServer, name, command) for name in (OURS, OTHER)]
    measured = Measurements()
    compared = Comparison(tmp_path / "cache", TASKS, measured, lambda text: None, rounds=1, seconds=0.01)
    compared.start(starts)
    compared.memory(starts)
    found = {row.what for row in rows() if row.ratio(measured) is not None}
    assert found == {row.what for row in rows() if row.key.quantity in ("first", "memory")}


def test_a_server_that_does_not_start_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="other did not start: false"), LocalServer(OTHER, ["false"], tmp_path):
        pass


def test_the_text_tower_is_openclips(tmp_path: Path) -> None:
    """Of fixed length, causal, and pooled where the text ends."""
    openclip.build_textual(tmp_path / "model.onnx", layers=1, width=64)
    openclip.write_tokenizer(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(openclip.QUERIES[0]).ids
    padded, other = np.zeros((1, 77), np.int32), np.ones((1, 77), np.int32)
    padded[0, : len(ids)] = other[0, : len(ids)] = ids
    assert len(ids) == 10
    assert np.array_equal(session.run(None, {"text": padded})[0], session.run(None, {"text": other})[0])
