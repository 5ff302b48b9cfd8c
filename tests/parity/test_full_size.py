"""The five Chinese-CLIPs at full size: from an official checkpoint to the running server's answers, beside cn-clip.

Needs torch and cn-clip; `scripts/test-parity -m slow` runs it, up to 10 GB of memory and a quarter of an hour each.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed; scripts/test-parity runs these tests where it is")
pytest.importorskip("cn_clip", reason="cn-clip is not installed; scripts/test-parity runs these tests where it is")

import cn_clip_models
import numpy as np
import orjson
import small_clip
from chinese_clips import GOLDEN
from numpy.typing import NDArray
from server import ROOT, RunningServer

from immich_ml_cn.models.images import decode
from immich_ml_cn.sources import checkpoint_names
from immich_ml_cn.sources.clip_names import DIRECT_NAMES

IMMICH_NAMES = {
    "RN50": "RN50__openai",
    "ViT-B-16": "ViT-B-16__openai",
    "ViT-L-14": "ViT-L-14__openai",
    "ViT-L-14-336": "ViT-L-14-336__openai",
    "ViT-H-14": "ViT-H-14__laion2b-s32b-b79k",
}
LEAST_COSINE = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.998}
PICTURES = [*sorted((GOLDEN / "pictures").iterdir()), ROOT / "docs" / "sample.jpg"]
TEXTS = (
    "猫",
    "一只在沙发上睡觉的橘猫",
    "海边的日落",
    "a red car parked in front of a house",
    "2019年夏天在北京拍的全家福,天气很好,孩子们在前面跑",
    "妈妈的生日蛋糕",
    "会议室的白板",
    "身份证和护照的照片。" * 12,
)


@pytest.fixture(params=IMMICH_NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def reference(name: str, tmp_path: Path) -> Iterator[cn_clip_models.Reference]:
    """What cn-clip answers with the weights of the checkpoint that it leaves in `tmp_path`."""
    architecture = cn_clip_models.TorchArchitecture.official(name)
    checkpoint = tmp_path / checkpoint_names(DIRECT_NAMES[name])[0]
    cn_clip_models.save_checkpoint(small_clip.trained(architecture), checkpoint)
    clip = cn_clip_models.load_model(architecture, cn_clip_models.read_checkpoint(checkpoint))
    pictures = [decode(path.read_bytes(), 100_000_000) for path in PICTURES]
    answers = cn_clip_models.Reference.of(clip, pictures, TEXTS)
    del clip
    yield answers
    checkpoint.unlink()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_server_answers_as_pytorch(name: str, reference: cn_clip_models.Reference, tmp_path: Path) -> None:
    for precision, least in LEAST_COSINE.items():
        environ = {
            "CLIP_DOWNLOAD_ROOT": str(tmp_path),
            "MACHINE_LEARNING_CLIP_PRECISION": precision,
            "MACHINE_LEARNING_MODEL_WAIT": "1800",
        }
        # A cache of its own for each: the server converts to what its settings load.
        with RunningServer(tmp_path / precision, **environ) as server:
            images = [ask(server, "visual", name, image=path.read_bytes()) for path in PICTURES]
            texts = [ask(server, "textual", name, text=text) for text in TEXTS]
            assert f"converted {DIRECT_NAMES[name]}" in server.log
        assert least_cosine(images, reference.image_features) >= least, precision
        assert least_cosine(texts, reference.text_features) >= least, precision


def ask(
    server: RunningServer, tower: str, name: str, image: bytes | None = None, text: str | None = None
) -> NDArray[np.float64]:
    """The embedding of a picture or text under Immich's name of the model."""
    with server.client(timeout=1800) as client:
        reply = client.predict({"clip": {tower: {"modelName": IMMICH_NAMES[name]}}}, image, text)
    assert reply.status == 200, reply.body
    return np.array(orjson.loads(reply.json["clip"]))


def least_cosine(vectors: Sequence[NDArray[np.float64]], features: NDArray[np.float32]) -> float:
    """The least cosine of an answer and cn-clip's features of the same input."""
    expected = features.astype(np.float64)
    return float(((np.stack(vectors) * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)).min())
