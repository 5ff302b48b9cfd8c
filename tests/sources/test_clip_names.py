"""Which model answers to which of Immich's names."""

from immich_ml_cn import sources
from immich_ml_cn.sources.clip_names import (
    CHINESE_CLIP_DIMENSIONS,
    DEFAULT_ALIASES,
    DIRECT_NAMES,
    LISTED_DIMENSIONS,
)
from immich_ml_cn.sources.tasks import ModelTask


def test_every_name_of_immichs_list_has_a_dimension_and_a_source() -> None:
    """`model_names` is what can be fetched, `LISTED_DIMENSIONS` what Immich's server accepts."""
    assert set(sources.model_names(ModelTask.CLIP)) == {*LISTED_DIMENSIONS, *CHINESE_CLIP_DIMENSIONS}
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
