"""What disks, volumes and other processes do to a fetch. Most of it happens in processes of their own."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hub_server import Page, Site
from server import ROOT

from immich_ml_cn.sources import BASES, Kind, Preference, RemoteFile, Source
from immich_ml_cn.store.fetch import DiskFailed, FetchOptions, fetch_model, quarantine, times_quarantined

DATA = bytes(range(256)) * 4000
PATH = PurePosixPath("visual/model.onnx")
ADDRESS = "/models/a/b/resolve/master/model.onnx"

PROGRAM = """
import json, os, pathlib, resource, signal, sys
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.sources import Preference
from immich_ml_cn.store.fetch import FetchOptions, fetch_model
from immich_ml_cn.sources import BASES, Kind, RemoteFile, Source
base, folder, sha256, size, user, limit = json.loads(sys.argv[1])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
import httpx2, filelock, huggingface_hub
if user and os.getuid() == 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
path = pathlib.PurePosixPath("visual/model.onnx")
url = BASES[Kind.MODELSCOPE] + "/models/a/b/resolve/master/model.onnx"
source = Source(Kind.MODELSCOPE, (RemoteFile(path, url, sha256, size),))
options = FetchOptions(preference=Preference(bases={Kind.MODELSCOPE: base}), connect_timeout_s=2, backoff_s=0.01)
try:
    report = fetch_model([source], pathlib.Path(folder), options)
    print(json.dumps({"source": report.source, "bytes": report.bytes}))
except Unavailable as error:
    print(json.dumps({"kind": type(error).__name__, "message": str(error)}))
