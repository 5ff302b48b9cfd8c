"""Every variable of Immich's service is a setting or accepted; defaults, wrong values, and the documented tables."""

import ast
import os
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import ROOT

from immich_ml_cn.settings import INERT, Settings, SettingsError, meanings, variables
from immich_ml_cn.settings.values import PILLOWS_LIMIT
from immich_ml_cn.sources import Kind, Preference
from immich_ml_cn.sources.clip_names import DEFAULT_ALIASES

PREFIX = "MACHINE_LEARNING_"

IMMICHS_DEFAULTS: dict[str, Any] = {
    "IMMICH_HOST": "::",
    "IMMICH_PORT": 3003,
    "IMMICH_LOG_LEVEL": "log",
    "NO_COLOR": False,
    "IMMICH_SOURCE_REF": "",
    "MACHINE_LEARNING_MODEL_TTL": 300,
    "MACHINE_LEARNING_MODEL_TTL_POLL_S": 10,
    "MACHINE_LEARNING_CACHE_FOLDER": Path("~/.cache/immich_ml").expanduser(),
    "MACHINE_LEARNING_REQUEST_THREADS": os.cpu_count(),
    "MACHINE_LEARNING_MODEL_INTER_OP_THREADS": 0,
    "MACHINE_LEARNING_MODEL_INTRA_OP_THREADS": 0,
    "MACHINE_LEARNING_WORKERS": 1,
    "MACHINE_LEARNING_HTTP_KEEPALIVE_TIMEOUT_S": 2,
    "MACHINE_LEARNING_WORKER_TIMEOUT": 300,
    "MACHINE_LEARNING_PRELOAD__CLIP__TEXTUAL": (),
    "MACHINE_LEARNING_PRELOAD__CLIP__VISUAL": (),
    "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__DETECTION": (),
    "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__RECOGNITION": (),
    "MACHINE_LEARNING_PRELOAD__OCR__DETECTION": (),
    "MACHINE_LEARNING_PRELOAD__OCR__RECOGNITION": (),
    "MACHINE_LEARNING_PRELOAD__CLIP": (),
    "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION": (),
    "MACHINE_LEARNING_DEVICE_IDS": (0,),
    "MACHINE_LEARNING_MAX_BATCH_SIZE__FACIAL_RECOGNITION": None,
    "MACHINE_LEARNING_MAX_BATCH_SIZE__OCR": 6,
    "MACHINE_LEARNING_MODEL_ARENA": True,
    "MACHINE_LEARNING_OPENVINO_PRECISION": "f32",
    # 3.3
    "MACHINE_LEARNING_PRELOAD__OCR__MAX_RESOLUTION": 736,
    "MACHINE_LEARNING_MODEL_REVISION": "main",
    "MACHINE_LEARNING_MODEL_ORGANIZATION": "immich-app",
    # through huggingface_hub
    "HF_ENDPOINT": "",
    "HF_HUB_OFFLINE": False,
}
DEVIATIONS = {"MACHINE_LEARNING_HTTP_KEEPALIVE_TIMEOUT_S": (75, "Immich closes it after 2")}
"""Where our default is not Immich's → ours, and what the documented meaning says about it."""

INERT_HERE = (
    *("ANN", "ANN_FP16_TURBO", "ANN_TUNING_LEVEL", "RKNN", "RKNN_THREADS"),
    *("ROCM_PRECISION", "TEST_FULL"),
)
FIELDS = {variable.name: field for field, variable in variables().items()}
"""Variable → field of `Settings`."""


def read(**environ: str) -> Settings:
    return Settings.from_env(environ)


@pytest.mark.parametrize("variable", IMMICHS_DEFAULTS)
def test_every_variable_of_immich_has_immichs_default_or_says_why_not(variable: str) -> None:
    expected, reason = DEVIATIONS.get(variable, (IMMICHS_DEFAULTS[variable], ""))
    assert getattr(Settings(), FIELDS[variable]) == expected
    assert reason in meanings()[variable]


@pytest.mark.parametrize("variable", [*(PREFIX + name for name in INERT_HERE), "IMMICH_ENV"])
def test_what_does_nothing_here_is_accepted_and_remembered(variable: str) -> None:
    assert variable in INERT
    assert variable not in FIELDS
    assert read(**{variable: "whatever"}).inert == (variable,)
    assert read(**{variable: ""}).inert == ()


