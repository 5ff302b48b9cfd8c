"""Names of CLIP models: what Immich's server accepts with which dimension, and which of them Chinese-CLIP answers to.

An unmodified Immich server takes only the names of its own list and lays out its database by the listed dimension, so
Chinese-CLIP answers under the name of the same architecture.
"""

from collections.abc import Iterable, Mapping
from typing import Final

_BY_DIMENSION: Final[Mapping[int, str]] = {
    512: """
        RN101__openai RN101__yfcc15m ViT-B-16__laion400m_e31 ViT-B-16__laion400m_e32 ViT-B-16__openai
        ViT-B-32__laion2b-s34b-b79k ViT-B-32__laion2b_e16 ViT-B-32__laion400m_e31 ViT-B-32__laion400m_e32
        ViT-B-32__openai XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k XLM-Roberta-Large-Vit-B-32
    """,
    640: """
        RN50x4__openai ViT-B-16-plus-240__laion400m_e31 ViT-B-16-plus-240__laion400m_e32 XLM-Roberta-Large-Vit-B-16Plus
    """,
    768: """
        LABSE-Vit-L-14 RN50x16__openai ViT-B-16-SigLIP-256__webli ViT-B-16-SigLIP-384__webli ViT-B-16-SigLIP-512__webli
        ViT-B-16-SigLIP-i18n-256__webli ViT-B-16-SigLIP2__webli ViT-B-16-SigLIP__webli ViT-B-32-SigLIP2-256__webli
        ViT-L-14-336__openai ViT-L-14-quickgelu__dfn2b ViT-L-14__laion2b-s32b-b82k ViT-L-14__laion400m_e31
        ViT-L-14__laion400m_e32 ViT-L-14__openai XLM-Roberta-Large-Vit-L-14 nllb-clip-base-siglip__mrl
        nllb-clip-base-siglip__v1
    """,
    1024: """
        RN50__cc12m RN50__openai RN50__yfcc15m RN50x64__openai ViT-H-14-378-quickgelu__dfn5b ViT-H-14-quickgelu__dfn5b
        ViT-H-14__laion2b-s32b-b79k ViT-L-16-SigLIP-256__webli ViT-L-16-SigLIP-384__webli ViT-L-16-SigLIP2-256__webli
        ViT-L-16-SigLIP2-384__webli ViT-L-16-SigLIP2-512__webli ViT-g-14__laion2b-s12b-b42k
        XLM-Roberta-Large-ViT-H-14__frozen_laion5b_s13b_b90k
    """,
    1152: """
        ViT-SO400M-14-SigLIP-384__webli ViT-SO400M-14-SigLIP2-378__webli ViT-SO400M-14-SigLIP2__webli
        ViT-SO400M-16-SigLIP2-256__webli ViT-SO400M-16-SigLIP2-384__webli ViT-SO400M-16-SigLIP2-512__webli
        nllb-clip-large-siglip__mrl nllb-clip-large-siglip__v1
    """,
    1536: "ViT-gopt-16-SigLIP2-256__webli ViT-gopt-16-SigLIP2-384__webli",
}

LISTED_DIMENSIONS: Final[Mapping[str, int]] = {
    name: dimension for dimension, names in _BY_DIMENSION.items() for name in names.split()
}
"""Every CLIP name Immich's server accepts → the length of its embeddings."""

CHINESE_CLIP_DIMENSIONS: Final[Mapping[str, int]] = {
    "chinese-clip-rn50": 1024,
    "chinese-clip-vit-base-patch16": 512,
    "chinese-clip-vit-large-patch14": 768,
    "chinese-clip-vit-large-patch14-336px": 768,
    "chinese-clip-vit-huge-patch14": 1024,
}

CHINESE_CLIP_PIXELS: Final[Mapping[str, int]] = {
    name: 336 if name.endswith("336px") else 224 for name in CHINESE_CLIP_DIMENSIONS
}
"""Side of the square picture each Chinese-CLIP takes."""

DIRECT_NAMES: Final[Mapping[str, str]] = {
    "RN50": "chinese-clip-rn50",
    "ViT-B-16": "chinese-clip-vit-base-patch16",
    "ViT-L-14": "chinese-clip-vit-large-patch14",
    "ViT-L-14-336": "chinese-clip-vit-large-patch14-336px",
    "ViT-H-14": "chinese-clip-vit-huge-patch14",
}
"""cn-clip's own names (``cn-clip/ViT-B-16`` once cleaned); none of them is on Immich's list."""

DEFAULT_ALIASES: Final[Mapping[str, str]] = {
    "ViT-B-32__openai": "chinese-clip-vit-base-patch16",
    "ViT-B-16__openai": "chinese-clip-vit-base-patch16",
    "ViT-L-14__openai": "chinese-clip-vit-large-patch14",
    "ViT-L-14-336__openai": "chinese-clip-vit-large-patch14-336px",
    "ViT-H-14__laion2b-s32b-b79k": "chinese-clip-vit-huge-patch14",
    "RN50__openai": "chinese-clip-rn50",
}
"""Immich's name → the model that answers to it, unless the setting says otherwise."""


def clean_name(name: str) -> str:
    """A model name as Immich cleans it: the last path segment, ``:`` and ``\\`` as ``_``, without dots.

    White space around it is cut off: names are pasted.
    """
    return name.strip().rsplit("/", 1)[-1].replace(":", "_").replace("\\", "_").replace(".", "").strip()


def known_name(name: str, known: Iterable[str]) -> str:
    """The name as it is spelt among the known ones, whose case may have been lost; itself where it is not known."""
    spelt = {other.lower(): other for other in known}
    return name if name in spelt.values() else spelt.get(name.lower(), name)
