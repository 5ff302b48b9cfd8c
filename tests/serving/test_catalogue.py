"""Which names can be served, what they load, and where that lies in the cache."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from immich_ml_cn.errors import UnknownModel
from immich_ml_cn.models.images import Picture
from immich_ml_cn.serving.catalogue import MAX_PARALLEL_LINES, Catalogue
from immich_ml_cn.serving.model_names import MAX_NAME_BYTES
from immich_ml_cn.serving.spec import Loaded
from immich_ml_cn.serving.tasks import ClipTextual, ClipVisual, FaceTask, OcrTask, Tasks
from immich_ml_cn.serving.warm_ups import PREVIEW_SIZE
from immich_ml_cn.settings import Settings
from immich_ml_cn.settings.aliases import parse_aliases
from immich_ml_cn.sources import model_names
from immich_ml_cn.sources.clip_names import (
    CHINESE_CLIP_DIMENSIONS,
    CHINESE_CLIP_PIXELS,
    DEFAULT_ALIASES,
    DIRECT_NAMES,
    LISTED_DIMENSIONS,
    clean_name,
)
from immich_ml_cn.sources.tasks import ModelTask
from immich_ml_cn.store.downloader import Downloader


def catalogue(cache: Path, *, on_gpu: bool = False, **environ: str) -> Catalogue:
    settings = Settings.from_env({"MACHINE_LEARNING_CACHE_FOLDER": str(cache), "HF_HUB_OFFLINE": "1", **environ})
    return Catalogue(settings, Downloader(settings), on_gpu=on_gpu)


def place(cache: Path, *parts: str) -> None:
    path = cache.joinpath(*parts) / "model.onnx"
    path.parent.mkdir(parents=True)
    path.touch()


# --- names ---


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("ViT-B-32__openai", "ViT-B-32__openai"),
        ("ViT-B-32::openai", "ViT-B-32__openai"),
        ("immich-app/ViT-B-32__openai", "ViT-B-32__openai"),
        ("a/b/c", "c"),
        ("a\\b", "a_b"),
        ("v1.5", "v15"),
        ("../../etc/passwd", "passwd"),
        ("..", ""),
        ("a/", ""),
    ],
)
def test_names_are_cleaned_as_immich_cleans_them(name: str, clean: str) -> None:
    assert clean_name(name) == clean


HOSTILE = [
    *(
        "",
        ".",
        "..",
        "../",
        "../../etc",
        "/",
        "\\",
        "a\0b",
        "\0",
        " ",
        "a b",
        "a\nb",
        "*",
        "~",
        "$(id)",
        "%2e%2e",
        "..\\..\\x",
    ),
    *("x" * 10_000, "模" * 200, "x" * (MAX_NAME_BYTES + 1), "模" * MAX_NAME_BYTES, "\ud800", "💥"),
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("task", ["clip", "facial-recognition", "ocr"])
def test_a_name_that_cannot_be_is_unknown(tmp_path: Path, task: str, name: str) -> None:
    """It never reaches the file system, and the message stays short where the name is long."""
    known = catalogue(tmp_path)
    find = {"clip": known.visual, "facial-recognition": known.face_detector, "ocr": known.text_recognizer}[task]
    with pytest.raises(UnknownModel, match=f"^Unknown {task} model ") as caught:
        find(name)
    message = str(caught.value)
    assert caught.value.status == 422
    assert len(message.split("Known are")[0]) < 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (
            "clip",
            (
                "chinese-clip-vit-base-patch16",
                "ViT-B-32__openai",
                "XLM-Roberta-Large-Vit-L-14",
                "nllb-clip-base-siglip__v1",
            ),
        ),
        ("facial-recognition", ("antelopev2", "buffalo_s", "buffalo_m", "buffalo_l")),
        ("ocr", ("PP-OCRv6_small", "PP-OCRv5_mobile", "PP-OCRv5_server", "PP-OCRv4_mobile", "EN__PP-OCRv5_mobile")),
    ],
)
def test_an_unknown_name_is_told_those_that_would_work(tmp_path: Path, task: str, names: tuple[str, ...]) -> None:
    known = catalogue(tmp_path)
    find = {"clip": known.textual, "facial-recognition": known.face_recognizer, "ocr": known.text_detector}[task]
    with pytest.raises(UnknownModel, match="Known are: ") as caught:
        find("nonsense")
    listed = str(caught.value).split("Known are: ")[1].split(", ")
    assert set(names) <= set(listed)
    for name in listed:
        find(name)


def test_a_model_of_another_task_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel):
        catalogue(tmp_path).visual("buffalo_l")
    with pytest.raises(UnknownModel):
        catalogue(tmp_path).face_detector("ViT-B-32__openai")


@pytest.mark.parametrize("name", LISTED_DIMENSIONS)
def test_every_name_immich_lists_is_served_with_its_dimension(tmp_path: Path, name: str) -> None:
    for spec in (catalogue(tmp_path).visual(name), catalogue(tmp_path).textual(name)):
        assert spec.dimension == LISTED_DIMENSIONS[name]
        assert spec.fetch is not None


# --- keys, lanes, batches ---


def test_keys_are_the_folders_of_immichs_layout(tmp_path: Path) -> None:
    known = catalogue(tmp_path)
    name = "ViT-B-16__laion400m_e31"
    assert known.visual(name).key == f"clip/{name}/visual"
    assert known.textual(name).key == f"clip/{name}/textual"
    assert known.face_detector("buffalo_l").key == "facial-recognition/buffalo_l/detection"
    assert known.face_recognizer("buffalo_l").key == "facial-recognition/buffalo_l/recognition"
    assert known.text_detector("PP-OCRv5_mobile").key == "ocr/PP-OCRv5_mobile/detection"
    assert known.text_recognizer("PP-OCRv5_mobile").key == "ocr/PP-OCRv5_mobile/recognition"
    assert known.text_orientation().key == "ocr/orientation"


def test_another_revision_is_another_folder(tmp_path: Path) -> None:
    known = catalogue(tmp_path, MACHINE_LEARNING_MODEL_REVISION="v2")
    name = "ViT-B-16__laion400m_e31"
    assert known.visual(name).key == f"clip/{name}/v2/visual"
    assert known.face_detector("buffalo_l").key == "facial-recognition/buffalo_l/v2/detection"
    assert known.text_detector("PP-OCRv5_mobile").key == "ocr/PP-OCRv5_mobile/v2/detection"


def test_only_text_is_on_the_interactive_lane(tmp_path: Path) -> None:
    known = catalogue(tmp_path)
    assert known.textual("ViT-B-32__openai").lane == "interactive"
    others = (
        known.visual("ViT-B-32__openai"),
        known.face_detector("buffalo_l"),
        known.face_recognizer("buffalo_l"),
        known.text_detector("PP-OCRv6_small"),
        known.text_recognizer("PP-OCRv6_small"),
        known.text_orientation(),
    )
    assert {spec.lane for spec in others} == {"bulk"}


@pytest.mark.parametrize(
    ("on_gpu", "environ", "expected"),
    [
        (False, {}, (4, 1, 16, 1, MAX_PARALLEL_LINES)),
        (True, {}, (16, 4, 16, 4, 6)),
        (True, {"CLIP": "3", "FACIAL_RECOGNITION": "5", "OCR": "7"}, (3, 4, 5, 4, 7)),
    ],
)
def test_batches_are_bounded(tmp_path: Path, on_gpu: bool, environ: dict[str, str], expected: tuple[int, ...]) -> None:
    sizes = {f"MACHINE_LEARNING_MAX_BATCH_SIZE__{name}": value for name, value in environ.items()}
    known = catalogue(tmp_path, on_gpu=on_gpu, **sizes)
    specs = (
        known.visual("ViT-B-32__openai"),
        known.face_detector("buffalo_l"),
        known.face_recognizer("buffalo_l"),
        known.text_detector("PP-OCRv5_mobile"),
        known.text_recognizer("PP-OCRv5_mobile"),
    )
    assert tuple(spec.max_batch for spec in specs) == expected


# --- what lies in the cache ---


@pytest.mark.parametrize("name", ["my-clip", "FG-CLIP2", "我的模型"])
def test_what_lies_in_the_cache_is_served_under_its_folders_name(tmp_path: Path, name: str) -> None:
    known = catalogue(tmp_path)
    with pytest.raises(UnknownModel):
        known.visual(name)
    place(tmp_path, "clip", name, "visual")
    spec = known.visual(name)
    assert (spec.key, spec.dimension) == (f"clip/{name}/visual", None)
    place(tmp_path, "facial-recognition", name, "detection")
    assert known.face_detector(name).key == f"facial-recognition/{name}/detection"


def test_a_file_in_the_cache_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "notes").touch()
    with pytest.raises(UnknownModel):
        catalogue(tmp_path).visual("notes")


# --- Chinese-CLIP under Immich's names ---


@pytest.mark.parametrize(("name", "model"), DEFAULT_ALIASES.items())
def test_the_default_aliases(tmp_path: Path, name: str, model: str) -> None:
    """In a folder of its own, never in that of the name it answers to, and with the dimension of that name."""
    for kind in ("visual", "textual"):
        spec = getattr(catalogue(tmp_path), kind)(name)
        assert spec.key == f"clip/{model}/{kind}"
        assert spec.dimension == LISTED_DIMENSIONS[name] == CHINESE_CLIP_DIMENSIONS[model]
        assert catalogue(tmp_path).visual(model).key == f"clip/{model}/visual"


def test_aliases_can_be_switched_off(tmp_path: Path) -> None:
    known = catalogue(tmp_path, MACHINE_LEARNING_CLIP_ALIASES="none")
    assert known.visual("ViT-B-32__openai").key == "clip/ViT-B-32__openai/visual"


def test_an_alias_may_name_a_model_that_a_person_placed(tmp_path: Path) -> None:
    known = catalogue(tmp_path, MACHINE_LEARNING_CLIP_ALIASES="ViT-L-14__openai=fg-clip2,mine=RN101__openai")
    spec = known.visual("ViT-L-14__openai")
    assert (spec.key, spec.dimension) == ("clip/fg-clip2/visual", 768)
    assert known.visual("mine").key == "clip/RN101__openai/visual"


@pytest.mark.parametrize(("name", "model"), DIRECT_NAMES.items())
def test_cn_clips_own_names(tmp_path: Path, name: str, model: str) -> None:
    assert catalogue(tmp_path).visual(f"cn-clip/{name}").key == f"clip/{model}/visual"
    assert name not in LISTED_DIMENSIONS


def test_the_tables_of_names_agree() -> None:
    assert set(DIRECT_NAMES.values()) == set(CHINESE_CLIP_DIMENSIONS) == set(CHINESE_CLIP_PIXELS)
    assert set(DEFAULT_ALIASES.values()) <= set(CHINESE_CLIP_DIMENSIONS)
    assert set(DEFAULT_ALIASES) <= set(LISTED_DIMENSIONS)
    assert set(LISTED_DIMENSIONS.values()) == {512, 640, 768, 1024, 1152, 1536}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ViT-B-32__openai", "pairs name=model"),
        ("=x", "pairs name=model"),
        ("RN50__openai=,none", "pairs name=model"),
        (
            "ViT-B-32__openai=chinese-clip-rn50",
            "512 numbers for ViT-B-32__openai, but chinese-clip-rn50 gives 1024",
        ),
        ("ViT-B-32__openai=ViT-L-14__openai", "gives 768"),
    ],
)
def test_aliases_that_make_no_sense(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_aliases(text)


@pytest.mark.parametrize(
    ("find", "name", "key"),
    [
        ("text_recognizer", " PP-OCRv5_mobile\n", "ocr/PP-OCRv5_mobile/recognition"),
        ("text_recognizer", "korean__pp-ocrv5_mobile", "ocr/KOREAN__PP-OCRv5_mobile/recognition"),
        ("face_detector", " Buffalo_L", "facial-recognition/buffalo_l/detection"),
        ("textual", "vit-l-14__openai ", "clip/chinese-clip-vit-large-patch14/textual"),
        ("textual", " VIT-B-16-SIGLIP2::webli", "clip/ViT-B-16-SigLIP2__webli/textual"),
    ],
)
def test_white_space_and_case_do_not_matter(tmp_path: Path, find: str, name: str, key: str) -> None:
    """Names are pasted into Immich's settings."""
    assert getattr(catalogue(tmp_path), find)(name).key == key


