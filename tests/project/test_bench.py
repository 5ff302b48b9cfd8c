"""The benchmark's pure parts: figures, ratios, tables, requests, and its load generator against a ten-line server."""

import math
from collections.abc import Iterator

import pytest
import ten_line_server

from benchmarks import report
from benchmarks.load import Stream, drive
from benchmarks.measurements import Key, Measurements, percentile
from benchmarks.requests import Task, clip_textual, post
from benchmarks.targets import BARE, CLIP_VISUAL, OURS, Target, targets

OURS_8 = Key("rate", CLIP_VISUAL, OURS, 8)
BATCH_1, BATCH_4 = (Key("rate", CLIP_VISUAL, f"{BARE}, batch {size}") for size in (1, 4))


def filled(values: dict[Key, list[float]]) -> Measurements:
    measured = Measurements()
    for key, rounds in values.items():
        for value in rounds:
            measured.add(key, value)
    return measured


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0], 0.95, 3.0), ([4.0, 1.0, 3.0, 2.0], 0.5, 2.5), ([1.0, 2.0], 1.0, 2.0), (range(101), 0.95, 95.0)],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == pytest.approx(expected)


def test_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 0.5))


def test_a_ratio_is_taken_within_each_round() -> None:
    """A machine that is half as fast in the second round changes nothing."""
    measured = filled({OURS_8: [9.0, 4.5, 9.0], BATCH_1: [10.0, 5.0, 10.0]})
    assert measured.ratio(OURS_8, BATCH_1) == pytest.approx(0.9)
    assert measured.difference(OURS_8, BATCH_1) == pytest.approx(-1.0)


def test_what_was_not_measured_has_no_ratio() -> None:
    measured = filled({OURS_8: [9.0]})
    assert measured.ratio(OURS_8, BATCH_1) is None
    assert measured.middle(BATCH_1) is None
    assert measured.best("rate", CLIP_VISUAL, BARE) is None


def test_an_unknown_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="'speed' is no quantity"):
        Measurements().add(Key("speed", "", OURS), 1.0)


def test_the_limit_of_clip_is_the_best_batch() -> None:
    measured = filled({OURS_8: [9.5] * 3, BATCH_1: [9.0] * 3, BATCH_4: [10.0] * 3})
    assert measured.best("rate", CLIP_VISUAL, BARE) == BATCH_4
    found = {target.what: target.measured(measured) for target in targets()}
    assert found["clip-visual, 8 clients: of the bare session's best batch"] == pytest.approx(0.95)
    assert found["clip-visual, 2 clients: of the bare session's best batch"] is None


def test_every_target_can_be_read_from_an_empty_run() -> None:
    measured = Measurements()
    assert [target.measured(measured) for target in targets()] == [None] * len(targets())
    assert report.targets_table(measured).count("not measured") == len(targets())


def test_a_target_is_met_from_its_bound_on() -> None:
    least = Target("", "≥", 0.9, "×", lambda measured: None)
    most = Target("", "≤", 0.9, "×", lambda measured: None)
    assert [least.is_met(value) for value in (0.89, 0.9, 0.91)] == [False, True, True]
    assert [most.is_met(value) for value in (0.89, 0.9, 0.91)] == [True, True, False]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.03456, "0.0346"), (4.8, "4.80"), (1234.6, "1,235"), (math.nan, "nan")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_rates_table() -> None:
    measured = filled({BATCH_1: [10.0], OURS_8: [9.0], Key("p95", CLIP_VISUAL, OURS, 8): [812.0]})
    head, _, bare, ours = report.rates_table(measured, CLIP_VISUAL).splitlines()
    assert head.startswith("| series | clients | 1/s | of the limit |")
    assert bare.startswith("| bare, batch 1 | – | 10.0 | 1.00 |")
    assert ours.startswith("| ours | 8 | 9.00 | 0.900 | – | 812 |")


def test_results_as_json() -> None:
    (row,) = filled({OURS_8: [8.0, 9.0, 9.5]}).as_json()
    assert row == {
        **{"quantity": "rate", "task": CLIP_VISUAL, "series": OURS, "clients": 8},
        **{"unit": "1/s", "median": 9.0, "values": [8.0, 9.0, 9.5]},
    }


def test_requests_are_whole() -> None:
    task = Task("text", clip_textual("m"), texts=("海边", "a dog"))
    head, _, body = post("localhost:3003", "/predict", task.bodies()[0]).partition(b"\r\n\r\n")
    assert b"POST /predict HTTP/1.1\r\nhost: localhost:3003" in head
    assert f"content-length: {len(body)}".encode() in head
    assert 'name="text"\r\n\r\n海边\r\n'.encode() in body


@pytest.fixture
def port() -> Iterator[int]:
    with ten_line_server.running() as port:
        yield port


def test_clients_share_a_number_of_requests(port: int) -> None:
    report = drive("127.0.0.1", port, Stream((b"a", b"b"), clients=3, count=10))
    (outcome,) = report.outcomes
    assert (len(outcome.latencies_s), outcome.failures) == (10, {})
    assert outcome.rate == pytest.approx(10 / outcome.elapsed_s)


def test_an_endless_stream_ends_with_the_others_and_failures_are_counted(port: int) -> None:
    import_jobs, probe = Stream((b"a",), clients=2, count=None), Stream((b"ok", b"bad"), 1, count=6, pause_s=0.005)
    imported, probed = drive("127.0.0.1", port, import_jobs, probe).outcomes
    assert len(imported.latencies_s) > 0
    assert (len(probed.latencies_s), probed.failures) == (3, {503: 3})


def test_requests_of_an_interval_do_not_wait_for_answers(port: int) -> None:
    stream = Stream((b"a",), clients=4, count=5, interval_s=0.05)
    (outcome,) = drive("127.0.0.1", port, stream).outcomes
    assert len(outcome.latencies_s) == 5
    assert outcome.elapsed_s >= 4 * 0.05
