"""The table of real addresses: its form."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest
from server import ROOT

from immich_ml_cn.errors import UnknownModel
from immich_ml_cn.sources import (
    BASES,
    Archive,
    HubSnapshot,
    Kind,
    Member,
    RemoteFile,
    Source,
    bundled,
    bundled_orientation,
    checkpoint_sources,
    folder_for,
    joint_source,
    licence_of,
    model_names,
    sources_for,
)
from immich_ml_cn.sources.clip import CHINESE_CLIP, MCLIP, OPENCLIP
from immich_ml_cn.sources.faces import INSIGHTFACE
from immich_ml_cn.sources.tasks import Component, ModelTask
from immich_ml_cn.store.fetch import FetchOptions, fetch_model

TASKS = tuple(ModelTask)
MODELS = [(task, name) for task in TASKS for name in model_names(task)]
README = ROOT / "models" / "README.md"


def all_sources() -> Iterator[Source]:
    for task, name in MODELS:
        for component in task.components:
            yield from sources_for(task, name, component)
    for name in CHINESE_CLIP:
        yield from checkpoint_sources(name)
        joint = joint_source(name)
        if joint is not None:
            yield joint


def all_files() -> Iterator[tuple[Source, RemoteFile | Archive | Member]]:
    for source in all_sources():
        match source.content:
            case HubSnapshot():
                pass
            case Archive() as archive:
                yield source, archive
                for member in archive.members:
                    yield source, member
            case files:
                for file in files:
                    yield source, file


def test_the_table_is_as_long_as_immichs() -> None:
    assert (len(OPENCLIP), len(MCLIP)) == (54, 4)
    assert model_names(ModelTask.FACES) == ("antelopev2", "buffalo_s", "buffalo_m", "buffalo_l")
    immich = "PP-OCRv5_server PP-OCRv5_mobile PP-OCRv6_tiny PP-OCRv6_small PP-OCRv6_medium CH__PP-OCRv5_server"
    languages = ["CH", "EL", "EN", "ESLAV", "KOREAN", "LATIN", "TH"]
    assert set(immich.split()) | {f"{language}__PP-OCRv5_mobile" for language in languages} <= set(
        model_names(ModelTask.OCR)
    )


def test_every_address_is_well_formed() -> None:
    addresses = [(source, file) for source, file in all_files() if not isinstance(file, Member)]
    assert len(addresses) > 50
    for source, file in addresses:
        parts = urlsplit(file.url)
        assert file.url.startswith(f"{BASES[source.kind]}/")
        assert re.fullmatch(r"https://[a-z.]+/[\w./-]+", file.url), file.url
        assert (parts.query, parts.fragment) == ("", "")
        assert PurePosixPath(parts.path).suffix in {".onnx", ".zip", ".json", ".pt", ".bin", ".safetensors"}


def test_every_checksum_and_size_is_well_formed() -> None:
    sums = [file.sha256 for _, file in all_files() if file.sha256 is not None]
    sums += [
        sha256
        for source in all_sources()
        if isinstance(source.content, HubSnapshot)
        for _, sha256 in source.content.pinned
    ]
    assert len(sums) > 40
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in sums)
    assert all(file.size is None or file.size > 1000 for _, file in all_files())


def test_no_checksum_has_two_addresses_and_no_address_two_checksums() -> None:
    """A line copied and half edited would show here."""
    pairs = {(file.url, file.sha256) for _, file in all_files() if not isinstance(file, Member)}

    assert len({url for url, _ in pairs}) == len(pairs)
    known = [sha256 for _, sha256 in pairs if sha256 is not None]
    assert len(set(known)) == len(known)


@pytest.mark.parametrize(("task", "name"), MODELS)
def test_all_sources_of_a_model_bring_the_same(task: ModelTask, name: str) -> None:
    for component in task.components:
        sources = sources_for(task, name, component)
        if name in ("chinese-clip-rn50", "chinese-clip-vit-huge-patch14"):
            assert sources == ()
            continue
        graph = PurePosixPath(component, "model.onnx")
        assert all(graph in source.required for source in sources)
        assert all(set(sources[0].required) <= set(source.required) for source in sources)
        assert len(sources) == {"facial-recognition": 3 if name == "buffalo_l" else 2}.get(task, 1)


def test_paths_stay_inside_the_model() -> None:
    paths = [path for source in all_sources() for path in source.required]
    assert not [path for path in paths if path.is_absolute() or ".." in path.parts]


def test_faces_come_from_hugging_face_first_and_from_the_release_when_it_does_not_answer() -> None:
    hub, release = sources_for(ModelTask.FACES, "antelopev2", Component.RECOGNITION)

    assert (hub.kind, release.kind) == (Kind.HUGGINGFACE, Kind.GITHUB)
    assert isinstance(hub.content, HubSnapshot)
    assert (hub.content.repo, hub.content.allow) == ("immich-app/antelopev2", ("recognition/*",))
    assert isinstance(release.content, Archive)
    assert [(member.name, str(member.path)) for member in release.content.members] == [
        ("antelopev2/scrfd_10g_bnkps.onnx", "detection/model.onnx"),
        ("antelopev2/glintr100.onnx", "recognition/model.onnx"),
    ]


def test_immichs_revisions_and_organisations() -> None:
    for task, name in (
        (ModelTask.CLIP, "ViT-B-32__openai"),
        (ModelTask.FACES, "buffalo_l"),
        (ModelTask.OCR, "PP-OCRv5_mobile"),
    ):
        (source,) = sources_for(task, name, organization="immich-testing", revision="v2")
        assert isinstance(source.content, HubSnapshot)
        assert (source.content.repo, source.content.revision) == (f"immich-testing/{name}", "v2")
        assert folder_for(task, name, revision="v2") == PurePosixPath(task, name, "v2")
        assert folder_for(task, name) == PurePosixPath(task, name)


def test_a_language_changes_the_recogniser_only() -> None:
    name = "KOREAN__PP-OCRv5_mobile"
    (detection,), (recognition,) = (
        sources_for(ModelTask.OCR, name, Component.DETECTION),
        sources_for(ModelTask.OCR, name, Component.RECOGNITION),
    )

    assert detection == sources_for(ModelTask.OCR, "PP-OCRv5_mobile", Component.DETECTION)[0]
    assert isinstance(recognition.content, tuple)
    assert recognition.content[0].url.endswith("/korean_PP-OCRv5_rec_mobile.onnx")
    assert folder_for(ModelTask.OCR, name, Component.DETECTION) == PurePosixPath("ocr/PP-OCRv5_mobile")
    assert folder_for(ModelTask.OCR, name, Component.RECOGNITION) == PurePosixPath("ocr/KOREAN__PP-OCRv5_mobile")


def test_the_ocr_checksums_of_the_protocol_notes() -> None:
    """Known from elsewhere, so a wrong turn in RapidOCR's table would show."""
    known = {
        ("PP-OCRv5_mobile", Component.DETECTION): "4d97c44a20d30a81aad087d6a396b08f786c4635742afc391f6621f5c6ae78ae",
        ("PP-OCRv5_mobile", Component.RECOGNITION): "5825fc7ebf84ae7a412be049820b4d86d77620f204a041697b0494669b1742c5",
        ("PP-OCRv5_server", Component.RECOGNITION): "e09385400eaaaef34ceff54aeb7c4f0f1fe014c27fa8b9905d4709b65746562a",
        ("PP-OCRv6_medium", Component.DETECTION): "92078b7355007ccfffcd4c8cd441a3afd4538904d06881b29a155e1e679907c2",
    }
    for (name, component), sha256 in known.items():
        (source,) = sources_for(ModelTask.OCR, name, component)
        assert isinstance(source.content, tuple)
        assert source.content[0].sha256 == sha256


