"""Immich's language codes → FLORES-200."""

import pytest

from immich_ml_cn.models.clip.languages import flores_code


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("zh-CN", "zho_Hans"),
        ("zh-Hans", "zho_Hans"),
        ("zh_SIMPLIFIED", "zho_Hans"),
        ("zh", "zho_Hans"),
        ("zh-Hans-HK", "zho_Hans"),
        ("zh-TW", "zho_Hant"),
        ("zh_Hant", "zho_Hant"),
        ("zh-hk", "zho_Hant"),
        ("yue_Hant", "yue_Hant"),
        ("zh-yue", "yue_Hant"),
        ("en", "eng_Latn"),
        ("en-null", "eng_Latn"),
        ("en-GB", "eng_Latn"),
        ("pt-BR", "por_Latn"),
        ("nb-NO", "nob_Latn"),
        ("sr-Cyrl", "srp_Cyrl"),
        ("sr_Latn", "hrv_Latn"),
        ("de_CH", "deu_Latn"),
        ("ja", "jpn_Jpan"),
        ("deu_Latn", "deu_Latn"),
        ("tlh", "eng_Latn"),
        ("", "eng_Latn"),
        ("null", "eng_Latn"),
        (None, "eng_Latn"),
    ],
)
def test_flores_code(language: str | None, code: str) -> None:
    assert flores_code(language) == code
