"""One file from a plain address (ModelScope's way): what servers do to it, and what is left on the disk."""

import hashlib
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path, PurePosixPath

import pytest
from hub_server import Page, Site, files_in, running

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.sources import BASES, Kind, Preference, RemoteFile, Source
from immich_ml_cn.store.fetch import (
    Cancelled,
    FetchOptions,
    FetchReport,
    HostHealth,
    NullProgress,
    ProgressState,
    fetch_model,
)
from immich_ml_cn.store.fetch.host_health import MAX_BACKOFF_S
from immich_ml_cn.store.fetch.transfer import refused

DATA = bytes(range(256)) * 2000
PATH = PurePosixPath("visual/model.onnx")
ADDRESS = "/models/a/b/resolve/master/model.onnx"


@pytest.fixture
def options(site: Site) -> FetchOptions:
    return FetchOptions(
        preference=Preference(bases={Kind.MODELSCOPE: site.base}),
        connect_timeout_s=1,
        stall_timeout_s=1.5,
        min_bytes_per_s=4000,
        max_retries=3,
        max_retry_after_s=0.3,
        backoff_s=0.01,
    )


def one_file(*, sha256: bool = True, address: str = ADDRESS) -> tuple[Source, ...]:
    digest = hashlib.sha256(DATA).hexdigest() if sha256 else None
    size = len(DATA) if sha256 else None
    return (Source(Kind.MODELSCOPE, (RemoteFile(PATH, BASES[Kind.MODELSCOPE] + address, digest, size),)),)


def fetch(folder: Path, options: FetchOptions, *, sha256: bool = True) -> FetchReport:
    return fetch_model(one_file(sha256=sha256), folder, options)


def test_a_file_arrives_and_nothing_else_stays(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA))

    report = fetch(tmp_path / "clip" / "m", options)

    assert (tmp_path / "clip" / "m" / PATH).read_bytes() == DATA
    assert files_in(tmp_path / "clip" / "m") == {str(PATH)}
    assert (report.source, report.bytes) == (site.base.removeprefix("http://"), len(DATA))
    assert report.files == (tmp_path / "clip" / "m" / PATH,)


def test_what_is_there_is_neither_asked_for_nor_changed(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    (tmp_path / "visual").mkdir()
    (tmp_path / PATH).write_bytes(b"placed by hand")

    assert fetch(tmp_path, options).source is None
    assert (tmp_path / PATH).read_bytes() == b"placed by hand"
    assert site.requests == []


def test_a_redirect_to_another_host_is_followed(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(status=302, headers={"Location": f"{site.other_host}/cdn/x"}))
    site.add("/cdn/x", Page(DATA))

    fetch(tmp_path, options)

    assert (tmp_path / PATH).read_bytes() == DATA
    assert site.gets("/cdn/x")[0].headers["host"].startswith("localhost")


@pytest.mark.parametrize("target", ["ftp://localhost/x", "file:///etc/passwd"])
def test_a_redirect_away_from_http_is_not(site: Site, options: FetchOptions, tmp_path: Path, target: str) -> None:
    site.add(ADDRESS, Page(status=302, headers={"Location": target}))

    with pytest.raises(Unavailable, match="place we do not go"):
        fetch(tmp_path, options)


@pytest.mark.parametrize("sha256", [True, False])
def test_a_cut_connection_is_resumed_where_it_broke(
    site: Site, options: FetchOptions, tmp_path: Path, sha256: bool
) -> None:
    site.add(ADDRESS, Page(DATA, cut_at=0.6, cuts=1, etag='"v1"'))

    fetch(tmp_path, options, sha256=sha256)

    assert (tmp_path / PATH).read_bytes() == DATA
    assert [request.start for request in site.gets(ADDRESS)] == [None, int(len(DATA) * 0.6)]
    assert site.sent == len(DATA)


def test_a_resume_the_server_ignores_begins_again(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, cut_at=0.6, cuts=1, ranges=False))

    fetch(tmp_path, options)

    assert (tmp_path / PATH).read_bytes() == DATA