def test_a_folder_of_the_cache_is_found_by_its_own_name(tmp_path: Path) -> None:
    place(tmp_path, "facial-recognition", "BUFFALO_L", "detection")
    known = catalogue(tmp_path)
    assert known.face_detector("BUFFALO_L").key == "facial-recognition/BUFFALO_L/detection"
    assert known.face_detector("buffalo_l").key == "facial-recognition/buffalo_l/detection"


# --- OCR ---


def test_language_prefixed_models_share_the_detector(tmp_path: Path) -> None:
    known = catalogue(tmp_path)
    plain, english = known.text_detector("PP-OCRv5_mobile"), known.text_detector("EN__PP-OCRv5_mobile")
    assert plain.key == english.key == "ocr/PP-OCRv5_mobile/detection"
    assert known.text_recognizer("EN__PP-OCRv5_mobile").key == "ocr/EN__PP-OCRv5_mobile/recognition"


@pytest.mark.parametrize("kind", ["detector", "recognizer"])
def test_the_bundled_model_stands_in_for_one_that_is_missing(tmp_path: Path, kind: str) -> None:
    half = {"detector": "detection", "recognizer": "recognition"}[kind]
    find = getattr(catalogue(tmp_path), f"text_{kind}")
    spec = find("PP-OCRv5_server")
    assert spec.fallback is not None
    assert spec.fallback.key == f"ocr/PP-OCRv6_small/{half} (bundled)"
    assert spec.fallback.fetch is None
    bundled = find("PP-OCRv6_small")
    assert bundled.key == spec.fallback.key
    assert bundled.fetch is None


