"""Hugging Face: its own library against a server that behaves like the hub."""

import hashlib
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hub_server import Page, Site, files_in, running

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.sources import HubSnapshot, Kind, Source, sources_for
from immich_ml_cn.sources.tasks import Component, ModelTask
from immich_ml_cn.store.fetch import FetchOptions, fetch_model

NAME = "ViT-B-32__openai"
REPO = f"immich-app/{NAME}"
GRAPH = bytes(range(256)) * 1000
FILES = {
    "config.json": b'{"text_cfg": {"context_length": 77}}',
    "visual/model.onnx": GRAPH,
    "visual/preprocess_cfg.json": b"{}",
    "visual/model.armnn": b"a" * 5000,
    "visual/fp16/model.armnn": b"b" * 5000,
    "textual/model.onnx": GRAPH[::-1],
    "textual/tokenizer.json": b"{}" * 600,
    "textual/tokenizer_config.json": b"{ }",
    "README.md": b"# readme",
}


@pytest.fixture
def options(site: Site) -> FetchOptions:
    return FetchOptions(
        hf_endpoint=site.base,
        hf_token="hf_secret",
        connect_timeout_s=1,
        stall_timeout_s=1.5,
        min_bytes_per_s=4000,
        max_retries=3,
        max_retry_after_s=0.2,
        backoff_s=0.01,
    )


def serve(site: Site, *, revision: str = "main", **pages: Page) -> str:
    return site.hub(REPO, {name: pages.get(name, Page(data)) for name, data in FILES.items()}, revision=revision)


def cdn(data: bytes) -> str:
    return f"/cdn/{hashlib.sha256(data).hexdigest()}"


def test_a_clip_model_arrives_without_what_other_devices_need(
    site: Site, options: FetchOptions, tmp_path: Path
) -> None:
    serve(site)

    report = fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)

    wanted = {name for name in FILES if "armnn" not in name and name != "README.md"}
    assert files_in(tmp_path) == wanted
    assert all((tmp_path / name).read_bytes() == FILES[name] for name in wanted)
    assert report.source == site.base.removeprefix("http://")