def test_a_resume_from_another_byte_than_asked_begins_again(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, cut_at=0.6, cuts=1, etag='"v1"', range_slip=7))

    fetch(tmp_path, options, sha256=False)

    assert (tmp_path / PATH).read_bytes() == DATA


def test_a_file_placed_while_it_arrives_wins(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    class Impatient(NullProgress):
        def start(self, file: str, done: int, total: int | None) -> None:
            (tmp_path / PATH).parent.mkdir()
            (tmp_path / PATH).write_bytes(b"placed by hand")

    site.add(ADDRESS, Page(DATA))

    report = fetch_model(one_file(), tmp_path, options, Impatient())

    assert (tmp_path / PATH).read_bytes() == b"placed by hand"
    assert report.files == ()


def test_a_file_that_changed_meanwhile_is_not_glued_together(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    old, new = Page(DATA, cut_at=0.1, etag='"v1"'), Page(DATA[::-1], etag='"v2"')
    site.add(ADDRESS, old)
    with pytest.raises(Unavailable, match="was cut"):
        fetch(tmp_path, options, sha256=False)
    site.add(ADDRESS, new)

    fetch(tmp_path, options, sha256=False)

    assert (tmp_path / PATH).read_bytes() == DATA[::-1]


def test_a_part_without_proof_of_its_version_is_thrown_away(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, cut_at=0.2, cuts=1))

    fetch(tmp_path, options, sha256=False)

    assert (tmp_path / PATH).read_bytes() == DATA
    assert [request.start for request in site.gets(ADDRESS)] == [None, None]


def test_cuts_without_end_are_given_up_but_kept_for_the_next_time(
    site: Site, options: FetchOptions, tmp_path: Path
) -> None:
    page = Page(DATA, cut_at=0.1)
    site.add(ADDRESS, page)

    with pytest.raises(Unavailable, match="was cut 4 times"):
        fetch(tmp_path, options)
    assert not (tmp_path / PATH).exists()
    page.cut_at = None
    fetch(tmp_path, options)

    assert (tmp_path / PATH).read_bytes() == DATA
    assert site.gets(ADDRESS)[-1].start == 4 * int(len(DATA) * 0.1)


def test_a_slow_but_steady_source_is_waited_for(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, trickle=(len(DATA) // 40, 0.05)))

    assert fetch(tmp_path, options).seconds > options.stall_timeout_s


def test_a_trickle_counts_as_a_stall(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, trickle=(1, 0.05)))

    with pytest.raises(Unavailable, match=r"stalled while sending .*visual/model\.onnx"):
        fetch(tmp_path, options)


def test_a_stalled_connection_is_left_for_the_next_source(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, stall_after=1000))
    site.add("/second", Page(DATA))
    begun = time.monotonic()

    fetch_model((*one_file(), *one_file(address="/second")), tmp_path, options)

    assert (tmp_path / PATH).read_bytes() == DATA
    assert time.monotonic() - begun < 8, "the connection stays for ten seconds"
    assert site.gets("/second")[0].start == 1000, "what the first source sent is not asked for again"


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final_and_named(site: Site, options: FetchOptions, tmp_path: Path, status: int) -> None:
    site.add(ADDRESS, Page(DATA, status=status))

    with pytest.raises(Unavailable, match=f"127.0.0.1.*{status}.*MACHINE_LEARNING_MODEL_SOURCE.*visual/model.onnx"):
        fetch(tmp_path, options)
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(site: Site, options: FetchOptions, tmp_path: Path, status: int) -> None:
    site.add(ADDRESS, Page(DATA, status=status, bad_answers=2, headers={"Retry-After": "0"}))

    fetch(tmp_path, options)

    assert len(site.gets(ADDRESS)) == 3


def test_a_busy_server_is_not_asked_forever(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, status=500))

    with pytest.raises(Unavailable, match="answers 500"):
        fetch(tmp_path, options)
    assert len(site.requests) == 3


