"""The weights of one Chinese-CLIP, whichever way a checkpoint names them, checked against its architecture."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.messages import Message, tr

from .architecture import Architecture
from .errors import CheckpointError
from .weights import FLOATS, Weights

_PREFIX: Final = "module."
"""Of every name in the official files: they were trained in parallel."""

_UNUSED: Final = re.compile(
    r"logit_scale|bert\.pooler\..*|text_model\.pooler\..*|.*\.num_batches_tracked|.*embeddings\.position_ids"
)
"""Tensors that no embedding depends on."""

_KEPT_IN_FLOAT32: Final = re.compile(
    r"visual\..*(ln_\w+|bn\d|downsample\.1)\.\w+|visual\..*(class|positional)_embedding"
)
"""Tensors that cn_clip does not round."""

_IN_TRANSFORMERS: Final = (
    (r"text_projection", "text_projection.weight"),
    (r"visual\.proj", "visual_projection.weight"),
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.ln_pre\.(\w+)", r"vision_model.pre_layrnorm.\1"),
    (r"visual\.ln_post\.(\w+)", r"vision_model.post_layernorm.\1"),
    (r"visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"\1.self_attn.out_proj.\2"),
    (r"visual\.transformer\.resblocks\.(\d+)\.ln_(\d)\.(\w+)", r"\1.layer_norm\2.\3"),
    (r"visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"\1.mlp.fc1.\2"),
    (r"visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"\1.mlp.fc2.\2"),
    (r"bert\.(.+)", r"text_model.\1"),
)
"""cn_clip's name, as an expression → transformers' (``pre_layrnorm`` is spelled so); a leading number is of a layer."""

_TRANSPOSED: Final = frozenset({"visual.proj", "text_projection"})
"""Matrices that transformers keeps the other way round."""


class ModelWeights:
    """The tensors of a Chinese-CLIP under cn_clip's names, each of the shape that its architecture asks for."""

    def __init__(self, weights: Weights, architecture: Architecture) -> None:
        """
        Raises:
            CheckpointError: a tensor is missing, is one too many, or has another shape or dtype.
        """
        self._weights = weights
        self._shapes = architecture.shapes()
        names = weights.names
        prefix = _PREFIX if all(name.startswith(_PREFIX) for name in names) else ""
        self._found = {name.removeprefix(prefix): name for name in names}
        self._is_transformers = any(name.startswith("vision_model.") for name in self._found)
        parts = {name: self._parts(name) for name in self._shapes}
        self._check_names({part for group in parts.values() for part in group})
        for name, group in parts.items():
            self._check_shapes(name, group)
        self._parts_of = parts

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor that is computed with, name → shape."""
        return self._shapes

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor.

        It is rounded to fp16 where cn_clip rounds it as it loads a checkpoint (``convert_weights``), for it computes
        with the rounded numbers even in fp32.

        Raises:
            CheckpointError: it holds NaN or what is too large, or its bytes are not in the file.
        """
        parts = [self._weights.read(self._found[part]) for part in self._parts_of[name]]
        values: NDArray[Any] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self._is_transformers and name in _TRANSPOSED:
            values = values.T
        with np.errstate(over="ignore"):
            if not _KEPT_IN_FLOAT32.fullmatch(name):
                values = values.astype(np.float16, copy=False)
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise CheckpointError(
                tr("{path} is refused: {name} holds numbers that are not finite", path=self._weights.path, name=name)
            )
        return values

    def _parts(self, name: str) -> tuple[str, ...]:
        """The names, in the file's layout, of what a tensor consists of."""
        if not self._is_transformers:
            return (name,)
        packed = re.fullmatch(r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", name)
        if packed is not None:
            layer = f"vision_model.encoder.layers.{packed[1]}.self_attn"
            return tuple(f"{layer}.{part}_proj.{packed[2]}" for part in "qkv")
        for pattern, replacement in _IN_TRANSFORMERS:
            match = re.fullmatch(pattern, name)
            if match is not None:
                renamed = match.expand(replacement)
                return (f"vision_model.encoder.layers.{renamed}" if renamed[0].isdigit() else renamed,)
        return (name,)  # a ResNet's, which transformers does not know: reported as missing

    def _check_names(self, wanted: set[str]) -> None:
        missing = wanted - set(self._found)
        surplus = {name for name in set(self._found) - wanted if not _UNUSED.fullmatch(name)}
        if missing:
            self._refuse(tr("it lacks {names}", names=_some(missing)))
        if surplus:
            self._refuse(tr("it has {names}, which the model does not", names=_some(surplus)))

    def _check_shapes(self, name: str, parts: tuple[str, ...]) -> None:
        wanted = self._shapes[name]
        part_shape = (wanted[0] // len(parts), *wanted[1:])
        if self._is_transformers and name in _TRANSPOSED:
            part_shape = part_shape[::-1]
        for part in parts:
            stored = self._weights.describe(self._found[part])
            if stored.dtype not in FLOATS:
                self._refuse(tr("it has {name} in {dtype}", name=part, dtype=stored.dtype))
            if stored.shape != part_shape:
                found, expected = _size(stored.shape), _size(part_shape)
                self._refuse(
                    tr("it has {name} of {found} instead of {expected}", name=part, found=found, expected=expected)
                )

    def _refuse(self, reason: Message) -> None:
        raise CheckpointError(tr("{path} is of another architecture: {reason}", path=self._weights.path, reason=reason))


def _some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    first, *others = sorted(names)
    shown = first[:100] if first.isprintable() else ascii(first[:100])
    return tr("{name} and {count} more", name=shown, count=len(others)) if others else shown


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or tr("one number")
