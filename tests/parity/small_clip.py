"""Chinese-CLIPs in PyTorch with random weights, and the conversions of them that others publish.

Needs torch and cn-clip.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from cn_clip_models import CONTEXT_LENGTH, TorchArchitecture, cn_clip, randomise

from immich_ml_cn.store.conversion.architecture import Architecture, ResNet

_TEXT: Mapping[str, Any] = {
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_initializer_range": 0.02,
    "text_type_vocab_size": 2,
}


def in_torch(architecture: Architecture, vocabulary: Path) -> TorchArchitecture:
    """An architecture of ours as cn_clip describes it, with a vocabulary of its own."""
    vision, text = architecture.vision, architecture.text
    tokenizer = cn_clip().bert_tokenizer.FullTokenizer(vocab_file=str(vocabulary))
    if isinstance(vision, ResNet):
        width, patch = 32 * vision.width, None
    else:
        width, patch = vision.width, vision.patch
    options = {
        **_TEXT,
        "embed_dim": architecture.dimension,
        "image_resolution": vision.pixels,
        "vision_layers": vision.layers,
        "vision_width": vision.width,
        "vision_patch_size": patch,
        "vision_head_width": width // vision.heads,
        "vocab_size": text.words,
        "text_hidden_size": text.width,
        "text_intermediate_size": text.intermediate,
        "text_max_position_embeddings": text.positions,
        "text_num_attention_heads": text.heads,
        "text_num_hidden_layers": text.layers,
    }
    return TorchArchitecture(options, tokenizer)


def trained(architecture: TorchArchitecture, seed: int = 0) -> Any:
    """The model with random weights that set different inputs well apart."""
    clip = architecture.build()
    randomise(clip, seed)
    return clip


def export_as_cn_clip(clip: Any, folder: Path) -> None:
    """What ``cn_clip/deploy/pytorch_to_onnx.py`` writes: batch and length fixed, int64, not normalised.

    Its ``visual/model.onnx`` takes ``image`` and its ``textual/model.onnx`` takes ``text``, as a user places them.
    """
    size = clip.visual.input_resolution
    text = torch.zeros(1, CONTEXT_LENGTH, dtype=torch.long)
    text[0, :2] = torch.tensor([2, 3])
    for kind, name, inputs in (
        ("visual", "image", (torch.zeros(1, 3, size, size), None)),
        ("textual", "text", (None, text)),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        export(clip, inputs, folder / kind / "model.onnx", [name], [f"unnorm_{name}_features"], {})


def export_joint(clip: Any, path: Path) -> None:
    """What transformers' ``ChineseCLIPModel`` becomes: both towers in one graph, with the logits between them."""
    size = clip.visual.input_resolution
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    inputs = (ids, torch.zeros(3, 3, size, size), ids.ne(0).long())
    sequence = {0: "text_batch_size", 1: "sequence_length"}
    axes: dict[str, dict[int, str]] = {
        "input_ids": sequence,
        "pixel_values": {0: "image_batch_size", 1: "num_channels", 2: "height", 3: "width"},
        "attention_mask": sequence,
        "logits_per_image": {0: "image_batch_size", 1: "text_batch_size"},
        "logits_per_text": {0: "text_batch_size", 1: "image_batch_size"},
        "text_embeds": {0: "text_batch_size"},
        "image_embeds": {0: "image_batch_size"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(axes)
    export(_Joint(clip), inputs, path, names[:3], names[3:], axes)


class _Joint(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        image = self.clip.visual(pixel_values)
        hidden = self.clip.bert(input_ids, attention_mask=attention_mask)[0]
        text = hidden[:, 0, :] @ self.clip.text_projection
        image = image / image.norm(dim=-1, keepdim=True)
        text = text / text.norm(dim=-1, keepdim=True)
        logits = self.clip.logit_scale.exp() * text @ image.t()
        return logits.t(), logits, text, image


def export(
    module: torch.nn.Module,
    inputs: tuple[Any, ...],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            dynamo=False,
            opset_version=17,
            do_constant_folding=bool(axes),
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes={name: dict(dimensions) for name, dimensions in axes.items()},
        )
