"""The five Chinese-CLIPs (Yang et al. 2022), and the tensors each of them has, under cn_clip's names.

The shapes are those of ``cn_clip/clip/model_configs``: a ViT (Dosovitskiy et al. 2021) or CLIP's ModifiedResNet
(Radford et al. 2021) for pictures, RoBERTa-wwm or RBT3 (Cui et al. 2021) for texts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

Shapes: TypeAlias = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class VisionTransformer:
    """CLIP's ViT.

    Attributes:
        pixels: side of the square picture; a multiple of `patch`.
        patch: side of a patch in pixels.
        width: of a token; a multiple of `heads`.
    """

    pixels: int
    patch: int
    width: int
    layers: int
    heads: int

    @property
    def tokens(self) -> int:
        """Patches of a picture and the class token."""
        return (self.pixels // self.patch) ** 2 + 1

    def shapes(self, dimension: int) -> Shapes:
        """Its tensors, for embeddings of `dimension`."""
        width = self.width
        shapes: Shapes = {
            "visual.class_embedding": (width,),
            "visual.positional_embedding": (self.tokens, width),
            "visual.proj": (width, dimension),
            "visual.conv1.weight": (width, 3, self.patch, self.patch),
            **_norm("visual.ln_pre", width),
            **_norm("visual.ln_post", width),
        }
        for layer in range(self.layers):
            block = f"visual.transformer.resblocks.{layer}"
            shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
            shapes |= _linear(f"{block}.attn.out_proj", width, width)
            shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
            shapes |= _linear(f"{block}.mlp.c_fc", width, 4 * width) | _linear(f"{block}.mlp.c_proj", 4 * width, width)
        return shapes


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """One residual block of a `ResNet`: convolutions of 1 x 1, 3 x 3 and 1 x 1.

    Attributes:
        name: the prefix of its tensors.
        channels: that come in.
        planes: channels in its middle; four times as many go out.
        stride: of the average pooling in its middle.
    """

    name: str
    channels: int
    planes: int
    stride: int

    @property
    def has_downsampling(self) -> bool:
        """Whether what is added to its result is pooled and convolved first."""
        return self.stride > 1 or self.channels != 4 * self.planes


@dataclass(frozen=True, slots=True)
class ResNet:
    """CLIP's ModifiedResNet: three convolutions as a stem, average pooling for strides, attention at the end.

    Attributes:
        pixels: side of the square picture; a multiple of 32.
        width: channels of the stem.
        layers: blocks of each of the four stages.
        heads: of the attention at the end.
    """

    pixels: int
    width: int
    layers: tuple[int, int, int, int]
    heads: int

    @property
    def tokens(self) -> int:
        """Places of the last stage and their mean."""
        return (self.pixels // 32) ** 2 + 1

    def blocks(self) -> Iterator[Bottleneck]:
        """The residual blocks in order."""
        channels = self.width
        for stage, count in enumerate(self.layers):
            planes = self.width << stage
            for index in range(count):
                stride = 2 if stage and not index else 1
                yield Bottleneck(f"visual.layer{stage + 1}.{index}", channels, planes, stride)
                channels = 4 * planes

    def shapes(self, dimension: int) -> Shapes:
        """Its tensors, for embeddings of `dimension`."""
        width, last = self.width, 32 * self.width
        shapes: Shapes = {"visual.attnpool.positional_embedding": (self.tokens, last)}
        for index, (inputs, outputs) in enumerate(((3, width // 2), (width // 2, width // 2), (width // 2, width)), 1):
            shapes |= _convolution(f"visual.conv{index}", f"visual.bn{index}", inputs, outputs, 3)
        for block in self.blocks():
            shapes |= _bottleneck(block)
        for name in ("q_proj", "k_proj", "v_proj"):
            shapes |= _linear(f"visual.attnpool.{name}", last, last)
        return shapes | _linear("visual.attnpool.c_proj", last, dimension)


@dataclass(frozen=True, slots=True)
class Bert:
    """BERT's encoder (Devlin et al. 2018).

    Attributes:
        words: entries of the vocabulary.
        positions: tokens of the longest text.
        intermediate: width in the middle of a feed-forward layer.
    """

    width: int
    layers: int
    heads: int
    intermediate: int
    words: int = 21128
    positions: int = 512

    def shapes(self, dimension: int) -> Shapes:
        """Its tensors, for embeddings of `dimension`."""
        width = self.width
        embeddings = "bert.embeddings"
        shapes: Shapes = {
            f"{embeddings}.word_embeddings.weight": (self.words, width),
            f"{embeddings}.position_embeddings.weight": (self.positions, width),
            f"{embeddings}.token_type_embeddings.weight": (2, width),
            **_norm(f"{embeddings}.LayerNorm", width),
            "text_projection": (width, dimension),
        }
        for layer in range(self.layers):
            block = f"bert.encoder.layer.{layer}"
            for name in ("self.query", "self.key", "self.value", "output.dense"):
                shapes |= _linear(f"{block}.attention.{name}", width, width)
            shapes |= _norm(f"{block}.attention.output.LayerNorm", width) | _norm(f"{block}.output.LayerNorm", width)
            shapes |= _linear(f"{block}.intermediate.dense", width, self.intermediate)
            shapes |= _linear(f"{block}.output.dense", self.intermediate, width)
        return shapes


@dataclass(frozen=True, slots=True)
class Architecture:
    """A Chinese-CLIP.

    Attributes:
        dimension: length of its embeddings.
    """

    vision: VisionTransformer | ResNet
    text: Bert
    dimension: int

    def shapes(self) -> Shapes:
        """Every tensor that is computed with, name → shape."""
        return self.vision.shapes(self.dimension) | self.text.shapes(self.dimension)


_RBT3: Final = Bert(width=768, layers=3, heads=12, intermediate=3072)
_BASE: Final = Bert(width=768, layers=12, heads=12, intermediate=3072)
_LARGE: Final = Bert(width=1024, layers=24, heads=16, intermediate=4096)

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "chinese-clip-rn50": Architecture(ResNet(224, 64, (3, 4, 6, 3), heads=32), _RBT3, 1024),
    "chinese-clip-vit-base-patch16": Architecture(VisionTransformer(224, 16, 768, 12, heads=12), _BASE, 512),
    "chinese-clip-vit-large-patch14": Architecture(VisionTransformer(224, 14, 1024, 24, heads=16), _BASE, 768),
    "chinese-clip-vit-large-patch14-336px": Architecture(VisionTransformer(336, 14, 1024, 24, heads=16), _BASE, 768),
    "chinese-clip-vit-huge-patch14": Architecture(VisionTransformer(224, 14, 1280, 32, heads=16), _LARGE, 1024),
}
"""The name of a model's folder → its architecture."""


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _convolution(name: str, norm: str, inputs: int, outputs: int, side: int) -> Shapes:
    """A convolution without a bias and the batch norm after it."""
    statistics = {f"{norm}.running_mean": (outputs,), f"{norm}.running_var": (outputs,)}
    return {f"{name}.weight": (outputs, inputs, side, side), **_norm(norm, outputs), **statistics}


def _bottleneck(block: Bottleneck) -> Shapes:
    name, planes = block.name, block.planes
    shapes = _convolution(f"{name}.conv1", f"{name}.bn1", block.channels, planes, 1)
    shapes |= _convolution(f"{name}.conv2", f"{name}.bn2", planes, planes, 3)
    shapes |= _convolution(f"{name}.conv3", f"{name}.bn3", planes, 4 * planes, 1)
    if block.has_downsampling:
        shapes |= _convolution(f"{name}.downsample.0", f"{name}.downsample.1", block.channels, 4 * planes, 1)
    return shapes
