"""Which connection goes when there are too many, and files for those that stay."""

import logging
import resource
import subprocess
import sys

import pytest
from server import ROOT

from immich_ml_cn.web.connection_limiter import BACKLOG, DOORSTEP, Room


class Connected:
    """A connection as the room sees it."""

    def __init__(self, number: int, gone: list[int]) -> None:
        self._number = number
        self._gone = gone

    def dismiss(self) -> None:
        self._gone.append(self._number)


def entering(room: Room, count: int, gone: list[int], first: int = 0) -> list[Connected]:
    guests = [Connected(number, gone) for number in range(first, first + count)]
    for guest in guests:
        room.enter(guest)
    return guests


def test_there_is_room_for_so_many_and_no_more() -> None:
    gone: list[int] = []
    room = Room(10)
    entering(room, 10 + DOORSTEP, gone)
    assert gone == []
    entering(room, 3, gone, first=100)
    assert gone == [0, 1, 2], "those that have waited longest"
    assert len(room) == 10 + DOORSTEP


def test_who_is_at_work_stays_and_who_brings_more_is_refused() -> None:
    gone: list[int] = []
    room = Room(10)
    guests = entering(room, 12, gone)
    assert [room.work(guest) for guest in guests] == [True] * 10 + [False] * 2
    assert room.work(guests[0]), "a further request of one that is at work"
    entering(room, DOORSTEP + 5, gone, first=100)
    assert gone == [10, 11, 100, 101, 102, 103, 104], "none of the ten, and the newest stay"
    room.rest(guests[0])
    assert room.work(Connected(0, gone))


def test_silent_strangers_do_not_drive_out_who_rests() -> None:
    gone: list[int] = []
    room = Room(10)
    for guest in entering(room, 5, gone):
        assert room.work(guest)
        room.rest(guest)
    entering(room, 1000, gone, first=100)
    assert min(gone) == 100
    assert len(room) == 10 + DOORSTEP


def test_a_crowd_that_rests_does_not_keep_strangers_out() -> None:
    gone: list[int] = []
    room = Room(10)
    for guest in entering(room, 10 + DOORSTEP, gone):
        assert room.work(guest)
        room.rest(guest)
    entering(room, 4, gone, first=100)
    assert gone == [0, 1, 2, 3]


def test_who_is_gone_leaves_room_at_once() -> None:
    gone: list[int] = []
    room = Room(1)
    first, second, third = entering(room, 3, gone)
    assert room.work(first)
    assert not room.work(second)
    room.leave(first)
    room.leave(first)
    assert room.work(second)
    room.rest(third)
    assert len(room) == 2


def test_it_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    entering(Room(1), 1000, [])
    (record,) = caplog.records
    assert "MACHINE_LEARNING_MAX_CONNECTIONS" in record.getMessage()


RAISED = """
import json, resource, sys
from immich_ml_cn.web.connection_limiter import seats_for
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(json.dumps([seats_for(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "seats", "raised"),
    [
        (256, 4000, 1000, 1000, 1000 + DOORSTEP + BACKLOG + 200),
        (3000, 4000, 1000, 1000, 3000),
        (256, 1024, 4096, 1024 - DOORSTEP - BACKLOG - 200, 1024),
        (100, 100, 4096, 1, 100),
    ],
)
def test_files_for_the_connections(soft: int, hard: int, wanted: int, seats: int, raised: int) -> None:
    """In a process of its own: what is lowered cannot be raised again. Docker's limits are 1024 and half a million."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this system allows fewer")
    command = [sys.executable, "-c", RAISED, str(soft), str(hard), str(wanted)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == f"[{seats}, {raised}, {hard}]\n"
    assert ("ulimit -n" in answer.stderr) == (seats < wanted)