def test_nothing_is_set_by_an_empty_environment() -> None:
    assert read() == Settings()
    assert read(PATH="/bin", IMMICH_MEDIA_LOCATION="/data") == Settings()


@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_counts_as_not_set(empty: str) -> None:
    assert Settings.from_env(dict.fromkeys(FIELDS, empty)) == Settings()


ALIASED, LARGE = "ViT-L-14__openai", "chinese-clip-vit-large-patch14"


def mirrored(address: str) -> Preference:
    return Preference((Kind.HUGGINGFACE,), {Kind.HUGGINGFACE: address})


GOOD = [
    ("IMMICH_HOST", "[::1]", "::1"),
    ("IMMICH_HOST", " 0.0.0.0 ", "0.0.0.0"),
    ("IMMICH_PORT", "0", 0),
    ("IMMICH_PORT", "65535", 65535),
    ("IMMICH_LOG_LEVEL", "VERBOSE", "verbose"),
    ("IMMICH_LOG_LEVEL", "warning", "warn"),
    ("IMMICH_LOG_LEVEL", "fatal", "critical"),
    (f"{PREFIX}WORKERS", "2.0", 2),
    (f"{PREFIX}HTTP_KEEPALIVE_TIMEOUT_S", "0", 0),
    (f"{PREFIX}PRELOAD__CLIP__TEXTUAL", "a，b、 'c'", ("a", "b", "c")),
    (f"{PREFIX}PRELOAD__CLIP__TEXTUAL", '"a","b"', ("a", "b")),
    (f"{PREFIX}DEVICE_IDS", "0，1", (0, 1)),
    (f"{PREFIX}FORWARD", "OCR，Clip", ("ocr", "clip")),
    (f"{PREFIX}TASK_DEVICES", "OCR＝0", {"ocr": 0}),
    (f"{PREFIX}CLIP_ALIASES", "None，vit-l-14__openai＝Chinese-CLIP-ViT-Large-Patch14", {ALIASED: LARGE}),
    (f"{PREFIX}CLIP_ALIASES", "NONE", {}),
    (f"{PREFIX}MODEL_SOURCE", "ModelScope，HuggingFace", Preference(order=(Kind.MODELSCOPE, Kind.HUGGINGFACE))),
    (f"{PREFIX}MODEL_SOURCE", "AUTO", Preference()),
    (f"{PREFIX}MODEL_SOURCE", "hf-mirror.com", mirrored("https://hf-mirror.com")),
    (f"{PREFIX}MODEL_SOURCE", "huggingface=hf-mirror.com", mirrored("https://hf-mirror.com")),
    ("HF_ENDPOINT", "https://hf-mirror.com/", "https://hf-mirror.com"),
    ("NO_COLOR", "1", True),
    ("NO_COLOR", "anything", True),
    ("NO_COLOR", "false", False),
    ("NO_COLOR", "0", False),
    (f"{PREFIX}MODEL_TTL", "-1", -1),
    (f"{PREFIX}MODEL_TTL", "0.5", 0.5),
    (f"{PREFIX}MODEL_TTL_POLL_S", "0", 0),
    (f"{PREFIX}CACHE_FOLDER", "/cache", Path("/cache")),
    (f"{PREFIX}CACHE_FOLDER", "~/models", Path("~/models").expanduser()),
    (f"{PREFIX}REQUEST_THREADS", "0", 0),
    (f"{PREFIX}REQUEST_THREADS", "-1", -1),
    (f"{PREFIX}PRELOAD__CLIP__TEXTUAL", "a, b,,c ", ("a", "b", "c")),
    (f"{PREFIX}DEVICE_IDS", "0,1", (0, 1)),
    (f"{PREFIX}DEVICE_IDS", " 3 ", (3,)),
    (f"{PREFIX}MAX_BATCH_SIZE__FACIAL_RECOGNITION", "8", 8),
    (f"{PREFIX}MODEL_ARENA", "False", False),
    (f"{PREFIX}MODEL_ARENA", "on", True),
    (f"{PREFIX}MODEL_REVISION", "v2", "v2"),
    (f"{PREFIX}MAX_IMAGE_PIXELS", str(PILLOWS_LIMIT), PILLOWS_LIMIT),
    (f"{PREFIX}PROVIDER", "CPU", "cpu"),
    (f"{PREFIX}PROVIDER", "OpenVINO", "openvino"),
    (f"{PREFIX}OPENVINO_DEVICE", "GPU", "gpu"),
    (f"{PREFIX}OPENVINO_PRECISION", "FP16", "f16"),
    (f"{PREFIX}OPENVINO_PRECISION", "fp32", "f32"),
    (f"{PREFIX}OPENVINO_PRECISION", " BF16 ", "bf16"),
    (f"{PREFIX}OPENVINO_PRECISION", "auto", "auto"),
    (f"{PREFIX}ROOT_PATH", "ml/", "/ml"),
    (f"{PREFIX}ROOT_PATH", "/a/b/", "/a/b"),
    (f"{PREFIX}ROOT_PATH", "/", ""),
    (f"{PREFIX}CLIP_ALIASES", "none", {}),
    (f"{PREFIX}MODEL_SOURCE", "modelscope", Preference(order=(Kind.MODELSCOPE,))),
]


