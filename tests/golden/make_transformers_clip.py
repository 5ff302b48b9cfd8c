"""Write tests/golden/clip_parity/transformers: the small ViT as the package transformers saves it.

    PYTHONPATH=tests:tests/parity <python with torch, transformers, safetensors> tests/golden/make_transformers_clip.py

It reads the official checkpoint that make_clip_parity.py wrote, gives its weights to ``ChineseCLIPModel``, and writes
``pytorch_model.bin``, ``model.safetensors`` and ``answers.json``, what that model itself answers to random inputs.
"""

import json

import torch
from chinese_clips import GOLDEN, SMALL
from safetensors.torch import save_file
from transformers import ChineseCLIPConfig, ChineseCLIPModel

from immich_ml_cn.store.conversion.architecture import VisionTransformer

NAME = "chinese-clip-vit-base-patch16"


def main() -> None:
    torch.manual_seed(0)
    model = ChineseCLIPModel(config()).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and name != "logit_scale":
            # Rounded, as the official weights are when cn_clip computes with them.
            tensor.copy_((torch.randn_like(tensor) * 0.3 + (1.0 if "norm" in name.lower() else 0.0)).half().float())
    folder = GOLDEN / "transformers"
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "answers.json").write_text(json.dumps(answers(model)) + "\n")


def config() -> ChineseCLIPConfig:
    """transformers' description of the small model."""
    architecture = SMALL[NAME]
    vision, text = architecture.vision, architecture.text
    assert isinstance(vision, VisionTransformer)
    return ChineseCLIPConfig(
        projection_dim=architecture.dimension,
        vision_config={
            "hidden_size": vision.width,
            "intermediate_size": 4 * vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.pixels,
            "patch_size": vision.patch,
        },
        text_config={
            "vocab_size": text.words,
            "hidden_size": text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "intermediate_size": text.intermediate,
            "max_position_embeddings": text.positions,
        },
    )


def answers(model: ChineseCLIPModel) -> dict[str, object]:
    """Two random pictures and texts, one of them padded, and the features of them."""
    image = torch.randn(2, 3, model.config.vision_config.image_size, model.config.vision_config.image_size)
    text = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]])
    with torch.inference_mode():
        hidden = model.text_model(input_ids=text, attention_mask=text.ne(0).long())[0]
        features = {
            "visual": model.visual_projection(model.vision_model(pixel_values=image)[1]),
            "textual": model.text_projection(hidden[:, 0]),
        }
    return {"image": image.tolist(), "text": text.tolist(), **{name: each.tolist() for name, each in features.items()}}


if __name__ == "__main__":
    main()
