"""Chinese-CLIP in PyTorch, from the official checkpoints: cn-clip's own model code (Yang et al. 2022).

Needs torch and cn-clip; `scripts/test-parity` makes the environment.
"""

import importlib.util
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from immich_ml_cn.models.images import Picture

CONTEXT_LENGTH: Final = 52

_TEXT_TOWERS: Final[Mapping[str, str]] = {
    "RN50": "RBT3-chinese",
    "ViT-B-16": "RoBERTa-wwm-ext-base-chinese",
    "ViT-L-14": "RoBERTa-wwm-ext-base-chinese",
    "ViT-L-14-336": "RoBERTa-wwm-ext-base-chinese",
    "ViT-H-14": "RoBERTa-wwm-ext-large-chinese",
}
"""cn-clip's name of an image tower → the text tower it was trained with."""


@dataclass(frozen=True)
class Reference:
    """The inputs of a comparison and what PyTorch in fp32 answers: float32 (N, D), not normalised."""

    pictures: Sequence[Picture]
    texts: Sequence[str]
    image_features: NDArray[np.float32]
    text_features: NDArray[np.float32]

    @classmethod
    def of(cls, clip: Any, pictures: Sequence[Picture], texts: Sequence[str]) -> "Reference":
        """Ask cn-clip, one input at a time."""
        return cls(
            pictures,
            texts,
            np.stack([image_features(clip, picture.image) for picture in pictures]),
            np.stack([text_features(clip, text) for text in texts]),
        )


class CheckpointError(RuntimeError):
    """A checkpoint is not one of the architecture that was asked for; the message says why."""