@pytest.mark.parametrize(("variable", "value", "expected"), GOOD)
def test_values(variable: str, value: str, expected: Any) -> None:
    assert getattr(read(**{variable: value}), FIELDS[variable]) == expected


WRONG = [
    ("IMMICH_PORT", "http", "a whole number"),
    ("IMMICH_PORT", "65536", "a port number from 0 to 65535"),
    ("IMMICH_PORT", "-1", "a port number from 0 to 65535"),
    ("IMMICH_PORT", "tcp://10.43.0.7:2283", "set enableServiceLinks: false for the pod"),
    ("HTTP_PORT", "tcp://10.43.0.7:80", "set enableServiceLinks: false for the pod"),
    (f"{PREFIX}MODEL_TTL", "5 minutes", "a number of seconds"),
    (f"{PREFIX}MODEL_TTL", "nan", "a number of seconds"),
    (f"{PREFIX}MODEL_TTL", "inf", "a number of seconds"),
    (f"{PREFIX}REQUEST_THREADS", "2.5", "a whole number"),
    (f"{PREFIX}CACHE_FOLDER", "~nobody-of-that-name/models", "the path of a folder"),
    (f"{PREFIX}WORKERS", "0", "a whole number of at least 1"),
    (f"{PREFIX}DEVICE_IDS", "cuda:0", "device numbers separated by commas"),
    (f"{PREFIX}DEVICE_IDS", ",", "device numbers separated by commas"),
    (f"{PREFIX}DEVICE_IDS", "0,-1", "device numbers separated by commas"),
    (f"{PREFIX}TASK_DEVICES", "ocr", "pairs task=number"),
    (f"{PREFIX}TASK_DEVICES", "ocr=first", "pairs task=number"),
    (f"{PREFIX}TASK_DEVICES", "search=0", "the tasks are clip, facial-recognition, ocr"),
    (f"{PREFIX}MODEL_ARENA", "maybe", "true or false"),
    (f"{PREFIX}MODEL_REVISION", "../x", "without slashes"),
    (f"{PREFIX}MODEL_REVISION", "..", "without slashes"),
    (f"{PREFIX}MODEL_ORGANIZATION", "a/b", "without slashes"),
    (f"{PREFIX}MAX_IMAGE_PIXELS", str(PILLOWS_LIMIT + 1), f"a number of pixels up to {PILLOWS_LIMIT}"),
    (f"{PREFIX}PROVIDER", "rocm", "one of auto, cuda, openvino, cpu"),
    (f"{PREFIX}OPENVINO_PRECISION", "int8", "one of FP32, FP16, BF16, auto"),
    (f"{PREFIX}CLIP_ALIASES", "ViT-B-32__openai", "pairs name=model"),
    (f"{PREFIX}CLIP_ALIASES", "ViT-B-32__openai=chinese-clip-vit-large-patch14", "Immich stores 512 numbers"),
    (f"{PREFIX}CLIP_ALIASES", f"{ALIASED}=models/mine", "the absolute path of a folder"),
    (f"{PREFIX}CLIP_ALIASES", f"{ALIASED}=https://example.org/mine", "the absolute path of a folder"),
    ("HF_HUB_OFFLINE", "perhaps", "true or false"),
]


def test_a_task_cannot_keep_to_a_gpu_that_is_not_used() -> None:
    with pytest.raises(SettingsError, match="puts ocr on GPU 2, but MACHINE_LEARNING_DEVICE_IDS names 0, 1"):
        read(MACHINE_LEARNING_DEVICE_IDS="0,1", MACHINE_LEARNING_TASK_DEVICES="clip=0,ocr=2")


