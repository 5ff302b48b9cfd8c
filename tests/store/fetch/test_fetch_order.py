"""Which source is tried first, with which address, and what is remembered."""

import logging
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from hub_server import Page, running
from server import ROOT

from immich_ml_cn.settings.addresses import parse_preference
from immich_ml_cn.sources import BASES, Kind, Preference, RemoteFile, Source, sources_for
from immich_ml_cn.sources.tasks import ModelTask
from immich_ml_cn.store.fetch import FetchOptions, HostHealth, fetch_model

HF, MS, GH = Kind.HUGGINGFACE, Kind.MODELSCOPE, Kind.GITHUB


def source(kind: Kind, path: str) -> Source:
    return Source(kind, (RemoteFile(PurePosixPath("model.onnx"), f"{BASES[kind]}/{path}"),))


@pytest.mark.parametrize(
    ("text", "order", "bases"),
    [
        ("", (), {}),
        ("auto", (), {}),
        ("modelscope", (MS,), {}),
        ("github, modelscope", (GH, MS), {}),
        ("https://hf-mirror.com/", (HF,), {HF: "https://hf-mirror.com"}),
        ("huggingface=https://hf-mirror.com", (HF,), {HF: "https://hf-mirror.com"}),
        (
            "modelscope,github=https://proxy.example/https://github.com",
            (MS, GH),
            {GH: "https://proxy.example/https://github.com"},
        ),
    ],
)
def test_what_a_person_writes(text: str, order: tuple[Kind, ...], bases: dict[Kind, str]) -> None:
    assert parse_preference(text) == Preference(order, bases)


@pytest.mark.parametrize("text", ["hugingface", "github=ftp://x", "modelscope=https://"])
def test_what_nobody_can_mean(text: str) -> None:
    with pytest.raises(ValueError, match=r"one of auto|addresses of http or https"):
        parse_preference(text)


def test_a_mirror_replaces_only_the_beginning_of_an_address() -> None:
    options = FetchOptions(parse_preference("github=https://proxy.example/https://github.com"))

    assert options.address(GH, f"{BASES[GH]}/a/b.zip") == "https://proxy.example/https://github.com/a/b.zip"
    assert options.address(MS, f"{BASES[MS]}/a") == f"{BASES[MS]}/a"


def test_the_preference_wins_over_hf_endpoint() -> None:
    chosen = FetchOptions(parse_preference("https://one.example"), hf_endpoint="https://two.example/")

    assert chosen.base(HF) == "https://one.example"
    assert FetchOptions(hf_endpoint="https://two.example/").base(HF) == "https://two.example"


def test_named_sources_come_first_and_the_others_follow() -> None:
    sources = sources_for(ModelTask.FACES, "buffalo_l")
    assert [s.kind for s in HostHealth().order(sources, FetchOptions())] == [HF, GH, HF]

    for text, order in {"github": [GH, HF, HF], "modelscope": [HF, GH, HF]}.items():
        options = FetchOptions(parse_preference(text))
        assert [s.kind for s in HostHealth().order(sources, options)] == order


def test_auto_puts_hosts_that_did_not_answer_last_until_they_do() -> None:
    host_health, sources = HostHealth(), (source(HF, "a"), source(MS, "a"), source(GH, "a"))

    assert host_health.record("huggingface.co", False)
    assert not host_health.record("huggingface.co", False), "no news"
    assert [s.kind for s in host_health.order(sources, FetchOptions())] == [MS, GH, HF]
    assert host_health.record("huggingface.co", True)
    assert [s.kind for s in host_health.order(sources, FetchOptions())] == [HF, MS, GH]


def test_auto_remembers_what_answered_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "immich_ml_cn.store.fetch")
    host_health = HostHealth()
    with running() as dead:
        pass
    with running() as site:
        site.add("/one", Page(b"1"))
        site.add("/two", Page(b"2"))
        options = FetchOptions(Preference(bases={MS: dead.base, GH: site.base}), connect_timeout_s=1)
        for name in ("one", "two"):
            fetch_model((source(MS, name), source(GH, name)), tmp_path / name, options, host_health=host_health)

        host = site.base.removeprefix("http://")
    lines = [record.message for record in caplog.records]
    assert lines.count(f"{host} answers: fetching from there") == 1
    assert sum("cannot be reached" in line for line in lines) == 1, "the dead host was tried only once"
    assert repr(host_health) == f"<HostHealth {{'{dead.base.removeprefix('http://')}': False, '{host}': True}}>"


def test_a_host_that_only_stalls_is_tried_last_from_then_on(tmp_path: Path) -> None:
    host_health = HostHealth()
    with running() as slow, running() as site:
        slow.add("/one", Page(b"1" * 5000, stall_after=10))
        site.add("/one", Page(b"1" * 5000))
        site.add("/two", Page(b"2"))
        options = FetchOptions(Preference(bases={MS: slow.base, GH: site.base}), stall_timeout_s=1.5)
        for name in ("one", "two"):
            fetch_model((source(MS, name), source(GH, name)), tmp_path / name, options, host_health=host_health)

        assert [request.path for request in slow.requests] == ["/one"]
    assert (tmp_path / "one" / "model.onnx").read_bytes() == b"1" * 5000


def test_importing_brings_in_nothing_heavy() -> None:
    heavy = "{'httpx2', 'huggingface_hub', 'yaml', 'tqdm', 'filelock', 'requests'}"
    code = f"import sys, immich_ml_cn.store.fetch; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"

    root = ROOT
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
