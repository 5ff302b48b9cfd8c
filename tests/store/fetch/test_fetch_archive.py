"""GitHub's way: a release that redirects to a zip of which two members are wanted."""

import hashlib
from pathlib import Path, PurePosixPath

import pytest
from hub_server import Page, Site, files_in, zipped

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.sources import BASES, Archive, Kind, Member, Preference, Source
from immich_ml_cn.store.fetch import FetchOptions, fetch_model

DETECTION = b"detect" * 5000
RECOGNITION = b"recognise" * 5000
URL = "/deepinsight/insightface/releases/download/v0.7/pack.zip"


@pytest.fixture
def site(site: Site) -> Site:
    site.add(URL, Page(status=302, headers={"Location": f"{site.other_host}/assets/pack.zip?sig=1"}))
    return site


@pytest.fixture
def options(site: Site) -> FetchOptions:
    bases = {Kind.GITHUB: site.base}
    return FetchOptions(preference=Preference(bases=bases), connect_timeout_s=1, stall_timeout_s=1.5, backoff_s=0.01)


def pack(data: bytes, *, nested: str = "", sha256: str | None = None) -> tuple[Source, ...]:
    digest = hashlib.sha256(RECOGNITION).hexdigest() if sha256 is None else sha256
    members = (
        Member(f"{nested}det.onnx", PurePosixPath("detection/model.onnx")),
        Member(f"{nested}rec.onnx", PurePosixPath("recognition/model.onnx"), digest, len(RECOGNITION)),
    )
    archive = Archive(BASES[Kind.GITHUB] + URL, members, hashlib.sha256(data).hexdigest(), len(data))
    return (Source(Kind.GITHUB, archive),)


@pytest.mark.parametrize("nested", ["", "antelopev2/"])
def test_the_wanted_members_land_in_immichs_layout(
    site: Site, options: FetchOptions, tmp_path: Path, nested: str
) -> None:
    members = {f"{nested}det.onnx": DETECTION, f"{nested}rec.onnx": RECOGNITION, f"{nested}age.onnx": b"no"}
    site.add("/assets/pack.zip", Page(zipped(members)))

    fetch_model(pack(zipped(members), nested=nested), tmp_path, options)

    assert files_in(tmp_path) == {"detection/model.onnx", "recognition/model.onnx"}
    assert (tmp_path / "detection/model.onnx").read_bytes() == DETECTION
    assert (tmp_path / "recognition/model.onnx").read_bytes() == RECOGNITION


def test_members_that_climb_out_stay_inside_the_archive(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    members = {"../evil": b"evil", "/etc/evil": b"evil", "det.onnx": DETECTION, "rec.onnx": RECOGNITION}
    site.add("/assets/pack.zip", Page(zipped(members)))

    fetch_model(pack(zipped(members)), folder, options)

    assert files_in(tmp_path) == {"a/b/detection/model.onnx", "a/b/recognition/model.onnx"}


def test_an_archive_without_a_member(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    data = zipped({"det.onnx": DETECTION})
    site.add("/assets/pack.zip", Page(data))

    with pytest.raises(Unavailable, match=r"archive without rec\.onnx"):
        fetch_model(pack(data), tmp_path, options)
    assert not (tmp_path / "detection").exists()


def test_a_member_with_other_bytes(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    data = zipped({"det.onnx": DETECTION, "rec.onnx": RECOGNITION})
    site.add("/assets/pack.zip", Page(data))

    with pytest.raises(Unavailable, match=r"wrong bytes for recognition/model\.onnx from rec\.onnx"):
        fetch_model(pack(data, sha256="0" * 64), tmp_path, options)


def test_something_that_is_no_archive(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    data = b"<html>not found, but 200</html>"
    site.add("/assets/pack.zip", Page(data))

    with pytest.raises(Unavailable, match="sent a broken archive"):
        fetch_model(pack(data), tmp_path, options)
    assert files_in(tmp_path) == set()


def test_an_archive_cut_at_60_percent_is_resumed(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    data = zipped({"det.onnx": DETECTION, "rec.onnx": RECOGNITION})
    site.add("/assets/pack.zip", Page(data, cut_at=0.6, cuts=1))

    fetch_model(pack(data), tmp_path, options)

    assert [request.start for request in site.gets("/assets/pack.zip")] == [None, int(len(data) * 0.6)]


def test_only_what_is_missing_is_placed(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    data = zipped({"det.onnx": DETECTION, "rec.onnx": RECOGNITION})
    site.add("/assets/pack.zip", Page(data))
    (tmp_path / "detection").mkdir()
    (tmp_path / "detection/model.onnx").write_bytes(b"mine")

    fetch_model(pack(data), tmp_path, options)

    assert (tmp_path / "detection/model.onnx").read_bytes() == b"mine"
    assert (tmp_path / "recognition/model.onnx").read_bytes() == RECOGNITION