@pytest.mark.parametrize(("variable", "value", "allowed"), WRONG)
def test_a_wrong_value_is_named_with_what_is_allowed(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{variable: value})
    message = str(caught.value)
    assert message.startswith(f"{variable}={value!r} cannot be used: it must be ")
    assert allowed in message
    assert "\n" not in message


SECRET = "hunter2-Secret"
SECRETIVE = [
    ("IMMICH_API", f"user:{SECRET}@host:3003", "it must be an address such as http://host:3003"),
    ("IMMICH_API", f"http://host:port/key/{SECRET}", "it must be an address such as http://host:3003"),
    ("IMMICH_API", f"http://host/?key={SECRET}", "it must be an address such as http://host:3003"),
    ("HF_ENDPOINT", f"ftp://user:{SECRET}@mirror", "it must be an address such as https://hf-mirror.com"),
    ("HF_ENDPOINT", f"user:{SECRET}@mirror:x", "it must be an address such as https://hf-mirror.com"),
    (f"{PREFIX}MODEL_SOURCE", f"ftp://user:{SECRET}@mirror", "mirrors are addresses of http or https"),
    (f"{PREFIX}MODEL_SOURCE", f"gitlab=https://user:{SECRET}@mirror", "not 'gitlab'"),
    (f"{PREFIX}MODEL_SOURCE", f"https://user:{SECRET},more@mirror", "mirrors are addresses of http or https"),
    (f"{PREFIX}MODEL_SOURCE", f"modelscope:{SECRET}", "or a mirror's address"),
    (f"{PREFIX}CLIP_ALIASES", f"{ALIASED}=https://user:{SECRET}@mirror/mine", "the absolute path of a folder"),
    ("IMMICH_PORT", f"http://user:{SECRET}@host", "a whole number"),
]


@pytest.mark.parametrize(("variable", "value", "allowed"), SECRETIVE)
def test_a_wrong_value_that_may_hold_a_secret_is_not_shown(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{variable: value})
    message = str(caught.value)
    assert message.startswith(f"{variable} cannot be used (its value may hold a password and is not shown): ")
    assert allowed in message
    assert SECRET not in message


STRANGE = (
    *("~nobody/x", "\0", "http://[", "http://u:p\u2100w@h", "tcp://", "=", ",", "，", "a=", "=a", "'"),
    *("1e999", "nan", "-0", "٣"),
)


def messages_about(**environ: str) -> list[str]:
    """What is said of an environment: why it is refused, or the settings and the remarks."""
    try:
        settings = read(**environ)
    except SettingsError as error:
        return [str(error)]
    return [repr(settings), *settings.remarks]


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.sampled_from(STRANGE) | st.text(max_size=20), max_size=4))
def test_whatever_is_set_is_used_or_refused_in_one_line(environ: dict[str, str]) -> None:
    assert not any("\n" in said for said in messages_about(**environ))


@given(
    st.sampled_from(["IMMICH_API", "HF_ENDPOINT", f"{PREFIX}MODEL_SOURCE", f"{PREFIX}API_KEY", "HF_TOKEN"]),
    st.text(max_size=8),
    st.text(max_size=8),
)
def test_whatever_is_around_a_secret_it_is_not_shown(variable: str, before: str, after: str) -> None:
    for text in (f"{before}{SECRET}{after}", f"http://{before}:{SECRET}@{after}", f"{before}=http://{SECRET}@{after}"):
        assert not any(SECRET in said for said in messages_about(**{variable: text}))


