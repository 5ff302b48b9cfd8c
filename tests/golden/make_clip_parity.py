"""Write tests/golden/clip_parity: small Chinese-CLIPs, and what PyTorch answers with the same weights.

    PYTHONPATH=tests:tests/parity .venv-parity/bin/python tests/golden/make_clip_parity.py

- ``<name>.pt``: checkpoints in the official format, one like each of the five.
- ``cn-clip``: the smallest ViT with batch and length fixed, int64 tokens, not normalised, as cn-clip's own script
  exports it.
- ``joint/onnx/model.onnx``: its two towers in one graph, as conversions of transformers' model have it.
- ``pictures``: small files of several formats and modes.
- ``answers.json``: the unnormalised features of every picture and query, from cn-clip on PyTorch.

``transformers`` has the same ViT as that package saves it, see make_transformers_clip.py.
"""

import json
from pathlib import Path

import cn_clip_models
import numpy as np
import small_clip
from chinese_clips import GOLDEN, QUERIES, SMALL, write_vocabulary
from PIL import Image

CONVERTED_BY_OTHERS = "chinese-clip-vit-base-patch16"


def main() -> None:
    pictures = sorted((GOLDEN / "pictures").iterdir()) or write_pictures(GOLDEN / "pictures")
    vocabulary = write_vocabulary(GOLDEN / "vocab.txt")
    answers: dict[str, object] = {}
    for name, architecture in SMALL.items():
        in_torch = small_clip.in_torch(architecture, vocabulary)
        checkpoint = GOLDEN / f"{name}.pt"
        cn_clip_models.save_checkpoint(small_clip.trained(in_torch), checkpoint)
        clip = cn_clip_models.load_model(in_torch, cn_clip_models.read_checkpoint(checkpoint))
        answers[name] = {
            "visual": {path.name: listed(cn_clip_models.image_features(clip, Image.open(path))) for path in pictures},
            "textual": [listed(cn_clip_models.text_features(clip, query)) for query in QUERIES],
        }
        if name == CONVERTED_BY_OTHERS:
            small_clip.export_as_cn_clip(clip, GOLDEN / "cn-clip")
            small_clip.export_joint(clip, GOLDEN / "joint" / "onnx" / "model.onnx")
    text = json.dumps(answers, ensure_ascii=False, indent=1)
    (GOLDEN / "answers.json").write_text(text + "\n", encoding="utf-8")


def listed(features: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in features]


def write_pictures(folder: Path) -> list[Path]:
    """A few small pictures of different content, wide, tall and square."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    y, x = np.mgrid[0:120, 0:160] / 160
    waves = picture(np.stack([np.sin(30 * x) / 2 + 0.5, np.cos(20 * y * x) / 2 + 0.5, 1 - y], axis=-1))
    blots = picture(np.kron(random.random((4, 3, 3)), np.ones((30, 30, 1))))
    evening = picture(np.stack([0.9 * y, 0.3 * y * y, 0.2 - 0.2 * y], axis=-1))
    board = picture(np.repeat(((8 * x).astype(int) + (8 * y).astype(int)) % 2, 3).reshape(120, 160, 3))
    faded = blots.convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(faded.size))
    waves.save(folder / "wide.jpg", quality=80)
    evening.transpose(Image.Transpose.ROTATE_90).save(folder / "tall_progressive.jpg", progressive=True)
    board.convert("L").save(folder / "grey.jpg")
    waves.transpose(Image.Transpose.ROTATE_180).crop((0, 0, 50, 50)).convert("CMYK").save(folder / "cmyk.jpg")
    faded.save(folder / "transparent.png")
    evening.resize((70, 50)).quantize(16).save(folder / "palette.png")
    picture(random.random((40, 30, 3))).save(folder / "noise.webp", lossless=True)
    return sorted(folder.iterdir())


def picture(values: np.ndarray) -> Image.Image:
    """An RGB picture of values 0…1, (height, width, 3)."""
    return Image.fromarray((255 * values).astype(np.uint8))


if __name__ == "__main__":
    main()
