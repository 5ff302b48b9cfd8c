"""What is said at start of settings that name models nobody has, and of a cache that cannot be written."""

from pathlib import Path

import pytest

from immich_ml_cn.settings import Settings
from immich_ml_cn.store.checks import doubtful_models, unwritable

ALIASES = "MACHINE_LEARNING_CLIP_ALIASES"


def said(cache: Path, **environ: str) -> list[str]:
    settings = Settings.from_env({"MACHINE_LEARNING_CACHE_FOLDER": str(cache), **environ})
    return [str(remark) for remark in doubtful_models(settings)]


def test_nothing_of_the_defaults(tmp_path: Path) -> None:
    assert said(tmp_path) == []


@pytest.mark.parametrize(
    ("variable", "value", "remark"),
    [
        (ALIASES, "none,ViT-L-14__openai=chinese-clip-vit-large-patch41", "is chinese-clip-vit-large-patch14 meant?"),
        (
            ALIASES,
            "none,ViT-L-41__openai=chinese-clip-vit-large-patch14",
            "list has no ViT-L-41__openai (is ViT-",
        ),
        (ALIASES, "none,ViT-L-14__openai=qqq", "nobody offers a model qqq, and the cache has none"),
        (ALIASES, "none,ViT-L-14__openai=/models/mine", "there is no folder /models/mine"),
        ("CLIP_MODEL", "ViT-X", "CLIP_MODEL: nobody offers a model ViT-X"),
        ("RECOGNITION_MODEL", "bufalo_l", "(is buffalo_l meant?)"),
    ],
)
def test_a_model_that_nobody_has(tmp_path: Path, variable: str, value: str, remark: str) -> None:
    (only,) = said(tmp_path, **{variable: value})
    assert only.startswith(variable)
    assert remark in only


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (ALIASES, "none,ViT-L-14__openai=huggingface:owner/name"),
        (ALIASES, "none,ViT-L-14__openai=mine"),
        (ALIASES, "none,vit-l-14__OpenAI=CHINESE-clip-vit-large-patch14"),
        (ALIASES, "none,ViT-L-14__openai=ViT-L-14-336__openai"),
        (ALIASES, "none,ViT-L-14__openai={cache}/clip/mine"),
        ("CLIP_MODEL", "cn-clip/vit-l-14"),
        ("CLIP_MODEL", "mine"),
        ("CLIP_MODEL", "ViT-B-16__laion400m_e32"),
        ("RECOGNITION_MODEL", " Buffalo_S "),
    ],
)
def test_a_model_that_somebody_has(tmp_path: Path, variable: str, value: str) -> None:
    (tmp_path / "clip" / "mine").mkdir(parents=True)
    assert said(tmp_path, **{variable: value.format(cache=tmp_path)}) == []


def test_a_cache_that_can_be_written(tmp_path: Path) -> None:
    assert unwritable(tmp_path / "new") == ""
    assert list((tmp_path / "new").iterdir()) == []


def test_a_cache_that_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert unwritable(tmp_path / "file" / "cache") == "Not a directory"