def test_a_long_retry_after_is_passed_on_instead_of_waited_for(
    site: Site, options: FetchOptions, tmp_path: Path
) -> None:
    site.add(ADDRESS, Page(DATA, status=429, headers={"Retry-After": "77"}))

    with pytest.raises(Unavailable, match="slow down") as caught:
        fetch(tmp_path, options)
    assert caught.value.retry_after == 77
    assert len(site.requests) == 1


def test_a_retry_after_of_a_day_is_capped(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, status=429, headers={"Retry-After": "86400"}))

    with pytest.raises(Unavailable) as caught:
        fetch(tmp_path, options)
    assert caught.value.retry_after == MAX_BACKOFF_S


def test_a_retry_after_counts_for_its_source_only(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    """The others are asked again as before; the one that wants to be left alone is not, until its time is over."""
    now = 0.0
    health = HostHealth(lambda: now)
    with running() as other:
        preference = Preference(bases={Kind.MODELSCOPE: site.base, Kind.GITHUB: other.base})
        options = replace(options, preference=preference)
        site.add(ADDRESS, Page(DATA, status=503, headers={"Retry-After": "86400"}))
        sources = (*one_file(), Source(Kind.GITHUB, (RemoteFile(PATH, f"{BASES[Kind.GITHUB]}/m"),)))
        with pytest.raises(Unavailable) as caught:
            fetch_model(sources, tmp_path, options, host_health=health)
        assert caught.value.retry_after == 60, "the other source may have it by then"

        site.add(ADDRESS, Page(DATA))
        now = 60.0
        with pytest.raises(Unavailable, match=f"asked us to wait, for {MAX_BACKOFF_S - 60} s more"):
            fetch_model(sources, tmp_path, options, host_health=health)
        assert (len(site.requests), len(other.requests)) == (1, 2)

        now = float(MAX_BACKOFF_S)
        fetch_model(sources, tmp_path, options, host_health=health)
    assert (tmp_path / PATH).read_bytes() == DATA


@pytest.mark.parametrize("value", ["²", "٣", "-1", "9" * 5000, "Mon, 01 Jan 99999 00:00:00 GMT", "soon", ""])
def test_a_retry_after_that_is_no_number_of_seconds_is_none(value: str) -> None:
    assert refused(503, {"Retry-After": value}).retry_after is None


@pytest.mark.parametrize("status", [404, 500])
def test_a_fetch_that_brings_nothing_leaves_nothing(
    site: Site, options: FetchOptions, tmp_path: Path, status: int
) -> None:
    site.add(ADDRESS, Page(DATA, status=status, etag='"one"'))
    folder = tmp_path / "clip" / "m"

    with pytest.raises(Unavailable):
        fetch(folder, options, sha256=False)
    assert [path.name for path in (tmp_path / "clip").rglob("*")] == [".m.lock"]


def test_each_reason_is_said_once(
    site: Site, options: FetchOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By whoever answers the request: the failure has them all."""
    site.add(ADDRESS, Page(DATA, status=404))

    with pytest.raises(Unavailable, match="does not have it"):
        fetch(tmp_path, options)
    assert "does not have it" not in caplog.text


def test_wrong_bytes_are_thrown_away_and_the_next_source_is_tried(
    site: Site, options: FetchOptions, tmp_path: Path
) -> None:
    site.add(ADDRESS, Page(DATA[::-1]))
    with pytest.raises(Unavailable, match=r"wrong bytes for .*visual/model\.onnx"):
        fetch(tmp_path, options)
    assert files_in(tmp_path) == set()
    site.add("/second", Page(DATA))

    fetch_model((*one_file(), *one_file(address="/second")), tmp_path, options)

    assert (tmp_path / PATH).read_bytes() == DATA


@pytest.mark.parametrize("wrong", [DATA[:-1], DATA + b"x"])
def test_too_few_or_too_many_bytes_are_refused(site: Site, options: FetchOptions, tmp_path: Path, wrong: bytes) -> None:
    site.add(ADDRESS, Page(wrong))

    with pytest.raises(Unavailable, match="bytes of"):
        fetch(tmp_path, options)
    assert files_in(tmp_path) == set()


def test_a_refused_connection_is_one_sentence(options: FetchOptions, tmp_path: Path) -> None:
    with running() as closed:
        pass
    options = replace(options, preference=Preference(bases={Kind.MODELSCOPE: closed.base}))

    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        fetch(tmp_path, options)
    assert caught.value.retry_after == 60


def test_a_host_that_never_accepts_costs_the_connect_timeout(options: FetchOptions, tmp_path: Path) -> None:
    """192.0.2.0/24 answers nobody: either the route is missing or the connection times out."""
    options = replace(options, preference=Preference(bases={Kind.MODELSCOPE: "http://192.0.2.1"}))
    begun = time.monotonic()

    with pytest.raises(Unavailable, match=r"did not answer within 1 s|cannot be reached"):
        fetch(tmp_path, options)
    assert time.monotonic() - begun < 20


def test_tls_expected_where_there_is_none(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA))
    https = Preference(bases={Kind.MODELSCOPE: site.base.replace("http", "https")})

    with pytest.raises(Unavailable, match="has no working TLS"):
        fetch(tmp_path, replace(options, preference=https))


def test_stopping_keeps_what_has_arrived(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, trickle=(2000, 0.02)))
    cancelled, tally = threading.Event(), ProgressState()
    timer = threading.Timer(0.3, cancelled.set)
    timer.start()
    begun = time.monotonic()

    with pytest.raises(Cancelled):
        fetch_model(one_file(), tmp_path, options, tally, cancelled)

    timer.join()
    assert time.monotonic() - begun < 4, "the file takes five seconds"
    assert tally.now is None
    parts = list(tmp_path.rglob("*.part"))
    assert len(parts) == 1
    assert parts[0].read_bytes() == DATA[: parts[0].stat().st_size] != b""


def test_offline_never_connects(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"fetching is switched off; place http\S+ → \S+/visual/model\.onnx$"):
        fetch(tmp_path, replace(options, offline=True))
    assert site.requests == []


def test_a_model_nobody_offers(options: FetchOptions, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="export it and place it in"):
        fetch_model((), tmp_path / "clip" / "chinese-clip-rn50", options)


def test_a_wrong_part_from_before_does_not_spoil_a_good_source(
    site: Site, options: FetchOptions, tmp_path: Path
) -> None:
    site.add(ADDRESS, Page(DATA[::-1], stall_after=5000))
    with pytest.raises(Unavailable, match="stalled"):
        fetch(tmp_path, options)
    site.add(ADDRESS, Page(DATA))

    fetch(tmp_path, options)

    assert (tmp_path / PATH).read_bytes() == DATA
    assert [request.start for request in site.gets(ADDRESS)] == [None, 5000, None]


def test_a_retry_after_may_be_a_date(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    site.add(ADDRESS, Page(DATA, status=503, headers={"Retry-After": date}))

    with pytest.raises(Unavailable) as caught:
        fetch(tmp_path, options)
    assert caught.value.retry_after is not None
    assert 290 <= caught.value.retry_after <= 300


def test_a_retry_after_nobody_can_read_is_ignored(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.add(ADDRESS, Page(DATA, status=503, bad_answers=1, headers={"Retry-After": "soon"}))

    assert fetch(tmp_path, options).bytes == len(DATA)


@pytest.mark.parametrize("sha256", [True, False])
def test_a_part_that_lacks_only_its_name_is_not_sent_again(
    site: Site, options: FetchOptions, tmp_path: Path, sha256: bool
) -> None:
    class Dies(ProgressState):
        def advance(self, count: int) -> None:
            super().advance(count)
            if self.now is not None and self.now.done == len(DATA):
                raise KeyboardInterrupt

    site.add(ADDRESS, Page(DATA, etag='"v1"'))
    with pytest.raises(KeyboardInterrupt):
        fetch_model(one_file(sha256=sha256), tmp_path, options, Dies())

    fetch(tmp_path, options, sha256=sha256)

    assert (tmp_path / PATH).read_bytes() == DATA
    assert site.sent == len(DATA)
