"""What people see while a model arrives."""

import io
import logging
from pathlib import Path

import pytest

from immich_ml_cn.store.fetch import (
    FileProgress,
    MultiProgress,
    ProgressBar,
    ProgressLog,
    ProgressState,
    display_progress,
)

MB = 1_000_000
FILE = "clip/m/visual/model.onnx"


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> logging.Logger:
    caplog.set_level(logging.INFO, "progress")
    return logging.getLogger("progress")


def test_one_line_every_few_seconds(lines: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = ProgressLog(lines, interval_s=5, clock=clock)

    progress.start(FILE, 0, 340 * MB)
    for _ in range(20):
        clock.now += 1
        progress.advance(4 * MB)
    progress.finish()

    assert [record.message for record in caplog.records] == [
        f"{FILE}: 5 % of 340 MB, 4.0 MB/s, 1 min 20 s left",
        f"{FILE}: 11 % of 340 MB, 4.0 MB/s, 1 min 15 s left",
        f"{FILE}: 17 % of 340 MB, 4.0 MB/s, 1 min 10 s left",
        f"{FILE}: 23 % of 340 MB, 4.0 MB/s, 1 min 5 s left",
    ]


def test_a_whole_file_is_told_even_when_it_was_quick(lines: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = ProgressLog(lines, clock=clock)

    progress.start(FILE, 2 * MB, 4 * MB)
    clock.now += 1
    progress.advance(2 * MB)
    progress.finish()

    assert [record.message for record in caplog.records] == [f"{FILE}: complete, 4.0 MB at 2.0 MB/s"]


def test_a_size_that_is_known_late_is_said_from_then_on(
    lines: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    progress = ProgressLog(lines, interval_s=5, clock=clock)

    progress.start(FILE, 0, None)
    progress.start(FILE, 0, 100 * MB)
    clock.now += 5
    progress.advance(50 * MB)
    progress.finish()

    assert [record.message for record in caplog.records] == [f"{FILE}: 50 % of 100 MB, 10.0 MB/s, 5 s left"]


def test_a_bar_learns_the_size_late() -> None:
    stream = io.StringIO()
    progress = ProgressBar(stream)

    progress.start(FILE, 0, None)
    progress.start(FILE, 1 * MB, 4 * MB)
    progress.advance(3 * MB)
    progress.finish()

    assert "100%" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1, "it stays one bar"


def test_a_small_file_is_not_worth_a_line(lines: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    progress = ProgressLog(lines, clock=Clock())

    progress.start("config.json", 0, 500)
    progress.advance(500)
    progress.finish()

    assert caplog.records == []


def test_what_was_here_before_does_not_count_as_speed(lines: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = ProgressLog(lines, interval_s=5, clock=clock)

    progress.start(FILE, 100 * MB, 200 * MB)
    clock.now += 10
    progress.advance(10 * MB)

    assert caplog.records[0].message == f"{FILE}: 55 % of 200 MB, 1.0 MB/s, 1 min 30 s left"


def test_an_unknown_size_and_a_fresh_beginning(lines: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = ProgressLog(lines, interval_s=5, clock=clock)

    progress.start(FILE, 5 * MB, None)
    clock.now += 5
    progress.advance(-5 * MB)
    clock.now += 5
    progress.advance(300_000)
    progress.finish()

    assert [record.message for record in caplog.records] == [f"{FILE}: 0 kB, 0 kB/s", f"{FILE}: 300 kB, 60 kB/s"]


def test_a_tally_answers_other_threads() -> None:
    tally = ProgressState()
    assert (tally.now, repr(tally)) == (None, "<ProgressState idle>")

    tally.start(FILE, 0, 200)
    tally.advance(50)

    assert str(tally.now) == f"{FILE}: 25 % of 0 kB"
    tally.finish()
    assert tally.now is None


def test_several_observers_see_the_same() -> None:
    one, two = ProgressState(), ProgressState()
    both = MultiProgress(one, two)

    both.start(FILE, 1, 3)
    both.advance(1)

    assert one.now == two.now == FileProgress(FILE, 2, 3)
    both.finish()
    assert one.now is two.now is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    progress = display_progress(stream, logging.getLogger("progress"))

    progress.start("visual/model.onnx", 1 * MB, 4 * MB)
    progress.advance(3 * MB)
    progress.finish()

    assert isinstance(progress, ProgressBar)
    assert "visual/model.onnx: 100%" in stream.getvalue()
    assert "4.00M/4.00M" in stream.getvalue()


def test_a_file_gets_lines(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert isinstance(display_progress(stream, logging.getLogger("progress")), ProgressLog)