@pytest.mark.parametrize("name", [name for name in model_names(ModelTask.OCR) if "__" in name])
def test_nothing_stands_in_for_another_alphabet(tmp_path: Path, name: str) -> None:
    """The Chinese recogniser would answer Korean with wrong text, which Immich would store."""
    spec = catalogue(tmp_path).text_recognizer(name)
    assert (spec.fallback is None) is not name.startswith("CH__")


def test_nothing_stands_in_for_a_model_of_ones_own(tmp_path: Path) -> None:
    place(tmp_path, "ocr", "my-ocr", "detection")
    assert catalogue(tmp_path).text_recognizer("my-ocr").fallback is None


def test_a_model_in_the_cache_wins_over_the_bundled_one(tmp_path: Path) -> None:
    for name in ("PP-OCRv6_small", "PP-OCRv5_server"):
        place(tmp_path, "ocr", name, "detection")
        spec = catalogue(tmp_path).text_detector(name)
        assert (spec.key, spec.fallback) == (f"ocr/{name}/detection", None)


# --- plans ---


def test_a_plan_holds_what_the_tasks_need_and_nothing_else(tmp_path: Path) -> None:
    known = catalogue(tmp_path)
    everything = known.plan(
        Tasks(
            ClipVisual("RN101__openai"),
            ClipTextual("RN101__openai"),
            FaceTask("buffalo_l", "buffalo_s"),
            OcrTask("PP-OCRv5_server", "PP-OCRv5_mobile"),
        )
    )
    assert everything.visual is not None
    assert everything.visual.encoder.key == "clip/RN101__openai/visual"
    assert everything.textual is not None
    assert everything.textual.encoder.key == "clip/RN101__openai/textual"
    assert everything.faces is not None
    assert everything.faces.detector.key == "facial-recognition/buffalo_l/detection"
    assert everything.faces.recognizer is not None
    assert everything.faces.recognizer.key == "facial-recognition/buffalo_s/recognition"
    assert everything.ocr is not None
    assert everything.ocr.detector.key == "ocr/PP-OCRv5_server/detection"
    assert everything.ocr.reader is not None
    assert everything.ocr.reader.orientation.key == "ocr/orientation"
    assert everything.ocr.reader.recognizer.key == "ocr/PP-OCRv5_mobile/recognition"
    assert {label: spec.key for label, spec in everything.models().items()} == {
        "clip/visual": "clip/RN101__openai/visual",
        "clip/textual": "clip/RN101__openai/textual",
        "faces": "facial-recognition/buffalo_s/recognition",
        "ocr": "ocr/PP-OCRv5_mobile/recognition",
    }
    detection = known.plan(Tasks(faces=FaceTask("buffalo_l", None), ocr=OcrTask("PP-OCRv6_small", None)))
    assert (detection.visual, detection.textual) == (None, None)
    assert detection.faces is not None
    assert detection.faces.recognizer is None
    assert detection.ocr is not None
    assert detection.ocr.reader is None
    assert list(detection.models()) == ["faces", "ocr"]


