"""The environment as a whole: what is no setting of ours, and what is looked at before there are settings."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from typing import Final

from immich_ml_cn.messages import Language, Message, language_for, tr

from .values import unquoted
from .variables import SettingInForce

INERT: Final[Mapping[str, str]] = {
    "MACHINE_LEARNING_ANN": "ARM NN acceleration",
    "MACHINE_LEARNING_ANN_FP16_TURBO": "ARM NN acceleration",
    "MACHINE_LEARNING_ANN_TUNING_LEVEL": "ARM NN acceleration",
    "MACHINE_LEARNING_RKNN": "Rockchip acceleration",
    "MACHINE_LEARNING_RKNN_THREADS": "Rockchip acceleration",
    "MACHINE_LEARNING_ROCM_PRECISION": "AMD ROCm",
    "MACHINE_LEARNING_TEST_FULL": "Immich's own tests",
    "IMMICH_ENV": "nothing, in Immich's service either",
}
"""Variables of Immich's service that are accepted and do nothing here, each with what it is for."""

PROVIDERS_OF_DEVICE: Final = ("cuda", "cpu")
"""Values of DEVICE that name a provider; Immich's own images set others too."""

NO_TELEMETRY: Final[Mapping[str, str]] = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Libraries that would report to their makers: ONNX Runtime 1.32 sends events and keeps a database of them in ~."""

PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")
"""Variables that the libraries read themselves, and that may hold a password."""

ANY_CASE: Final = ("IMMICH_", "MACHINE_LEARNING_")
"""Beginnings of the variables whose case does not matter to Immich's own service."""

GROUPS: Final = ("MACHINE_LEARNING_PRELOAD", "MACHINE_LEARNING_MAX_BATCH_SIZE")
"""Beginnings of the variables that may be one of JSON."""

PREFIX: Final = "MACHINE_LEARNING_"
"""Of variables that nobody else has a use for."""


def locale_language(environ: Mapping[str, str] = os.environ) -> Language:
    """The language that an environment asks for, before and without its settings; English where it asks for another."""
    for variable in ("IMMICH_ML_CN_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        if locale := environ.get(variable, ""):
            return language_for(locale) or "en"
    return "en"


def switch_telemetry_off(environ: MutableMapping[str, str] = os.environ) -> None:
    """Tell the libraries, before they are imported, to report nothing; what the user has set stays."""
    for variable, value in NO_TELEMETRY.items():
        environ.setdefault(variable, value)


def as_meant(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without quotes around its values, Immich's variables in upper case (those that are so win), and
    each with a variable of its own."""
    renamed = {name.upper(): value for name, value in environ.items() if name.upper().startswith(ANY_CASE)}
    plain = {name: unquoted(value) for name, value in {**renamed, **environ}.items()}
    groups = [name for name, value in plain.items() if name.startswith(GROUPS) and value.lstrip().startswith("{")]
    members = [member for name in groups for member in _members(name, _json_or_text(plain.pop(name)))]
    return {**dict(members), **plain}


def _members(name: str, value: object) -> Iterator[tuple[str, str]]:
    """The variables that a JSON object stands for: pydantic-settings takes one for a group, and Immich with it."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _members(f"{name}__{key}".upper(), member)
    elif value is not None:
        yield name, str(value)


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def unknown(environ: Mapping[str, str], known: Collection[str]) -> Iterator[SettingInForce]:
    """Variables that look like ours, but are none of the known ones."""
    rests = [name.removeprefix(PREFIX) for name in known if name.startswith(PREFIX)]
    for name in sorted(environ.keys() - set(known)):
        if name.startswith(PREFIX) and not _is_kubernetes(name, environ):
            near = get_close_matches(name.removeprefix(PREFIX), rests, n=1)
            yield SettingInForce(name, None, "unknown", near=PREFIX + near[0] if near else None)


def remark_on(unknown: SettingInForce) -> Message:
    """What is said of a variable that does nothing."""
    if unknown.near is None:
        return tr("{name} is not known and does nothing", name=unknown.variable)
    return tr("{name} is not known and does nothing; is {near} meant?", name=unknown.variable, near=unknown.near)


def _is_kubernetes(name: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable is one of those that Kubernetes sets for each Service of a namespace."""
    services = [host.removesuffix("_SERVICE_HOST") for host in environ if host.endswith("_SERVICE_HOST")]
    return any(name.startswith((f"{service}_SERVICE_", f"{service}_PORT")) for service in services)
