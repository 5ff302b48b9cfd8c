"""Where every model we can serve comes from: the one table of real addresses.

Pure data. `sources_for` answers in the order in which the sources are tried; all sources of one model bring the same
files to the same places, Immich's cache layout: ``<cache>/<task>/<model>[/<revision>]/<type>/model.onnx``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from .errors import UnknownModel


class Kind(StrEnum):
    """The places models are fetched from."""

    HUGGINGFACE = "huggingface"
    MODELSCOPE = "modelscope"
    GITHUB = "github"


BASES: Mapping[Kind, str] = {
    Kind.HUGGINGFACE: "https://huggingface.co",
    Kind.MODELSCOPE: "https://www.modelscope.cn",
    Kind.GITHUB: "https://github.com",
}
"""What every address of a kind begins with; a mirror takes its place."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at an address of its own.

    Attributes:
        path: where it lands, relative to the model's folder.
        sha256: 64 lower-case hex digits, None where nobody published one.
        size: bytes, None where unknown.
    """

    path: PurePosixPath
    url: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside an archive.

    Attributes:
        name: its exact name inside the archive.
        path: where it lands, relative to the model's folder.
    """

    name: str
    path: PurePosixPath
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip of which only `members` are unpacked."""

    url: str
    members: tuple[Member, ...]
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """Files of a Hugging Face repository, landing under their names there.

    Attributes:
        allow, ignore: shell patterns on the names (``*`` also matches ``/``).
        required: the files without which the model cannot be loaded.
        pinned: name → sha256 that the hub has to promise, where we know it from elsewhere.
    """

    repo: str
    revision: str
    allow: tuple[str, ...]
    required: tuple[PurePosixPath, ...]
    ignore: tuple[str, ...] = ("*.armnn", "*/fp16/*", "*rknpu*")
    pinned: tuple[tuple[str, str], ...] = ()


Content: TypeAlias = tuple[RemoteFile, ...] | Archive | HubSnapshot


@dataclass(frozen=True, slots=True)
class Source:
    """One place that has all files of a model (or of one half of it)."""

    kind: Kind
    content: Content

    @property
    def required(self) -> tuple[PurePosixPath, ...]:
        """The files that make the model loadable, relative to its folder."""
        match self.content:
            case HubSnapshot(required=required):
                return required
            case Archive(members=members):
                return tuple(member.path for member in members)
            case files:
                return tuple(file.path for file in files)


_OPENCLIP = """
RN101__openai RN101__yfcc15m RN50__cc12m RN50__openai RN50__yfcc15m RN50x16__openai RN50x4__openai RN50x64__openai
ViT-B-16-SigLIP-256__webli ViT-B-16-SigLIP-384__webli ViT-B-16-SigLIP-512__webli ViT-B-16-SigLIP-i18n-256__webli
ViT-B-16-SigLIP__webli ViT-B-16-SigLIP2__webli ViT-B-16-plus-240__laion400m_e31 ViT-B-16-plus-240__laion400m_e32
ViT-B-16__laion400m_e31 ViT-B-16__laion400m_e32 ViT-B-16__openai ViT-B-32-SigLIP2-256__webli
ViT-B-32__laion2b-s34b-b79k ViT-B-32__laion2b_e16 ViT-B-32__laion400m_e31 ViT-B-32__laion400m_e32 ViT-B-32__openai
ViT-H-14-378-quickgelu__dfn5b ViT-H-14-quickgelu__dfn5b ViT-H-14__laion2b-s32b-b79k ViT-L-14-336__openai
ViT-L-14-quickgelu__dfn2b ViT-L-14__laion2b-s32b-b82k ViT-L-14__laion400m_e31 ViT-L-14__laion400m_e32 ViT-L-14__openai
ViT-L-16-SigLIP-256__webli ViT-L-16-SigLIP-384__webli ViT-L-16-SigLIP2-256__webli ViT-L-16-SigLIP2-384__webli
ViT-L-16-SigLIP2-512__webli ViT-SO400M-14-SigLIP-384__webli ViT-SO400M-14-SigLIP2-378__webli
ViT-SO400M-14-SigLIP2__webli ViT-SO400M-16-SigLIP2-256__webli ViT-SO400M-16-SigLIP2-384__webli
ViT-SO400M-16-SigLIP2-512__webli ViT-g-14__laion2b-s12b-b42k ViT-gopt-16-SigLIP2-256__webli
ViT-gopt-16-SigLIP2-384__webli XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k
XLM-Roberta-Large-ViT-H-14__frozen_laion5b_s13b_b90k nllb-clip-base-siglip__mrl nllb-clip-base-siglip__v1
nllb-clip-large-siglip__mrl nllb-clip-large-siglip__v1
"""
_MCLIP = "LABSE-Vit-L-14 XLM-Roberta-Large-Vit-B-16Plus XLM-Roberta-Large-Vit-B-32 XLM-Roberta-Large-Vit-L-14"

OPENCLIP_NAMES = tuple(_OPENCLIP.split())
MCLIP_NAMES = tuple(_MCLIP.split())


@dataclass(frozen=True, slots=True)
class ChineseClip:
    """Where one Chinese-CLIP is.

    Attributes:
        checkpoint: the official weights' file name, the same on both hubs.
        towers: stem of the two fp32 graphs of a ready conversion on ModelScope, None where nobody made one.
        checkpoint_sha256: of the official weights, None where unknown.
        joint: a conversion on Hugging Face with both towers in one graph.
    """

    checkpoint: str
    towers: str | None = None
    checkpoint_sha256: str | None = None
    joint: bool = False


CHINESE_CLIP: Mapping[str, ChineseClip] = {
    "chinese-clip-rn50": ChineseClip("clip_cn_rn50.pt"),
    "chinese-clip-vit-base-patch16": ChineseClip(
        "clip_cn_vit-b-16.pt",
        "ViT-B-16",
        "5997ef32c50de18f3ac06eb5d746c324a639053c3bed8f2986f97ebb22b2ecde",
        joint=True,
    ),
    "chinese-clip-vit-large-patch14": ChineseClip("clip_cn_vit-l-14.pt", "ViT-L-14", joint=True),
    "chinese-clip-vit-large-patch14-336px": ChineseClip("clip_cn_vit-l-14-336.pt", "ViT-L-14-336", joint=True),
    "chinese-clip-vit-huge-patch14": ChineseClip("clip_cn_vit-h-14.pt"),
}

_SCRFD_10G = ("5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91", 16_923_827)
_SCRFD_2_5G = ("041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9", 3_292_009)
_SCRFD_500M = ("5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a", 2_524_817)
_W600K_R50 = ("4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43", 174_383_860)
_W600K_MBF = ("9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f", 13_616_099)
_GLINTR100 = ("4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf", 260_665_334)
_DETECTION = PurePosixPath("detection/model.onnx")
_RECOGNITION = PurePosixPath("recognition/model.onnx")


def _pack(name: str, sha256: str, size: int, *members: Member) -> Archive:
    url = f"{BASES[Kind.GITHUB]}/deepinsight/insightface/releases/download/v0.7/{name}.zip"
    return Archive(url, members, sha256, size)


INSIGHTFACE: Mapping[str, Archive] = {
    "antelopev2": _pack(
        "antelopev2",
        "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
        360_662_982,
        Member("antelopev2/scrfd_10g_bnkps.onnx", _DETECTION, *_SCRFD_10G),
        Member("antelopev2/glintr100.onnx", _RECOGNITION, *_GLINTR100),
    ),
    "buffalo_s": _pack(
        "buffalo_s",
        "d85a87f503f691807cd8bb97128bdf7a0660326cd9cd02657127fa978bab8b5e",
        127_607_557,
        Member("det_500m.onnx", _DETECTION, *_SCRFD_500M),
        Member("w600k_mbf.onnx", _RECOGNITION, *_W600K_MBF),
    ),
    "buffalo_m": _pack(
        "buffalo_m",
        "d98264bd8f2dc75cbc2ddce2a14e636e02bb857b3051c234b737bf3b614edca9",
        275_951_529,
        Member("det_2.5g.onnx", _DETECTION, *_SCRFD_2_5G),
        Member("w600k_r50.onnx", _RECOGNITION, *_W600K_R50),
    ),
    "buffalo_l": _pack(
        "buffalo_l",
        "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        288_621_354,
        Member("det_10g.onnx", _DETECTION, *_SCRFD_10G),
        Member("w600k_r50.onnx", _RECOGNITION, *_W600K_R50),
    ),
}

_OCR_SIZES: Mapping[str, tuple[str, ...]] = {
    "PP-OCRv6": ("tiny", "small", "medium"),
    "PP-OCRv5": ("mobile", "server"),
    "PP-OCRv4": ("mobile", "server"),
}
_OCR_SECTIONS = {"detection": "det", "recognition": "rec"}
_MAIN = "main"


def model_names(task: str) -> tuple[str, ...]:
    """Every model of a task (``clip``, ``facial-recognition``, ``ocr``) that has a source; () for another task.

    Reads RapidOCR's table for ``ocr`` (17 ms with libyaml).
    """
    match task:
        case "clip":
            return (*CHINESE_CLIP, *OPENCLIP_NAMES, *MCLIP_NAMES)
        case "facial-recognition":
            return tuple(INSIGHTFACE)
        case "ocr":
            return _ocr_names()
    return ()


def folder_for(task: str, model: str, type: str | None = None, *, revision: str = _MAIN) -> PurePosixPath:
    """The folder a model's files lie in, relative to the cache: Immich's layout, 2.x and 3.3's revisions.

    The detector of a language-prefixed OCR model is shared: it lies in the folder of the name without the prefix.
    """
    if task == "ocr" and type == "detection":
        model = model.rpartition("__")[2]
    folder = PurePosixPath(task, model)
    return folder if revision == _MAIN else folder / revision


def sources_for(
    task: str,
    model: str,
    type: str | None = None,
    *,
    organization: str = "immich-app",
    revision: str = _MAIN,
) -> tuple[Source, ...]:
    """The places that have a model, in the order in which they are tried.

    Args:
        task: ``clip``, ``facial-recognition`` or ``ocr``.
        model: a clean model name, e.g. ``ViT-B-32__openai``.
        type: one half only (``visual``, ``textual``, ``detection``, ``recognition``); None for both.
        organization: who has Immich's exports on Hugging Face.
        revision: of Immich's exports; another than ``main`` is had from Hugging Face only.

    Returns:
        () where nobody offers ready files: Chinese-CLIP RN50 and ViT-H-14 have to be exported.

    Raises:
        UnknownModel: the task has no such model.
    """
    if task == "clip" and model in CHINESE_CLIP:
        return _chinese_clip(CHINESE_CLIP[model], type)
    if task == "clip" and model in (*OPENCLIP_NAMES, *MCLIP_NAMES):
        return (_immich_clip(f"{organization}/{model}", revision, type),)
    if task == "facial-recognition" and model in INSIGHTFACE:
        return _faces(model, type, organization, revision)
    if task == "ocr":
        return _ocr(model, type, organization, revision)
    raise UnknownModel(f"no model {model!r} for {task}; `immich-ml-cn models list` shows them all")


def checkpoint_sources(model: str) -> tuple[Source, ...]:
    """The official PyTorch weights of a Chinese-CLIP, for the export.

    Raises:
        KeyError: not a Chinese-CLIP.
    """
    entry = CHINESE_CLIP[model]
    pins = ((entry.checkpoint, entry.checkpoint_sha256),) if entry.checkpoint_sha256 else ()
    path = PurePosixPath(entry.checkpoint)
    hub = HubSnapshot(f"OFA-Sys/{model}", _MAIN, (entry.checkpoint,), (path,), (), pins)
    url = _modelscope(f"AI-ModelScope/{model}", entry.checkpoint)
    return (
        Source(Kind.HUGGINGFACE, hub),
        Source(Kind.MODELSCOPE, (RemoteFile(path, url, entry.checkpoint_sha256),)),
    )


def joint_source(model: str) -> Source | None:
    """A conversion of a Chinese-CLIP with both towers in one graph (``onnx/model.onnx``), None where there is none."""
    if not CHINESE_CLIP[model].joint:
        return None
    names = ("onnx/model.onnx", "tokenizer.json")
    required = tuple(PurePosixPath(name) for name in names)
    return Source(Kind.HUGGINGFACE, HubSnapshot(f"Xenova/{model}", _MAIN, names, required, ()))


def bundled(task: str, model: str, type: str) -> Path | None:
    """The file of a model that RapidOCR's wheel carries (PP-OCRv6_small), None for all others.

    RapidOCR is found, not imported: that would cost a second.
    """
    if task != "ocr" or type not in _OCR_SECTIONS:
        return None
    package = _rapidocr()
    if package is None:
        return None
    path = package / "models" / f"PP-OCRv6_{_OCR_SECTIONS[type]}_small.onnx"
    return path if model == "PP-OCRv6_small" and path.is_file() else None


def bundled_orientation() -> Path | None:
    """PP-OCR's classifier of upside-down lines in RapidOCR's wheel, None where the package is missing."""
    package = _rapidocr()
    path = None if package is None else package / "models" / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
    return path if path is not None and path.is_file() else None


def _modelscope(repo: str, name: str) -> str:
    return f"{BASES[Kind.MODELSCOPE]}/models/{repo}/resolve/master/{name}"


def _immich_clip(repo: str, revision: str, type: str | None) -> Source:
    required = {
        "visual": ("visual/model.onnx", "visual/preprocess_cfg.json"),
        "textual": ("textual/model.onnx", "textual/tokenizer.json", "config.json"),
    }
    halves = [half for half in required if type in (half, None)]
    names = [name for half in halves for name in required[half]]
    allow = ("config.json", *(f"{half}/*" for half in halves))
    snapshot = HubSnapshot(repo, revision, allow, tuple(PurePosixPath(name) for name in names))
    return Source(Kind.HUGGINGFACE, snapshot)


def _chinese_clip(entry: ChineseClip, type: str | None) -> tuple[Source, ...]:
    if entry.towers is None:
        return ()
    repo = f"deadash/chinese_clip_{entry.towers}"
    stem = f"models/{entry.towers.replace('ViT', 'Vit')}"
    addresses = {
        "visual/model.onnx": _modelscope(repo, f"{stem}.img.fp32.onnx"),
        "textual/model.onnx": _modelscope(repo, f"{stem}.txt.fp32.onnx"),
        "textual/tokenizer.json": _modelscope("deadash/chinese_clip", "clip_cn_tokenizer.json"),
    }
    files = tuple(
        RemoteFile(PurePosixPath(path), url)
        for path, url in addresses.items()
        if type is None or path.startswith(f"{type}/")
    )
    return (Source(Kind.MODELSCOPE, files),)


def _faces(model: str, type: str | None, organization: str, revision: str) -> tuple[Source, ...]:
    pack = INSIGHTFACE[model]
    members = tuple(m for m in pack.members if type is None or m.path.parts[0] == type)
    paths = tuple(member.path for member in members)
    allow = tuple(f"{path.parts[0]}/*" for path in paths)
    hub = Source(Kind.HUGGINGFACE, HubSnapshot(f"{organization}/{model}", revision, allow, paths))
    if revision != _MAIN:
        return (hub,)
    return hub, Source(Kind.GITHUB, replace(pack, members=members))


def _ocr(model: str, type: str | None, organization: str, revision: str) -> tuple[Source, ...]:
    files = tuple(_ocr_file(model, half) for half in _OCR_SECTIONS if type is None or half == type)
    if revision == _MAIN:
        return (Source(Kind.MODELSCOPE, files),)
    name = folder_for("ocr", model, type).name
    allow = ("*.json", "*.txt", *(f"{file.path.parts[0]}/*" for file in files))
    paths = tuple(file.path for file in files)
    return (Source(Kind.HUGGINGFACE, HubSnapshot(f"{organization}/{name}", revision, allow, paths)),)


def _ocr_file(model: str, type: str) -> RemoteFile:
    prefix, _, name = model.rpartition("__")
    version, _, size = name.partition("_")
    language = prefix.lower() if prefix and type == "recognition" else "ch"
    key = _ocr_key(version, _OCR_SECTIONS[type], size, language)
    if key is None:
        raise UnknownModel(f"no OCR model {model!r}; there are {', '.join(_ocr_names())}")
    entry = _ocr_table()["onnxruntime"][version][_OCR_SECTIONS[type]][key]
    return RemoteFile(PurePosixPath(type, "model.onnx"), entry["model_dir"], entry["SHA256"])


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


def _ocr_names() -> tuple[str, ...]:
    plain = [f"{version}_{size}" for version, sizes in _OCR_SIZES.items() for size in sizes]
    routes = _ocr_table()["model_routes"]["PP-OCRv5"]["rec"]
    prefixed = [
        f"{route['lang'].upper()}__PP-OCRv5_{size}" for size in _OCR_SIZES["PP-OCRv5"] for route in routes[size]
    ]
    return (*plain, *prefixed)


def _rapidocr() -> Path | None:
    spec = find_spec("rapidocr")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@lru_cache(maxsize=1)
def _ocr_table() -> Mapping[str, Any]:
    """RapidOCR's own table of every PP-OCR model, its address and sha256."""
    import yaml  # type: ignore[import-untyped]

    package = _rapidocr()
    if package is None:
        raise UnknownModel("OCR models need the package rapidocr, which is not installed")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with (package / "default_models.yaml").open("rb") as file:
        table: Mapping[str, Any] = yaml.load(file, Loader=loader)  # noqa: S506 - a safe loader
    return table
