"""How the default table of CLIP names is changed by a setting."""

import pytest

from immich_ml_cn.settings.aliases import parse_aliases
from immich_ml_cn.sources.clip_names import DEFAULT_ALIASES


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
