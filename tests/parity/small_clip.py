"""Small Chinese-CLIPs with random weights, and the conversions of them that others publish. Needs torch and cn-clip."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch_clip import CONTEXT_LENGTH, Architecture, cn_clip, randomise

QUERIES = (
    "",
    "猫",
    "一只橘猫",
    "海边的日落,天气很好",
    "a red car",
    "Café 2019 年 北京",
    "孩子们在前面跑🎂",
    "身份证和护照的照片。" * 10,
)
_WORDS = ["a", "red", "car", "cafe", "2019", "##9", "##e", ",", "。"]
_TEXT: Mapping[str, Any] = {
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_hidden_size": 24,
    "text_initializer_range": 0.02,
    "text_intermediate_size": 48,
    "text_max_position_embeddings": CONTEXT_LENGTH,
    "text_num_attention_heads": 2,
    "text_num_hidden_layers": 2,
    "text_type_vocab_size": 2,
}
_VIT: Mapping[str, Any] = {
    "embed_dim": 24,
    "image_resolution": 32,
    "vision_layers": 2,
    "vision_width": 32,
    "vision_patch_size": 8,
    "vision_head_width": 16,
}
_RESNET: Mapping[str, Any] = {
    "embed_dim": 24,
    "image_resolution": 64,
    "vision_layers": [1, 1, 1, 1],
    "vision_width": 4,
    "vision_patch_size": None,
}
VISION = {"vit": _VIT, "resnet": _RESNET}


def write_vocabulary(path: Path) -> Path:
    """A vocabulary of what `QUERIES` need, but for the birthday cake."""
    characters = sorted({char for query in QUERIES for char in query if "\u4e00" <= char <= "\u9fff"})
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS, *characters]) + "\n")
    return path


def architecture(vision: str, vocabulary: Path) -> Architecture:
    """A small Chinese-CLIP: ``vit`` or ``resnet``."""
    size = len(vocabulary.read_text().splitlines())
    tokenizer = cn_clip().bert_tokenizer.FullTokenizer(vocab_file=str(vocabulary))
    return Architecture({**VISION[vision], **_TEXT, "vocab_size": size}, tokenizer)


def trained(architecture: Architecture, seed: int = 0) -> Any:
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
        _export(clip, inputs, folder / kind / "model.onnx", [name], [f"unnorm_{name}_features"], {})


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
    _export(_Joint(clip), inputs, path, names[:3], names[3:], axes)


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


def _export(
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
