"""CLIP: Immich's own exports on Hugging Face, and Chinese-CLIP."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from .kinds import HubSnapshot, Kind, RemoteFile, Source, modelscope
from .tasks import Component

# Megabytes are parameters times four: nobody publishes the sizes of the exports, which differ by a few percent.
_OPENCLIP = """
RN101__openai 479
RN101__yfcc15m 479
RN50__cc12m 408
RN50__openai 408
RN50__yfcc15m 408
RN50x16__openai 1164
RN50x4__openai 713
RN50x64__openai 2493
ViT-B-16-SigLIP-256__webli 813
ViT-B-16-SigLIP-384__webli 814
ViT-B-16-SigLIP-512__webli 815
ViT-B-16-SigLIP-i18n-256__webli 1482
ViT-B-16-SigLIP2__webli 1501
ViT-B-16-SigLIP__webli 813
ViT-B-16-plus-240__laion400m_e31 834
ViT-B-16-plus-240__laion400m_e32 834
ViT-B-16__laion400m_e31 598
ViT-B-16__laion400m_e32 598
ViT-B-16__openai 598
ViT-B-32-SigLIP2-256__webli 1508
ViT-B-32__laion2b-s34b-b79k 605
ViT-B-32__laion2b_e16 605
ViT-B-32__laion400m_e31 605
ViT-B-32__laion400m_e32 605
ViT-B-32__openai 605
ViT-H-14-378-quickgelu__dfn5b 3944
ViT-H-14-quickgelu__dfn5b 3944
ViT-H-14__laion2b-s32b-b79k 3944
ViT-L-14-336__openai 1710
ViT-L-14-quickgelu__dfn2b 1710
ViT-L-14__laion2b-s32b-b82k 1710
ViT-L-14__laion400m_e31 1710
ViT-L-14__laion400m_e32 1710
ViT-L-14__openai 1710
ViT-L-16-SigLIP-256__webli 2609
ViT-L-16-SigLIP-384__webli 2610
ViT-L-16-SigLIP2-256__webli 3526
ViT-L-16-SigLIP2-384__webli 3526
ViT-L-16-SigLIP2-512__webli 3526
ViT-SO400M-14-SigLIP-384__webli 3512
ViT-SO400M-14-SigLIP2-378__webli 4544
ViT-SO400M-14-SigLIP2__webli 4544
ViT-SO400M-16-SigLIP2-256__webli 4544
ViT-SO400M-16-SigLIP2-384__webli 4544
ViT-SO400M-16-SigLIP2-512__webli 4544
ViT-g-14__laion2b-s12b-b42k 5467
ViT-gopt-16-SigLIP2-256__webli 7484
ViT-gopt-16-SigLIP2-384__webli 7484
XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k 1465
XLM-Roberta-Large-ViT-H-14__frozen_laion5b_s13b_b90k 4773
nllb-clip-base-siglip__mrl 2030
nllb-clip-base-siglip__v1 2030
nllb-clip-large-siglip__mrl 4782
nllb-clip-large-siglip__v1 4782
"""
_MCLIP = """
LABSE-Vit-L-14 3100
XLM-Roberta-Large-Vit-B-16Plus 2700
XLM-Roberta-Large-Vit-B-32 2600
XLM-Roberta-Large-Vit-L-14 3450
"""


def _table(text: str) -> Mapping[str, int]:
    """Name → bytes."""
    rows = (line.split() for line in text.strip().splitlines())
    return {name: int(megabytes) * 1_000_000 for name, megabytes in rows}


OPENCLIP: Mapping[str, int] = _table(_OPENCLIP)
"""Immich's OpenCLIP exports and their rough size in bytes, both components together."""

MCLIP: Mapping[str, int] = _table(_MCLIP)
"""Immich's M-CLIP exports and their rough size in bytes, both components together."""


_IN_TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class ChineseClip:
    """Where one Chinese-CLIP is.

    Attributes:
        checkpoint: the official weights' file name, the same on both hubs.
        towers: stem of the two fp32 graphs of a ready conversion on ModelScope, None where nobody made one.
        checkpoint_sha256: of the official weights, None where unknown.
        size: rough, in bytes of the fp32 graphs.
        joint: a conversion on Hugging Face with both towers in one graph.
    """

    checkpoint: str
    towers: str | None = None
    checkpoint_sha256: str | None = None
    size: int = 0
    joint: bool = False