def test_one_half_leaves_the_other_where_it_is(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    serve(site)

    fetch_model(sources_for(ModelTask.CLIP, NAME, Component.VISUAL), tmp_path, options)

    assert files_in(tmp_path) == {"config.json", "visual/model.onnx", "visual/preprocess_cfg.json"}


def test_the_files_are_those_of_one_commit(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    commit = serve(site, revision="v2")

    fetch_model(sources_for(ModelTask.CLIP, NAME, revision="v2"), tmp_path / "v2", options)

    assert (tmp_path / "v2" / "visual" / "model.onnx").read_bytes() == GRAPH
    resolved = [request.path for request in site.requests if "/resolve/" in request.path]
    assert all(f"/resolve/{commit}/" in path for path in resolved)
    assert len(resolved) == 6


def test_the_token_goes_to_the_hub_and_not_to_its_file_host(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    serve(site)

    fetch_model(sources_for(ModelTask.CLIP, NAME, Component.VISUAL), tmp_path, options)

    sent = {request.path: request.headers.get("authorization") for request in site.requests}
    assert sent.pop(cdn(GRAPH)) is None
    assert set(sent.values()) == {"Bearer hf_secret"}


def test_big_files_are_checked_against_the_hubs_sha256(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    serve(site)
    site.pages[cdn(GRAPH)].data = GRAPH[:-1] + b"x"

    with pytest.raises(Unavailable, match=r"wrong bytes for .*visual/model\.onnx"):
        fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)
    assert not (tmp_path / "visual").exists()


def test_small_files_are_checked_against_their_git_object(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    commit = serve(site)
    site.pages[f"/{REPO}/resolve/{commit}/config.json"].data = b'{"text_cfg": {"context_length": 99}}'

    with pytest.raises(Unavailable, match=r"wrong bytes for .*config\.json"):
        fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)


def test_nothing_is_visible_before_everything_is_there(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    """Or a graph without its tokenizer would look like a model."""
    commit = serve(site)
    site.pages[f"/{REPO}/resolve/{commit}/textual/tokenizer_config.json"].status = 403

    with pytest.raises(Unavailable, match="403"):
        fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)
    assert all(name.startswith(".partial/") for name in files_in(tmp_path))
    site.pages[f"/{REPO}/resolve/{commit}/textual/tokenizer_config.json"].status = 200
    fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)

    assert len(site.gets(cdn(GRAPH))) == 1, "what had arrived is not fetched again"
    assert (tmp_path / "textual" / "tokenizer_config.json").read_bytes() == b"{ }"


def test_a_cut_is_resumed(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    serve(site)
    site.pages[cdn(GRAPH)].cut_at, site.pages[cdn(GRAPH)].cuts = 0.6, 1

    fetch_model(sources_for(ModelTask.CLIP, NAME, Component.VISUAL), tmp_path, options)

    assert [request.start for request in site.gets(cdn(GRAPH))] == [None, int(len(GRAPH) * 0.6)]
    assert (tmp_path / "visual" / "model.onnx").read_bytes() == GRAPH


@pytest.mark.parametrize(("status", "reason"), [(401, "token"), (404, "does not have it"), (500, "answers 500")])
def test_a_hub_that_refuses(site: Site, options: FetchOptions, tmp_path: Path, status: int, reason: str) -> None:
    serve(site)
    site.pages[f"/api/models/{REPO}/revision/main"].status = status

    with pytest.raises(Unavailable, match=reason):
        fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)
    assert len(site.requests) == 1


def test_a_hub_that_is_something_else(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    """A captive portal answers everything with a friendly page."""
    site.add(f"/api/models/{REPO}/revision/main", Page(b"<html>please log in</html>"))

    with pytest.raises(Unavailable, match="does not answer like Hugging Face"):
        fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)


def test_a_hub_that_never_answers(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    serve(site)
    site.pages[f"/api/models/{REPO}/revision/main"].stall_after = 0

    with pytest.raises(Unavailable, match="did not answer within 1 s"):
        fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)


def test_a_repository_without_the_graph(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.hub(REPO, {"config.json": Page(b"{}")})

    with pytest.raises(Unavailable, match=r"without visual/model\.onnx"):
        fetch_model(sources_for(ModelTask.CLIP, NAME), tmp_path, options)


def test_a_name_that_climbs_out_is_not_fetched(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.hub(REPO, {"visual/../../evil": Page(b"evil"), "visual/model.onnx": Page(GRAPH)})
    snapshot = HubSnapshot(REPO, "main", ("visual/*",), (PurePosixPath("visual/model.onnx"),))

    fetch_model([Source(Kind.HUGGINGFACE, snapshot)], tmp_path / "a" / "b", options)

    assert files_in(tmp_path) == {"a/b/visual/model.onnx"}


def test_another_checkpoint_than_the_official_one_is_refused(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    site.hub(REPO, {"clip_cn.pt": Page(GRAPH)})
    path = PurePosixPath("clip_cn.pt")
    snapshot = HubSnapshot(REPO, "main", ("clip_cn.pt",), (path,), (), (("clip_cn.pt", "0" * 64),))

    with pytest.raises(Unavailable, match=r"another clip_cn\.pt than the official one"):
        fetch_model([Source(Kind.HUGGINGFACE, snapshot)], tmp_path, options)
    assert site.gets(cdn(GRAPH)) == []


def test_the_hub_is_left_for_the_next_source(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    """Faces: Hugging Face is down, the release on GitHub is not."""
    with running() as closed:
        pass

    with pytest.raises(Unavailable, match=r"cannot be reached.*; github\.test.* "):
        fetch_model(
            sources_for(ModelTask.FACES, "buffalo_s"),
            tmp_path,
            replace(
                options,
                hf_endpoint=closed.base,
                preference=replace(options.preference, bases={Kind.GITHUB: "http://github.test.invalid"}),
            ),
        )


def test_the_server_of_these_tests_is_one_the_hubs_own_download_accepts(site: Site, tmp_path: Path) -> None:
    """Else the tests above would prove little."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    serve(site)
    disable_progress_bars()

    snapshot_download(REPO, endpoint=site.base, local_dir=tmp_path / "m", cache_dir=tmp_path / "c", token=False)

    assert {name for name in files_in(tmp_path / "m") if not name.startswith(".cache")} == set(FILES)
    assert all((tmp_path / "m" / name).read_bytes() == data for name, data in FILES.items())


def test_an_interrupted_half_survives_the_arrival_of_the_other(
    site: Site, options: FetchOptions, tmp_path: Path
) -> None:
    serve(site)
    page = site.pages[cdn(GRAPH[::-1])]
    page.stall_after = 70_000
    with pytest.raises(Unavailable, match="stalled"):
        fetch_model(sources_for(ModelTask.CLIP, NAME, Component.TEXTUAL), tmp_path, options)
    fetch_model(sources_for(ModelTask.CLIP, NAME, Component.VISUAL), tmp_path, options)
    page.stall_after = None

    fetch_model(sources_for(ModelTask.CLIP, NAME, Component.TEXTUAL), tmp_path, options)

    assert [request.start for request in site.gets(cdn(GRAPH[::-1]))] == [None, 70_000]
    assert not (tmp_path / ".partial").exists()


def test_the_graph_is_placed_last(site: Site, options: FetchOptions, tmp_path: Path) -> None:
    """A graph whose companions could not be placed must not look like a model."""
    site.hub(REPO, {"visual/model.onnx": Page(GRAPH), "weights/model.data": Page(GRAPH[::-1])})
    path = PurePosixPath("visual/model.onnx")
    source = Source(Kind.HUGGINGFACE, HubSnapshot(REPO, "main", ("*",), (path,)))
    (tmp_path / "weights").write_bytes(b"a file where a folder has to be")
    with pytest.raises(Unavailable, match="weights"):
        fetch_model([source], tmp_path, options)
    assert not (tmp_path / path).exists()
    (tmp_path / "weights").unlink()

    fetch_model([source], tmp_path, options)

    assert files_in(tmp_path) == {"visual/model.onnx", "weights/model.data"}
    assert len(site.gets(cdn(GRAPH))) == 1