def test_the_bundled_files_are_those_of_the_table() -> None:
    for component in ModelTask.OCR.components:
        path = bundled(ModelTask.OCR, "PP-OCRv6_small", component)
        (source,) = sources_for(ModelTask.OCR, "PP-OCRv6_small", component)
        assert path is not None
        assert isinstance(source.content, tuple)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == source.content[0].sha256
    assert bundled(ModelTask.OCR, "PP-OCRv5_mobile", Component.DETECTION) is None
    assert bundled(ModelTask.CLIP, "PP-OCRv6_small", Component.DETECTION) is None
    orientation = bundled_orientation()
    assert orientation is not None
    assert orientation.stat().st_size == 585_532


@pytest.mark.parametrize(
    ("task", "name"),
    [
        *((ModelTask.CLIP, name) for name in ("ViT-B-33", "buffalo_l")),
        *((ModelTask.OCR, name) for name in ("PP-OCRv7_small", "PP-OCRv5_tiny", "")),
        *((ModelTask.OCR, name) for name in ("XX__PP-OCRv5_mobile", "KOREAN__PP-OCRv5_server")),
    ],
)
def test_what_does_not_exist_is_unknown(task: ModelTask, name: str) -> None:
    with pytest.raises(UnknownModel):
        sources_for(task, name)


