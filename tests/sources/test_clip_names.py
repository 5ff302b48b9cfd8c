"""Which model answers to which of Immich's names."""

import pytest

from immich_ml_cn import sources
from immich_ml_cn.sources.clip_names import (
    CHINESE_CLIP_DIMENSIONS,
    DEFAULT_ALIASES,
    DIRECT_NAMES,
    LISTED_DIMENSIONS,
    parse_aliases,
)


def test_every_name_of_immichs_list_has_a_dimension_and_a_source() -> None:
    """`model_names` is what can be fetched, `LISTED_DIMENSIONS` what Immich's server accepts."""
    assert set(sources.model_names("clip")) == {*LISTED_DIMENSIONS, *CHINESE_CLIP_DIMENSIONS}
    assert len(LISTED_DIMENSIONS) == 58


def test_the_default_aliases_keep_the_promised_dimension() -> None:
    assert {name: CHINESE_CLIP_DIMENSIONS[model] for name, model in DEFAULT_ALIASES.items()} == {
        "ViT-B-32__openai": 512,
        "ViT-B-16__openai": 512,
        "ViT-L-14__openai": 768,
        "ViT-L-14-336__openai": 768,
        "ViT-H-14__laion2b-s32b-b79k": 1024,
        "RN50__openai": 1024,
    }


def test_direct_names_are_none_of_immichs() -> None:
    assert set(DIRECT_NAMES.values()) == set(CHINESE_CLIP_DIMENSIONS)
    assert not set(DIRECT_NAMES) & set(LISTED_DIMENSIONS)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("", {}),
        ("ViT-B-16-SigLIP2__webli=/models/fg", {"ViT-B-16-SigLIP2__webli": "/models/fg"}),
        (" ViT-B-32__openai = , RN50__openai=", {"ViT-B-32__openai": None, "RN50__openai": None}),
        ("ViT-L-14::openai=mine", {"ViT-L-14__openai": "mine"}),
        ("ViT-L-14__openai=huggingface:a/b", {"ViT-L-14__openai": "huggingface:a/b"}),
    ],
)
def test_the_setting_changes_the_default_table(text: str, changes: dict[str, str | None]) -> None:
    expected = {**DEFAULT_ALIASES, **changes}
    assert parse_aliases(text) == {name: model for name, model in expected.items() if model is not None}


def test_none_starts_from_an_empty_table() -> None:
    assert parse_aliases("none") == {}
    assert parse_aliases("none, ViT-B-32__openai=mine") == {"ViT-B-32__openai": "mine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ViT-B-32__openai=chinese-clip-vit-large-patch14", "stores 512 numbers .* gives 768"),
        ("ViT-L-14__openai=ViT-B-16__laion400m_e31", "stores 768 numbers .* gives 512"),
        ("mine", "pairs name=model"),
        ("=mine", "pairs name=model"),
    ],
)
def test_what_cannot_work_is_refused_at_start(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_aliases(text)