"""


@pytest.fixture
def site(site: Site) -> Site:
    site.add(ADDRESS, Page(DATA))
    return site


def start(
    site: Site,
    folder: Path,
    *,
    size: int | None = len(DATA),
    user: int | None = None,
    limit: int | None = None,
    mounts: str | None = None,
    base: str | None = None,
    env: dict[str, str] | None = None,
) -> "subprocess.Popen[str]":
    """A fetch in a process of its own.

    Args:
        user: the user id to become.
        limit: greatest size of a file in bytes.
        mounts: shell commands that run before, in a mount namespace of its own.
        base: what the address begins with instead of the site's.
        env: added to the environment.
    """
    arguments = json.dumps([base or site.base, str(folder), hashlib.sha256(DATA).hexdigest(), size, user, limit])
    command = [sys.executable, "-c", PROGRAM, arguments]
    if mounts is not None:
        command = ["unshare", "-rm", "sh", "-ec", f'{mounts}\nexec "$@"', "sh", *command]
    environ = {**os.environ, **(env or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT)


def result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    output, _ = process.communicate(timeout=30)
    answer: dict[str, Any] = json.loads(output)
    return answer


def fetch_here(site: Site, folder: Path) -> None:
    url = BASES[Kind.MODELSCOPE] + ADDRESS
    source = Source(Kind.MODELSCOPE, (RemoteFile(PATH, url, hashlib.sha256(DATA).hexdigest(), len(DATA)),))
    fetch_model([source], folder, FetchOptions(preference=Preference(bases={Kind.MODELSCOPE: site.base})))


@pytest.fixture
def can_mount() -> None:
    """Skips where mount namespaces are not permitted; each test that needs them has a sibling that does not."""
    try:
        probe = subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if probe.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {probe.stderr.strip()}")


def test_a_killed_fetch_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    site.pages[ADDRESS].trickle = (8192, 0.01)
    process = start(site, tmp_path / "m")
    deadline = time.monotonic() + 20
    while site.sent < len(DATA) // 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (part,) = (tmp_path / "m").rglob("*.part")
    here = part.stat().st_size
    assert not (tmp_path / "m" / PATH).exists()
    site.pages[ADDRESS].trickle = None

    fetch_here(site, tmp_path / "m")

    assert (tmp_path / "m" / PATH).read_bytes() == DATA
    assert site.gets(ADDRESS)[-1].start == here > 0


def test_two_processes_fetch_once(site: Site, tmp_path: Path) -> None:
    site.pages[ADDRESS].trickle = (len(DATA) // 40, 0.02)

    answers = [result(process) for process in [start(site, tmp_path / "m"), start(site, tmp_path / "m")]]

    assert [answer.get("message") for answer in answers] == [None, None]
    assert len(site.gets(ADDRESS)) == 1
    assert [answer["source"] for answer in answers].count(None) == 1
    assert sorted(answer["bytes"] for answer in answers) == [0, len(DATA)]
    assert (tmp_path / "m" / PATH).read_bytes() == DATA


def test_a_disk_too_small_is_refused_before_anything_is_asked_for(site: Site, tmp_path: Path, can_mount: None) -> None:
    answer = result(start(site, tmp_path / "m", mounts=f"mount -t tmpfs -o size=512k none {tmp_path}"))

    assert answer["kind"] == "DiskFailed"
    assert "needs 1 MB more" in answer["message"]
    assert site.gets(ADDRESS) == []


def test_a_disk_that_fills_up_is_one_sentence_and_is_freed_again(site: Site, tmp_path: Path, can_mount: None) -> None:
    """The size is not known before, and another model lies on the same volume."""
    other = f"{tmp_path}/other/visual"
    check = f"trap 'ls -R {tmp_path} > {tmp_path}.after; cat {other}/model.onnx >> {tmp_path}.after' EXIT"
    mounts = (
        f"mount -t tmpfs -o size=512k none {tmp_path}\n"
        f"mkdir -p {other}; echo precious > {other}/model.onnx\n"
        f"{check}\n"
        '"$@"\nexit'
    )
    answer = result(start(site, tmp_path / "m", size=None, mounts=mounts))

    assert answer["kind"] == "DiskFailed"
    assert answer["message"].startswith(f"no room to write {tmp_path}/m/.partial/visual-model.onnx")
    after = Path(f"{tmp_path}.after").read_text()
    assert "precious" in after
    assert ".part\n" not in after


def test_a_file_the_disk_does_not_take_is_one_sentence(site: Site, tmp_path: Path) -> None:
    """The sibling without a mount: the system refuses the byte after the limit."""
    (tmp_path / "other").write_bytes(b"precious")

    answer = result(start(site, tmp_path / "m", size=None, limit=len(DATA) // 2))

    assert answer["kind"] == "DiskFailed"
    assert "no room to write" in answer["message"]
    assert "nothing was deleted" in answer["message"]
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert list(tmp_path.rglob("*.part")) == []


def test_a_read_only_volume_says_what_to_do(site: Site, tmp_path: Path, can_mount: None) -> None:
    answer = result(start(site, tmp_path / "m", mounts=f"mount -t tmpfs -o ro none {tmp_path}"))

    assert answer["kind"] == "DiskFailed"
    assert "Read-only file system" in answer["message"]
    assert "make the cache folder writable" in answer["message"]
    assert site.requests == []


def test_a_read_only_volume_with_the_model_needs_nothing(site: Site, tmp_path: Path, can_mount: None) -> None:
    (tmp_path / "m" / PATH).parent.mkdir(parents=True)
    (tmp_path / "m" / PATH).write_bytes(b"here")
    mounts = f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}"

    assert result(start(site, tmp_path / "m", mounts=mounts)) == {"source": None, "bytes": 0}


def test_a_folder_of_somebody_else_says_what_to_do(site: Site) -> None:
    """The sibling without a mount: as a user who may only read."""
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        cache.chmod(0o555)
        answer = result(start(site, cache / "m", user=65534))
        cache.chmod(0o755)

    assert answer["kind"] == "DiskFailed"
    assert "Permission denied" in answer["message"]
    assert site.requests == []


def test_a_broken_file_is_set_aside_and_fetched_again(site: Site, tmp_path: Path) -> None:
    broken = tmp_path / "m" / PATH
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no graph")

    aside = quarantine(broken)
    fetch_here(site, tmp_path / "m")

    assert aside == broken.with_name("model.onnx.broken-1")
    assert aside.read_bytes() == b"no graph"
    assert broken.read_bytes() == DATA


def test_every_broken_file_is_kept_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for count in range(3):
        assert times_quarantined(path) == count
        path.write_bytes(b"%d" % count)
        quarantine(path)

    assert [(tmp_path / f"model.onnx.broken-{n}").read_bytes() for n in (1, 2, 3)] == [b"0", b"1", b"2"]


def test_setting_aside_what_cannot_be_renamed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match="cannot write"):
        quarantine(tmp_path / "absent.onnx")


def test_a_cache_that_may_not_even_be_read_is_one_sentence(site: Site) -> None:
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        cache.chmod(0)
        answer = result(start(site, cache / "m", user=65534))
        cache.chmod(0o755)

    assert answer["kind"] == "DiskFailed"
    assert f"cannot read {cache / 'm'}" in answer["message"]


def test_a_proxy_of_the_environment_is_used(site: Site, tmp_path: Path) -> None:
    site.add(f"http://modelscope.test{ADDRESS}", Page(DATA))
    env = {"HTTP_PROXY": site.base, "http_proxy": site.base, "NO_PROXY": "", "no_proxy": ""}

    answer = result(start(site, tmp_path / "m", base="http://modelscope.test", env=env))

    assert answer == {"source": "modelscope.test", "bytes": len(DATA)}


def test_two_threads_fetch_once(site: Site, tmp_path: Path) -> None:
    site.pages[ADDRESS].trickle = (len(DATA) // 20, 0.02)
    threads = [threading.Thread(target=fetch_here, args=(site, tmp_path / "m")) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(site.gets(ADDRESS)) == 1
    assert (tmp_path / "m" / PATH).read_bytes() == DATA