def test_secrets_are_in_no_repr() -> None:
    settings = read(
        MACHINE_LEARNING_API_KEY=SECRET,
        API_AUTH_KEY=SECRET,
        HF_TOKEN=SECRET,
        IMMICH_API=f"http://user:{SECRET}@host",
        HF_ENDPOINT=f"http://user:{SECRET}@host",
        MACHINE_LEARNING_MODEL_SOURCE=f"http://user:{SECRET}@host",
        HTTPS_PROXY=f"http://user:{SECRET}@proxy",
    )
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("quotes", ['"{}"', "'{}'", " “{}” ", ' " {} " '])
@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("IMMICH_PORT", "3311", 3311),
        ("IMMICH_LOG_LEVEL", "debug", "debug"),
        (f"{PREFIX}CACHE_FOLDER", "/data/model-cache", Path("/data/model-cache")),
        (f"{PREFIX}MODEL_TTL", "0", 0),
        (f"{PREFIX}PRELOAD__OCR__DETECTION", "PP-OCRv6_small", ("PP-OCRv6_small",)),
        (f"{PREFIX}API_KEY", "k3y", "k3y"),
    ],
)
def test_quotes_around_a_value_are_taken_off(quotes: str, variable: str, value: str, expected: Any) -> None:
    """`docker run --env-file` and templates of NAS systems leave them there."""
    settings = read(**{variable: quotes.format(value)})
    assert getattr(settings, FIELDS[variable]) == expected
    assert settings.remarks == ()


@pytest.mark.parametrize("empty", ['""', "''", ' " " '])
def test_empty_quotes_count_as_not_set(empty: str) -> None:
    assert Settings.from_env(dict.fromkeys(FIELDS, empty)) == Settings()


def test_the_case_of_immichs_variables_does_not_matter() -> None:
    assert read(immich_port="3311").port == 3311
    assert read(machine_learning_MODEL_ttl="7").model_ttl_s == 7
    assert read(immich_port="1", IMMICH_PORT="2").port == 2
    assert read(device="cuda", http_port="8060") == Settings(), "names that others use for other things"