def test_the_text_detector_is_warmed_up_at_the_size_it_is_used_with(tmp_path: Path) -> None:
    known = catalogue(tmp_path, MACHINE_LEARNING_PRELOAD__OCR__MAX_RESOLUTION="64")
    spec = known.text_detector("PP-OCRv6_small")
    sizes: list[Any] = []

    class Detector:
        def prepare(self, picture: Picture, max_resolution: int) -> int:
            sizes.append((picture.size, max_resolution))
            return max_resolution

    class Submitted:
        async def submit(self, item: int) -> None:
            sizes.append(item)

    async def warm_up() -> None:
        assert spec.warm_up is not None
        await spec.warm_up(cast(Any, Loaded(cast(Any, Detector()), cast(Any, Submitted()), spec.key)))

    asyncio.run(warm_up())
    assert sizes == [(PREVIEW_SIZE, 64), 64]


@pytest.mark.parametrize(
    "tasks",
    [
        Tasks(visual=ClipVisual("x")),
        Tasks(textual=ClipTextual("x")),
        Tasks(faces=FaceTask("x", None)),
        Tasks(faces=FaceTask("buffalo_l", "x")),
        Tasks(ocr=OcrTask("x", None)),
        Tasks(ocr=OcrTask("PP-OCRv6_small", "x")),
    ],
    ids=range(6),
)
def test_a_plan_with_an_unknown_name_is_refused(tmp_path: Path, tasks: Tasks) -> None:
    with pytest.raises(UnknownModel):
        catalogue(tmp_path).plan(tasks)


def test_tasks_keep_to_their_gpu(tmp_path: Path) -> None:
    """Both halves of each; on a CPU the numbers mean nothing."""
    environ = {"MACHINE_LEARNING_DEVICE_IDS": "0,1", "MACHINE_LEARNING_TASK_DEVICES": "clip=0, ocr=1"}
    for on_gpu, clip, ocr in ((True, 0, 1), (False, None, None)):
        known = catalogue(tmp_path, on_gpu=on_gpu, **environ)
        assert {known.visual("ViT-L-14__openai").device, known.textual("ViT-L-14__openai").device} == {clip}
        texts = (known.text_detector("PP-OCRv5_mobile"), known.text_recognizer("PP-OCRv6_small"))
        assert {spec.device for spec in (*texts, known.text_orientation())} == {ocr}
        assert known.face_detector("buffalo_l").device is None
