"""Photos by the minute."""

from serving_fakes import Clock

from immich_ml_cn.serving.last_hour import MINUTES, LastHour


def photos(hour: LastHour) -> list[int]:
    return [minute["photos"] for minute in hour.minutes()]


def test_photos_are_counted_in_their_minute() -> None:
    clock = Clock()
    hour = LastHour(clock)
    hour.count_photo(3)
    hour.count_photo(1)
    clock.now += 60
    hour.count_photo(0)
    assert photos(hour) == [0] * (MINUTES - 2) + [2, 1]
    assert [minute["queue"] for minute in hour.minutes()][-2:] == [3, 0]


def test_minutes_without_photos_are_empty() -> None:
    clock = Clock()
    hour = LastHour(clock)
    hour.count_photo(0)
    clock.now += 5 * 60
    assert photos(hour)[-6:] == [1, 0, 0, 0, 0, 0]


def test_after_an_hour_everything_is_forgotten() -> None:
    clock = Clock()
    hour = LastHour(clock)
    hour.count_photo(9)
    clock.now += 100_000 * 60
    assert hour.minutes() == [{"photos": 0, "queue": 0}] * MINUTES
