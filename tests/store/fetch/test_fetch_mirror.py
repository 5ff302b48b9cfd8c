"""A public mirror of Hugging Face: asked only when all else fails and nobody has chosen, without a token, checked."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hub_server import Page, Site, files_in, running

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import Translator
from immich_ml_cn.sources import BASES, MIRRORS, HubSnapshot, Kind, Preference, RemoteFile, Source, sources_for
from immich_ml_cn.sources.tasks import ModelTask
from immich_ml_cn.store.fetch import FetchOptions, fetch_model

GRAPH = b"graph" * 1000
PATH = PurePosixPath("detection", "model.onnx")
ADDRESS = "/somebody/packs/resolve/abc/det.onnx"
HUB = Source(Kind.HUGGINGFACE, HubSnapshot("immich-app/faces", "main", ("detection/*",), (PATH,)))
GITHUB = Source(Kind.GITHUB, (RemoteFile(PATH, f"{BASES[Kind.GITHUB]}/x/det.onnx"),))
PLAIN = Source(
    Kind.HUGGINGFACE,
    (RemoteFile(PATH, BASES[Kind.HUGGINGFACE] + ADDRESS, hashlib.sha256(GRAPH).hexdigest(), len(GRAPH)),),
)


@pytest.fixture
def options(site: Site, monkeypatch: pytest.MonkeyPatch) -> FetchOptions:
    """Nothing but the mirror can be reached."""
    with running() as dead:
        pass
    monkeypatch.setattr(FetchOptions, "base", lambda self, kind: self.hf_endpoint or dead.base)
    return FetchOptions(hf_token="hf_secret", mirror=site.base, connect_timeout_s=1, backoff_s=0.01)


def test_a_mirror_is_the_last_resort_and_said_in_one_line(
    site: Site, options: FetchOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "immich_ml_cn.store.fetch")
    site.hub("immich-app/faces", {str(PATH): Page(GRAPH)})

    report = fetch_model((HUB, GITHUB), tmp_path, options)

    assert (tmp_path / PATH).read_bytes() == GRAPH
    assert report.source == site.base.removeprefix("http://")
    said = [record.getMessage() for record in caplog.records if "public mirror" in record.getMessage()]
    assert said == [
        f"{tmp_path.parent.name}/{tmp_path.name}: no source answers, so a public mirror is asked: {report.source}"
    ]
    assert not [request for request in site.requests if "authorization" in request.headers], "the token is not for it"


def test_files_whose_checksums_we_know_come_first(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.hub("immich-app/faces", {str(PATH): Page(b"other" * 1000)})
    site.add(ADDRESS, Page(GRAPH))

    fetch_model((HUB, GITHUB, PLAIN), tmp_path, options)

    assert (tmp_path / PATH).read_bytes() == GRAPH


def test_what_a_mirror_brings_is_refused_where_it_is_not_the_file(
    site: Site, options: FetchOptions, tmp_path: Path
) -> None:
    site.add(ADDRESS, Page(b"evil." * 1000))

    with pytest.raises(Unavailable, match="sent wrong bytes"):
        fetch_model((PLAIN,), tmp_path, options)
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(
    "chosen",
    [
        {"preference": Preference((Kind.HUGGINGFACE,))},
        {"preference": Preference(bases={Kind.GITHUB: "https://mirror.example"})},
        {"hf_endpoint": "https://mirror.example"},
        {"mirror": None},
    ],
)
def test_nobody_is_asked_who_was_not_chosen(chosen: dict[str, object]) -> None:
    assert FetchOptions().last_resort() is not None
    assert replace(FetchOptions(), **chosen).last_resort() is None  # type: ignore[arg-type]


def test_the_mirror_takes_hugging_faces_place_and_gets_no_token() -> None:
    mirrored = FetchOptions(hf_token="hf_secret").last_resort()
    assert mirrored is not None
    assert mirrored.base(Kind.HUGGINGFACE) == MIRRORS[Kind.HUGGINGFACE]
    assert mirrored.base(Kind.GITHUB) == BASES[Kind.GITHUB]
    assert mirrored.token is False


def test_the_default_faces_have_files_whose_checksums_are_known_before() -> None:
    plain = sources_for(ModelTask.FACES, "buffalo_l")[-1]
    assert plain.kind is Kind.HUGGINGFACE
    assert isinstance(plain.content, tuple)
    assert {str(file.path) for file in plain.content} == {"detection/model.onnx", "recognition/model.onnx"}
    assert all(file.sha256 and file.size for file in plain.content)


def test_a_failure_names_the_address_and_the_target_of_every_file(options: FetchOptions, tmp_path: Path) -> None:
    folder = tmp_path / "facial-recognition" / "buffalo_l"
    with pytest.raises(Unavailable) as caught:
        fetch_model(sources_for(ModelTask.FACES, "buffalo_l"), folder, replace(options, offline=True))
    for half in ("detection", "recognition"):
        target = folder / half / "model.onnx"
        assert f"https://huggingface.co/immich-app/buffalo_l/resolve/main/{half}/model.onnx → {target}" in str(
            caught.value
        )
    assert "禁止下载" in Translator("zh")(caught.value)


def test_a_file_in_an_archive_is_named_there(tmp_path: Path, options: FetchOptions) -> None:
    github = tuple(source for source in sources_for(ModelTask.FACES, "buffalo_s") if source.kind is Kind.GITHUB)
    with pytest.raises(Unavailable, match=r"det_500m.onnx in https://github.com/\S+/buffalo_s.zip → /\S+/model.onnx"):
        fetch_model(github, tmp_path, replace(options, offline=True))