CHINESE_CLIP: Mapping[str, ChineseClip] = {
    "chinese-clip-rn50": ChineseClip("clip_cn_rn50.pt", size=308_000_000),
    "chinese-clip-vit-base-patch16": ChineseClip(
        "clip_cn_vit-b-16.pt",
        "ViT-B-16",
        "5997ef32c50de18f3ac06eb5d746c324a639053c3bed8f2986f97ebb22b2ecde",
        size=753_000_000,
        joint=True,
    ),
    "chinese-clip-vit-large-patch14": ChineseClip("clip_cn_vit-l-14.pt", "ViT-L-14", size=1_630_000_000, joint=True),
    "chinese-clip-vit-large-patch14-336px": ChineseClip(
        "clip_cn_vit-l-14-336.pt", "ViT-L-14-336", size=1_630_000_000, joint=True
    ),
    "chinese-clip-vit-huge-patch14": ChineseClip("clip_cn_vit-h-14.pt", size=3_830_000_000),
}


def checkpoint_names(model: str) -> tuple[str, ...]:
    """The files that can hold a Chinese-CLIP's weights: cn_clip's, then transformers', which knows no ResNet.

    Raises:
        KeyError: not a Chinese-CLIP.
    """
    official = CHINESE_CLIP[model].checkpoint
    return (official,) if model == "chinese-clip-rn50" else (official, *_IN_TRANSFORMERS)


def checkpoint_sources(model: str) -> tuple[Source, ...]:
    """The official weights of a Chinese-CLIP: cn_clip's file of either hub, then transformers' files of them.

    Raises:
        KeyError: not a Chinese-CLIP.
    """
    return tuple(source for name in checkpoint_names(model) for source in _checkpoint(model, name))


def _checkpoint(model: str, name: str) -> tuple[Source, ...]:
    entry = CHINESE_CLIP[model]
    sha256 = entry.checkpoint_sha256 if name == entry.checkpoint else None
    path = PurePosixPath(name)
    hub = HubSnapshot(f"OFA-Sys/{model}", "main", (name,), (path,), (), ((name, sha256),) if sha256 else ())
    url = modelscope(f"AI-ModelScope/{model}", name)
    return (Source(Kind.HUGGINGFACE, hub), Source(Kind.MODELSCOPE, (RemoteFile(path, url, sha256),)))


def joint_source(model: str) -> Source | None:
    """A conversion of a Chinese-CLIP with both towers in one graph (``onnx/model.onnx``), None where there is none."""
    if model not in CHINESE_CLIP or not CHINESE_CLIP[model].joint:
        return None
    graph = "onnx/model.onnx"
    snapshot = HubSnapshot(f"Xenova/{model}", "main", (graph,), (PurePosixPath(graph),), ())
    return Source(Kind.HUGGINGFACE, snapshot, third_party=True)


def immich_clip(repo: str, revision: str, component: Component | None) -> Source:
    """Immich's export of a model, or one component of it."""
    required = {
        "visual": ("visual/model.onnx", "visual/preprocess_cfg.json"),
        "textual": ("textual/model.onnx", "textual/tokenizer.json", "config.json"),
    }
    components = list(required) if component is None else [component]
    names = [name for each in components for name in required[each]]
    allow = ("config.json", *(f"{each}/*" for each in components))
    snapshot = HubSnapshot(repo, revision, allow, tuple(PurePosixPath(name) for name in names))
    return Source(Kind.HUGGINGFACE, snapshot)


def chinese_clip(entry: ChineseClip, component: Component | None) -> tuple[Source, ...]:
    """Ready conversions of a Chinese-CLIP, or of one component; () where there are none. We bring the tokenizer."""
    if entry.towers is None:
        return ()
    repo = f"deadash/chinese_clip_{entry.towers}"
    stem = f"models/{entry.towers.replace('ViT', 'Vit')}"
    addresses = {
        "visual/model.onnx": modelscope(repo, f"{stem}.img.fp32.onnx"),
        "textual/model.onnx": modelscope(repo, f"{stem}.txt.fp32.onnx"),
    }
    files = tuple(
        RemoteFile(PurePosixPath(path), url)
        for path, url in addresses.items()
        if component is None or path.startswith(f"{component}/")
    )
    return (Source(Kind.MODELSCOPE, files, third_party=True),)