@dataclass(frozen=True)
class TorchArchitecture:
    """The shape of a Chinese-CLIP.

    Attributes:
        options: the keyword arguments of ``cn_clip.clip.model.CLIP``.
        tokenizer: cn-clip's tokenizer with another vocabulary than the official one.
    """

    options: Mapping[str, Any]
    tokenizer: Any = None

    @classmethod
    def official(cls, name: str) -> "TorchArchitecture":
        """One of cn-clip's five: ``RN50``, ``ViT-B-16``, ``ViT-L-14``, ``ViT-L-14-336``, ``ViT-H-14``."""
        cn_clip()
        folder = resources.files("cn_clip") / "clip" / "model_configs"
        options: dict[str, Any] = {}
        for part in (name, _TEXT_TOWERS[name]):
            options |= json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
        if isinstance(options["vision_layers"], str):  # "[3,4,6,3]"
            options["vision_layers"] = json.loads(options["vision_layers"])
        return cls(options)

    @property
    def pixels(self) -> int:
        """Side of the square picture."""
        return int(self.options["image_resolution"])

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(self.options["embed_dim"])

    def build(self) -> Any:
        """The untrained model, a ``cn_clip.clip.model.CLIP`` in fp32."""
        model = cn_clip().model
        tokenizer = {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
        return model.CLIP(**self.options, **tokenizer).eval()


def cn_clip() -> Any:
    """The package ``cn_clip.clip``.

    It imports torchvision for four small classes. There may be no build of torchvision for this torch, so a module with
    those four stands in for it where it is missing.
    """
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        package, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
        for item in (_Compose, _Resize, _ToTensor, _Normalize):
            setattr(transforms, item.__name__.removeprefix("_"), item)
        transforms.InterpolationMode = types.SimpleNamespace(BICUBIC=Image.Resampling.BICUBIC)  # type: ignore[attr-defined]
        package.transforms = transforms  # type: ignore[attr-defined]
        sys.modules |= {"torchvision": package, "torchvision.transforms": transforms}
    import cn_clip.clip
    import cn_clip.clip.model

    return cn_clip.clip


def read_checkpoint(path: Path) -> Mapping[str, torch.Tensor]:
    """The weights in an official checkpoint: a ``torch.save``d dict with ``state_dict``, keys prefixed ``module.``.

    Only tensors are unpickled, never code.

    Raises:
        CheckpointError: the file is no such checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle.UnpicklingError, RuntimeError, zipfile's …
        raise CheckpointError(f"{path} is no PyTorch checkpoint of weights: {error}") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path} has no 'state_dict' as the official checkpoints have")
    # As in cn_clip.clip.utils.create_model: the pooler is not part of the model.
    named = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in named.items() if "bert.pooler" not in name}


def load_model(architecture: TorchArchitecture, weights: Mapping[str, torch.Tensor]) -> Any:
    """The model with these weights in fp32, on the CPU, as ``cn_clip.clip.load_from_name`` gives it.

    cn-clip rounds most weights to fp16 as it loads them and computes with the rounded ones; so do we.

    Raises:
        CheckpointError: the weights are of another architecture.
    """
    model = architecture.build()
    cn_clip().model.convert_weights(model)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[:3]
        raise CheckpointError(f"the checkpoint is of another architecture: {' '.join(first)}") from error
    return model.float().eval()


def image_features(clip: Any, picture: Image.Image) -> NDArray[np.float32]:
    """What cn-clip answers for one picture: float32 (D,), not normalised."""
    resolution = int(clip.visual.input_resolution)
    with torch.inference_mode():
        tensor = cn_clip().image_transform(resolution)(picture)
        features: NDArray[np.float32] = clip.encode_image(tensor[None])[0].numpy()
    return features


def text_features(clip: Any, text: str) -> NDArray[np.float32]:
    """What cn-clip answers for one text: float32 (D,), not normalised; padded to 52 tokens as cn-clip does."""
    ids = torch.zeros(1, CONTEXT_LENGTH, dtype=torch.long)
    tokens = tokenize(clip.tokenizer, text)
    ids[0, : len(tokens)] = torch.tensor(tokens)
    with torch.inference_mode():
        features: NDArray[np.float32] = clip.encode_text(ids)[0].numpy()
    return features


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """``cn_clip.clip.tokenize`` without its padding, and with any vocabulary."""
    pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    return [tokenizer.vocab["[CLS]"], *pieces[: CONTEXT_LENGTH - 2], tokenizer.vocab["[SEP]"]]


def randomise(clip: Any, seed: int = 0) -> None:
    """Give a model random weights under which different inputs get clearly different embeddings.

    cn-clip's own initial weights answer nearly the same vector to every text: a wrong graph would go unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in clip.state_dict().items():
            if not tensor.is_floating_point() or tensor.ndim == 0:
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                mean = 1.0 if name.endswith("weight") and "class_embedding" not in name else 0.0
                tensor.normal_(mean, 0.1, generator=generator)
            else:
                transposed = name in ("visual.proj", "text_projection")
                fan_in = len(tensor) if transposed else tensor[0].numel()
                tensor.normal_(0.0, 1.0 if "bert.embeddings" in name else fan_in**-0.5, generator=generator)
                if tensor.ndim == 4:  # else what all pictures share, activations of one sign, drowns the rest
                    tensor -= tensor.mean(dim=(1, 2, 3), keepdim=True)


def save_checkpoint(clip: Any, path: Path) -> None:
    """Write a model as the official checkpoints are written."""
    weights = {f"module.{name}": tensor for name, tensor in clip.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 0, "step": 0, "name": "random", "state_dict": weights}, path)


class _Compose:
    """As torchvision's."""

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self._steps = steps

    def __call__(self, item: Any) -> Any:
        for step in self._steps:
            item = step(item)
        return item


class _Resize:
    """As torchvision's for Pillow images and a (height, width)."""

    def __init__(self, size: tuple[int, int], interpolation: Image.Resampling) -> None:
        self._size, self._interpolation = size, interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.resize(self._size[::-1], self._interpolation)


class _ToTensor:
    """As torchvision's for 8-bit Pillow images: float32 (3, H, W), 0…1."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class _Normalize:
    """As torchvision's."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.sub(self._mean).div(self._std)
