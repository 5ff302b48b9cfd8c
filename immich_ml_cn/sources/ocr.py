"""PP-OCR: RapidOCR's own table of every model, read without importing RapidOCR (that would cost a second)."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from immich_ml_cn.errors import UnknownModel
from immich_ml_cn.messages import tr

from .kinds import HubSnapshot, Kind, RemoteFile, Source
from .tasks import Component, ModelTask

_OCR_SIZES: Mapping[str, tuple[str, ...]] = {
    "PP-OCRv6": ("tiny", "small", "medium"),
    "PP-OCRv5": ("mobile", "server"),
    "PP-OCRv4": ("mobile", "server"),
}
_MEGABYTES: Mapping[str, int] = {
    "PP-OCRv6_tiny": 6,
    "PP-OCRv6_small": 31,
    "PP-OCRv6_medium": 139,
    "PP-OCRv5_mobile": 21,
    "PP-OCRv5_server": 173,
    "PP-OCRv4_mobile": 16,
    "PP-OCRv4_server": 204,
}
_MEGABYTES_OF_LANGUAGE = {"CH": 21, "KOREAN": 19, "LATIN": 19, "ESLAV": 19}
"""Of a mobile recogniser with its detector; those of the other alphabets have 13."""
_OCR_SECTIONS = {Component.DETECTION: "det", Component.RECOGNITION: "rec"}


def bundled(task: ModelTask, model: str, component: Component) -> Path | None:
    """The file of a model that RapidOCR's wheel carries (both components of PP-OCRv6_small), None for all others."""
    if task != ModelTask.OCR or model != "PP-OCRv6_small" or component not in _OCR_SECTIONS:
        return None
    return _carried(f"PP-OCRv6_{_OCR_SECTIONS[component]}_small.onnx")


def bundled_orientation() -> Path | None:
    """The classifier in RapidOCR's wheel that tells upright lines from upside-down ones."""
    return _carried("ch_ppocr_mobile_v2.0_cls_mobile.onnx")


def _carried(name: str) -> Path | None:
    package = _rapidocr()
    path = None if package is None else package / "models" / name
    return path if path is not None and path.is_file() else None


def pp_ocr(model: str, component: Component | None, organization: str, revision: str) -> tuple[Source, ...]:
    """A model or one component of it; another revision than Immich's ``main`` is had from Hugging Face only.

    Raises:
        UnknownModel: no such version, size or language.
    """
    files = tuple(_ocr_file(model, each) for each in _OCR_SECTIONS if component in (each, None))
    if revision == "main":
        return (Source(Kind.MODELSCOPE, files),)
    name = model.rpartition("__")[2] if component == Component.DETECTION else model
    allow = ("*.json", "*.txt", *(f"{file.path.parts[0]}/*" for file in files))
    paths = tuple(file.path for file in files)
    return (Source(Kind.HUGGINGFACE, HubSnapshot(f"{organization}/{name}", revision, allow, paths)),)


def _ocr_file(model: str, component: Component) -> RemoteFile:
    prefix, _, name = model.rpartition("__")
    version, _, size = name.partition("_")
    language = prefix.lower() if prefix and component == Component.RECOGNITION else "ch"
    key = _ocr_key(version, _OCR_SECTIONS[component], size, language)
    if key is None:
        raise UnknownModel(tr("no OCR model {model!r}; there are {names}", model=model, names=", ".join(ocr_names())))
    entry = _ocr_table()["onnxruntime"][version][_OCR_SECTIONS[component]][key]
    return RemoteFile(PurePosixPath(component, "model.onnx"), entry["model_dir"], entry["SHA256"])


def _ocr_key(version: str, section: str, size: str, language: str) -> str | None:
    if size not in _OCR_SIZES.get(version, ()):
        return None
    table = _ocr_table()["model_routes"][version]
    aliases = {**table.get("aliases", {}), **table[section].get("aliases", {})}
    language = aliases.get(language, language)
    for route in table[section][size]:
        if language in (route["lang"], *route["supported_langs"]):
            return str(route["model_key"])
    return None


def ocr_names() -> tuple[str, ...]:
    """Every model of the table, as Immich names them."""
    plain = [f"{version}_{size}" for version, sizes in _OCR_SIZES.items() for size in sizes]
    routes = _ocr_table()["model_routes"]["PP-OCRv5"]["rec"]
    prefixed = [
        f"{route['lang'].upper()}__PP-OCRv5_{size}" for size in _OCR_SIZES["PP-OCRv5"] for route in routes[size]
    ]
    return (*plain, *prefixed)


def rough_ocr_size(model: str) -> int:
    """Bytes of both halves, by PaddleOCR's and RapidOCR's lists: for a list, not for a check."""
    language, _, name = model.rpartition("__")
    if not language or name != "PP-OCRv5_mobile":
        return _MEGABYTES[name] * 1_000_000
    return _MEGABYTES_OF_LANGUAGE.get(language, 13) * 1_000_000


def _rapidocr() -> Path | None:
    spec = find_spec("rapidocr")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@lru_cache(maxsize=1)
def _ocr_table() -> Mapping[str, Any]:
    """RapidOCR's own table of every PP-OCR model, its address and sha256."""
    import yaml  # type: ignore[import-untyped]

    package = _rapidocr()
    if package is None:
        raise UnknownModel(tr("OCR models need the package rapidocr, which is not installed"))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with (package / "default_models.yaml").open("rb") as file:
        table: Mapping[str, Any] = yaml.load(file, Loader=loader)  # noqa: S506 - a safe loader
    return table