def test_licences_that_forbid_something_are_named() -> None:
    assert {licence_of(ModelTask.FACES, name) for name in INSIGHTFACE} == {"InsightFace: non-commercial research only"}
    assert licence_of(ModelTask.CLIP, "nllb-clip-large-siglip__v1") == "CC-BY-NC-4.0"
    assert licence_of(ModelTask.CLIP, "ViT-H-14-378-quickgelu__dfn5b") == "Apple AMLR: research only"
    assert licence_of(ModelTask.CLIP, "ViT-L-14__openai") == "MIT"


SMALLEST = {
    "huggingface": (ModelTask.CLIP, "ViT-B-32__openai", "config.json"),
    "modelscope": (ModelTask.OCR, "PP-OCRv6_tiny", "detection/model.onnx"),
    "github": (ModelTask.FACES, "buffalo_s", "detection/model.onnx"),
}


@pytest.mark.network
@pytest.mark.parametrize("kind", list(Kind))
def test_the_smallest_file_of_each_source_arrives(kind: Kind, tmp_path: Path) -> None:
    import httpx2

    try:
        httpx2.head(BASES[kind], timeout=5)
    except httpx2.HTTPError as error:
        pytest.skip(f"{BASES[kind]} cannot be reached from here: {error}")
    task, name, path = SMALLEST[kind]
    (source,) = [source for source in sources_for(task, name) if source.kind is kind]
    if isinstance(source.content, HubSnapshot):
        only = HubSnapshot(source.content.repo, source.content.revision, (path,), (PurePosixPath(path),))
        source = Source(kind, only)

    report = fetch_model([source], tmp_path, FetchOptions())

    assert (tmp_path / path).stat().st_size > 0
    assert report.bytes > 0


def test_a_repository_of_anybodys_has_an_address() -> None:
    """Immich's layout from any hub, in a folder that no listed name has."""
    address = "huggingface:pigzhou/fg-clip2-base-immich@v1"
    (source,) = sources_for(ModelTask.CLIP, address, Component.TEXTUAL)
    assert isinstance(source.content, HubSnapshot)
    assert (source.content.repo, source.content.revision) == ("pigzhou/fg-clip2-base-immich", "v1")
    assert folder_for(ModelTask.CLIP, address, revision="v2") == PurePosixPath("clip/pigzhou__fg-clip2-base-immich")
    (mirror,) = sources_for(ModelTask.CLIP, "modelscope:some-one/clip.zh")
    assert isinstance(mirror.content, tuple)
    urls = {file.url for file in mirror.content}
    assert "https://www.modelscope.cn/models/some-one/clip.zh/resolve/master/visual/model.onnx" in urls


def test_a_folder_of_ones_own_is_where_it_is_and_never_fetched() -> None:
    assert folder_for(ModelTask.CLIP, "/models/mine") == PurePosixPath("/models/mine")
    assert sources_for(ModelTask.CLIP, "/models/mine") == ()


@pytest.mark.parametrize("address", ["huggingface:../x", "modelscope:a/../b", "github:a/b", "huggingface:a", "hf:a/b"])
def test_what_is_no_address_is_an_unknown_model(address: str) -> None:
    with pytest.raises(UnknownModel):
        sources_for(ModelTask.CLIP, address)


def test_revisions_are_immichs_only() -> None:
    assert folder_for(ModelTask.CLIP, "chinese-clip-rn50", revision="v2") == PurePosixPath("clip/chinese-clip-rn50")
