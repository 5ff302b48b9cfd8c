"""Language codes: what Immich's clients send → the FLORES-200 codes of NLLB (Costa-jussà 2022)."""

import re

DEFAULT_LANGUAGE = "eng_Latn"

_FLORES = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")

_BY_SUBTAG = {
    "af": "afr_Latn",
    "am": "amh_Ethi",
    "ar": "arb_Arab",
    "as": "asm_Beng",
    "ast": "ast_Latn",
    "az": "azj_Latn",
    "be": "bel_Cyrl",
    "bg": "bul_Cyrl",
    "bn": "ben_Beng",
    "bo": "bod_Tibt",
    "bs": "bos_Latn",
    "ca": "cat_Latn",
    "ceb": "ceb_Latn",
    "ckb": "ckb_Arab",
    "cs": "ces_Latn",
    "cy": "cym_Latn",
    "da": "dan_Latn",
    "de": "deu_Latn",
    "dk": "dan_Latn",
    "el": "ell_Grek",
    "en": "eng_Latn",
    "eo": "epo_Latn",
    "es": "spa_Latn",
    "et": "est_Latn",
    "eu": "eus_Latn",
    "fa": "pes_Arab",
    "fi": "fin_Latn",
    "fil": "tgl_Latn",
    "fo": "fao_Latn",
    "fr": "fra_Latn",
    "fur": "fur_Latn",
    "ga": "gle_Latn",
    "gd": "gla_Latn",
    "gl": "glg_Latn",
    "gsw": "deu_Latn",
    "gu": "guj_Gujr",
    "ha": "hau_Latn",
    "he": "heb_Hebr",
    "hi": "hin_Deva",
    "hr": "hrv_Latn",
    "hu": "hun_Latn",
    "hy": "hye_Armn",
    "id": "ind_Latn",
    "ig": "ibo_Latn",
    "is": "isl_Latn",
    "it": "ita_Latn",
    "iw": "heb_Hebr",
    "ja": "jpn_Jpan",
    "jv": "jav_Latn",
    "ka": "kat_Geor",
    "kk": "kaz_Cyrl",
    "km": "khm_Khmr",
    "kmr": "kmr_Latn",
    "kn": "kan_Knda",
    "ko": "kor_Hang",
    "ku": "kmr_Latn",
    "ky": "kir_Cyrl",
    "lb": "ltz_Latn",
    "lo": "lao_Laoo",
    "lt": "lit_Latn",
    "lv": "lvs_Latn",
    "mk": "mkd_Cyrl",
    "ml": "mal_Mlym",
    "mn": "khk_Cyrl",
    "mr": "mar_Deva",
    "ms": "zsm_Latn",
    "mt": "mlt_Latn",
    "my": "mya_Mymr",
    "nb": "nob_Latn",
    "ne": "npi_Deva",
    "nl": "nld_Latn",
    "nn": "nno_Latn",
    "no": "nob_Latn",
    "oc": "oci_Latn",
    "pa": "pan_Guru",
    "pl": "pol_Latn",
    "ps": "pbt_Arab",
    "pt": "por_Latn",
    "ro": "ron_Latn",
    "ru": "rus_Cyrl",
    "sa": "san_Deva",
    "sd": "snd_Arab",
    "si": "sin_Sinh",
    "sk": "slk_Latn",
    "sl": "slv_Latn",
    "so": "som_Latn",
    "sq": "als_Latn",
    "sr": "srp_Cyrl",
    "sv": "swe_Latn",
    "sw": "swh_Latn",
    "ta": "tam_Taml",
    "te": "tel_Telu",
    "tg": "tgk_Cyrl",
    "th": "tha_Thai",
    "tk": "tuk_Latn",
    "tl": "tgl_Latn",
    "tr": "tur_Latn",
    "tt": "tat_Cyrl",
    "ug": "uig_Arab",
    "uk": "ukr_Cyrl",
    "ur": "urd_Arab",
    "uz": "uzn_Latn",
    "vi": "vie_Latn",
    "xh": "xho_Latn",
    "yi": "ydd_Hebr",
    "yo": "yor_Latn",
    "yue": "yue_Hant",
    "zh": "zho_Hans",
    "zu": "zul_Latn",
}
_TRADITIONAL = {"hant", "tw", "hk", "mo"}


def flores_code(language: str | None) -> str:
    """The FLORES-200 code (``zho_Hans``) of a client's language.

    Args:
        language: a BCP-47-like code with ``-`` or ``_`` in any case: ``zh-CN``, ``zh_Hant``,
            ``pt-BR``, ``en-null``; or a FLORES-200 code. None and unknown ones mean English,
            the language NLLB's tokenizer starts with.

    Chinese is traditional where the script or the region says so. FLORES-200 knows Serbian in
    Cyrillic only, so ``sr-Latn`` is Croatian, its nearest relative in Latin script.
    """
    if language is None:
        return DEFAULT_LANGUAGE
    if _FLORES.fullmatch(language):
        return language
    subtag, *rest = language.strip().lower().replace("_", "-").split("-")
    if subtag == "zh" and "yue" in rest:
        return "yue_Hant"
    if subtag == "zh" and "hans" not in rest and _TRADITIONAL.intersection(rest):
        return "zho_Hant"
    if subtag == "sr" and "latn" in rest:
        return "hrv_Latn"
    return _BY_SUBTAG.get(subtag, DEFAULT_LANGUAGE)
