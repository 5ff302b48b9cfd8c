"""Which connection goes when there are too many, and files for those that stay."""

import logging
import resource
import subprocess
import sys

import pytest
from server import ROOT

from immich_ml_cn.web.connection_limiter import BACKLOG, HEADROOM, ConnectionLimiter


class FakeConnection:
    """Notes its number when it is closed."""

    def __init__(self, number: int, closed: list[int]) -> None:
        self._number = number
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self._number)


def connect(limiter: ConnectionLimiter, count: int, closed: list[int], first: int = 0) -> list[FakeConnection]:
    connections = [FakeConnection(number, closed) for number in range(first, first + count)]
    for connection in connections:
        limiter.add(connection)
    return connections


def test_beyond_the_limit_the_oldest_are_closed() -> None:
    closed: list[int] = []
    limiter = ConnectionLimiter(10)
    connect(limiter, 10 + HEADROOM, closed)
    assert closed == []
    connect(limiter, 3, closed, first=100)
    assert closed == [0, 1, 2], "those that have waited longest"
    assert len(limiter) == 10 + HEADROOM


def test_active_connections_stay_and_requests_beyond_the_limit_are_refused() -> None:
    closed: list[int] = []
    limiter = ConnectionLimiter(10)
    connections = connect(limiter, 12, closed)
    assert [limiter.activate(connection) for connection in connections] == [True] * 10 + [False] * 2
    assert limiter.activate(connections[0]), "a further request of an active connection"
    connect(limiter, HEADROOM + 5, closed, first=100)
    assert closed == [10, 11, 100, 101, 102, 103, 104], "none of the ten, and the newest stay"
    limiter.deactivate(connections[0])
    assert limiter.activate(FakeConnection(0, closed))


def test_new_connections_that_send_nothing_do_not_evict_idle_ones() -> None:
    closed: list[int] = []
    limiter = ConnectionLimiter(10)
    for connection in connect(limiter, 5, closed):
        assert limiter.activate(connection)
        limiter.deactivate(connection)
    connect(limiter, 1000, closed, first=100)
    assert min(closed) == 100
    assert len(limiter) == 10 + HEADROOM


def test_a_crowd_of_idle_connections_does_not_keep_new_ones_out() -> None:
    closed: list[int] = []
    limiter = ConnectionLimiter(10)
    for connection in connect(limiter, 10 + HEADROOM, closed):
        assert limiter.activate(connection)
        limiter.deactivate(connection)
    connect(limiter, 4, closed, first=100)
    assert closed == [0, 1, 2, 3]


def test_a_closed_connection_counts_no_longer() -> None:
    closed: list[int] = []
    limiter = ConnectionLimiter(1)
    first, second, third = connect(limiter, 3, closed)
    assert limiter.activate(first)
    assert not limiter.activate(second)
    limiter.remove(first)
    limiter.remove(first)
    assert limiter.activate(second)
    limiter.deactivate(third)
    assert len(limiter) == 2


def test_it_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    connect(ConnectionLimiter(1), 1000, [])
    (record,) = caplog.records
    assert "MACHINE_LEARNING_MAX_CONNECTIONS" in record.getMessage()


RAISED = """
import json, resource, sys
from immich_ml_cn.web.connection_limiter import max_active_for
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(json.dumps([max_active_for(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "possible", "raised"),
    [
        (256, 4000, 1000, 1000, 1000 + HEADROOM + BACKLOG + 200),
        (3000, 4000, 1000, 1000, 3000),
        (256, 1024, 4096, 1024 - HEADROOM - BACKLOG - 200, 1024),
        (100, 100, 4096, 1, 100),
    ],
)
def test_files_for_the_connections(soft: int, hard: int, wanted: int, possible: int, raised: int) -> None:
    """In a process of its own: what is lowered cannot be raised again. Docker's limits are 1024 and half a million."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this system allows fewer")
    command = [sys.executable, "-c", RAISED, str(soft), str(hard), str(wanted)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == f"[{possible}, {raised}, {hard}]\n"
    assert ("ulimit -n" in answer.stderr) == (possible < wanted)