def test_a_group_of_variables_may_be_one_of_json_as_immich_takes_it() -> None:
    whole = '{"clip": {"textual": "a, b", "visual": null}, "ocr": {"detection": "c"}}'
    settings = read(MACHINE_LEARNING_PRELOAD=whole, MACHINE_LEARNING_PRELOAD__OCR__DETECTION="d")
    assert settings == Settings(preload_clip_textual=("a", "b"), preload_ocr_detection=("d",))
    assert read(machine_learning_preload__ocr='{"recognition": "e"}') == Settings(preload_ocr_recognition=("e",))
    assert read(MACHINE_LEARNING_MAX_BATCH_SIZE='{"ocr": 4}') == Settings(max_batch_ocr=4)
    broken = read(MACHINE_LEARNING_PRELOAD='{"clip": ')
    assert broken == Settings(remarks=broken.remarks)
    assert "MACHINE_LEARNING_PRELOAD is not known" in broken.remarks[0]
    with pytest.raises(SettingsError, match="MACHINE_LEARNING_MAX_BATCH_SIZE__OCR='x' cannot be used"):
        read(MACHINE_LEARNING_MAX_BATCH_SIZE='{"ocr": "x"}')


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("MACHINE_LEARNING_CLIP_ALIAS", "MACHINE_LEARNING_CLIP_ALIASES"),
        ("MACHINE_LEARNING_PRELOAD_CLIP_TEXTUAL", "MACHINE_LEARNING_PRELOAD__CLIP__TEXTUAL"),
        ("machine_learning_preload_clip_textual", "MACHINE_LEARNING_PRELOAD__CLIP__TEXTUAL"),
        ("MACHINE_LEARNING_CACHE_FOLDERS", "MACHINE_LEARNING_CACHE_FOLDER"),
        ("MACHINE_LEARNING_DEVICE_ID", "MACHINE_LEARNING_DEVICE_IDS"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_one_that_is_meant(name: str, near: str) -> None:
    settings = read(**{name: SECRET})
    assert settings == Settings(remarks=settings.remarks)
    assert settings.remarks == (f"{name.upper()} is not known and does nothing; is {near} meant?",)


def test_an_unknown_variable_that_is_like_none_is_named() -> None:
    assert read(MACHINE_LEARNING_XYZ="1").remarks == ("MACHINE_LEARNING_XYZ is not known and does nothing",)


def test_what_kubernetes_sets_for_a_service_is_no_misspelling() -> None:
    service = "IMMICH_MACHINE_LEARNING", "MACHINE_LEARNING"
    parts = "SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_3003_TCP", "PORT_3003_TCP_ADDR", "SERVICE_PORT_HTTP"
    assert read(**{f"{name}_{part}": "x" for name in service for part in parts}).remarks == ()


@pytest.mark.parametrize(
    ("variable", "value", "taken", "remark"),
    [
        ("IMMICH_LOG_LEVEL", "loud", "log", "is none of verbose, debug, log, info, warn, error, critical"),
        ("HF_ENDPOINT", "hf-mirror.com", "https://hf-mirror.com", "does not begin with https://"),
        (f"{PREFIX}CACHE_FOLDER", "models", Path("models"), "is no absolute path: the models go to /"),
        (f"{PREFIX}MAX_BATCH_SIZE__OCR", "0", 6, "is less than 1"),
        (f"{PREFIX}MAX_BATCH_SIZE__FACIAL_RECOGNITION", "-1", None, "is less than 1"),
        (f"{PREFIX}WORKER_TIMEOUT", "0", 300, "is less than 1"),
        (f"{PREFIX}PRELOAD__OCR__MAX_RESOLUTION", "0", 736, "is less than 1"),
    ],
)
def test_what_immich_accepts_but_nobody_means_is_a_remark(variable: str, value: str, taken: Any, remark: str) -> None:
    settings = read(**{variable: value})
    assert getattr(settings, FIELDS[variable]) == taken
    (said,) = settings.remarks
    assert said.startswith(f"{variable} {remark}")


def test_an_old_name_is_read_where_the_new_one_is_not_set() -> None:
    old, new = f"{PREFIX}MAX_BATCH_SIZE__TEXT_RECOGNITION", f"{PREFIX}MAX_BATCH_SIZE__OCR"
    assert read(**{old: "3"}).max_batch_ocr == 3
    assert read(**{old: "3", new: ""}).max_batch_ocr == 3
    assert read(**{old: "3", new: "4"}).max_batch_ocr == 4
    with pytest.raises(SettingsError, match=f"^{old}="):
        read(**{old: "x"})


def test_aliases_are_applied_to_the_default_table() -> None:
    name = "ViT-L-16-SigLIP-256__webli"
    aliases = read(MACHINE_LEARNING_CLIP_ALIASES=f"RN50__openai=,{name}=chinese-clip-rn50").clip_aliases
    expected = {**DEFAULT_ALIASES, name: "chinese-clip-rn50"}
    del expected["RN50__openai"]
    assert aliases == expected
    only = read(MACHINE_LEARNING_CLIP_ALIASES="none, RN50__openai = chinese-clip-rn50").clip_aliases
    assert only == {"RN50__openai": "chinese-clip-rn50"}


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_is_read_by_somebody() -> None:
    """A variable that is documented but that no code looks at would do nothing."""
    read_names = {
        node.attr
        for file in (ROOT / "immich_ml_cn").rglob("*.py")
        if file.parent.name != "settings"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    unread = set(variables()) - read_names
    assert unread == set()


def test_the_english_document_names_every_variable_once() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([A-Z0-9_]+)` \|", text, re.MULTILINE)
    assert sorted(documented) == sorted([*FIELDS, *INERT])
    for variable in variables().values():
        assert all(f"`{alias}`" in text for alias in variable.aliases)


def test_every_meaning_is_a_sentence() -> None:
    assert list(meanings()) == list(FIELDS)
    assert all(meaning.endswith(".") for meaning in meanings().values())


def test_what_is_in_force_says_where_each_value_comes_from() -> None:
    settings = read(
        MACHINE_LEARNING_MODEL_TTL="60", MACHINE_LEARNING_CLIP_ALIAS="x", MACHINE_LEARNING_API_KEY="secret word"
    )
    rows = {row.variable: row for row in settings.in_force}
    assert set(FIELDS) <= set(rows)
    assert (rows["MACHINE_LEARNING_MODEL_TTL"].value, rows["MACHINE_LEARNING_MODEL_TTL"].source) == (
        "60",
        "environment",
    )
    port = rows["IMMICH_PORT"]
    assert (port.value, port.source, port.default) == ("3003", "default", "3003")
    unknown = rows["MACHINE_LEARNING_CLIP_ALIAS"]
    assert (unknown.value, unknown.source, unknown.near) == (None, "unknown", "MACHINE_LEARNING_CLIP_ALIASES")


def test_no_secret_is_in_force_for_people() -> None:
    given = dict.fromkeys(("IMMICH_API", "HF_ENDPOINT"), "http://user:hunter2@host")
    given |= dict.fromkeys(("MACHINE_LEARNING_API_KEY", "HF_TOKEN", "API_AUTH_KEY"), "hunter2")
    settings = read(**given)
    assert "hunter2" not in repr(settings.in_force)
    assert {row.variable for row in settings.in_force if row.value is None} == set(given)
