"""The five Chinese-CLIPs at full size: from an official checkpoint to the running server's answers, beside cn-clip.

Needs torch and cn-clip; `scripts/test-parity -m slow` runs it, up to 10 GB of memory, 20 GB of disk and a quarter of an
hour each. With `--log-cli-level=INFO` it says the cosines.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed; scripts/test-parity runs these tests where it is")
pytest.importorskip("cn_clip", reason="cn-clip is not installed; scripts/test-parity runs these tests where it is")

import cn_clip_models
import numpy as np
import small_clip
from chinese_clips import GOLDEN
from numpy.typing import NDArray
from server import CONTENT_TYPE, ROOT, RunningServer, node_form

from immich_ml_cn.models.images import decode
from immich_ml_cn.sources import checkpoint_names
from immich_ml_cn.sources.clip_names import DIRECT_NAMES

logger = logging.getLogger(__name__)

KEY = {"api-key": "key"}
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
    expected = np.concatenate([reference.image_features, reference.text_features])
    for precision, least in LEAST_COSINE.items():
        # A cache of its own for each: the server converts to what its settings load.
        folder = tmp_path / precision
        with RunningServer(folder, **environ_for(name, precision, tmp_path)) as server:
            embeddings, features = ask_immichs(server, name), ask_mt_photos(server)
            assert f"converted {DIRECT_NAMES[name]}" in server.log
        shutil.rmtree(folder)
        cosines = least_cosine(embeddings, expected), least_cosine(features, expected)
        logger.info(
            "%s %s: 1 - cosine is %.1e for embeddings, %.1e for features", name, precision, *1 - np.array(cosines)
        )
        assert min(cosines) >= least, precision
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), np.linalg.norm(expected, axis=1), rtol=0.05)


def environ_for(name: str, precision: str, checkpoints: Path) -> dict[str, str]:
    """The settings of a server that converts a checkpoint to one precision and answers both protocols with it."""
    return {
        "CLIP_DOWNLOAD_ROOT": str(checkpoints),
        "MACHINE_LEARNING_CLIP_PRECISION": precision,
        "MACHINE_LEARNING_MODEL_WAIT": "1800",
        "API_AUTH_KEY": KEY["api-key"],
        "CLIP_MODEL": name,
    }


def ask_immichs(server: RunningServer, name: str) -> NDArray[np.float64]:
    """The embeddings of all pictures and then all texts, under Immich's name of the model."""
    model = {"modelName": IMMICH_NAMES[name]}
    with server.client(timeout=1800) as client:
        replies = [client.predict({"clip": {"visual": model}}, image=path.read_bytes()) for path in PICTURES]
        replies += [client.predict({"clip": {"textual": model}}, text=text) for text in TEXTS]
    assert {reply.status for reply in replies} == {200}, [reply.body[:500] for reply in replies]
    return np.array([json.loads(reply.json["clip"]) for reply in replies])


def ask_mt_photos(server: RunningServer) -> NDArray[np.float64]:
    """The features of all pictures and then all texts, which only MT Photos asks for."""
    form = {**KEY, "content-type": CONTENT_TYPE}
    with server.client(timeout=1800) as client:
        replies = [
            client.request("POST", "/clip/img", node_form(("file", path.read_bytes())), form) for path in PICTURES
        ]
        bodies = [json.dumps({"text": text}).encode() for text in TEXTS]
        replies += [client.request("POST", "/clip/txt", body, KEY) for body in bodies]
    assert {reply.status for reply in replies} == {200}, [reply.body[:500] for reply in replies]
    return np.array([reply.json["result"] for reply in replies], np.float64)


def least_cosine(vectors: NDArray[np.float64], features: NDArray[np.float32]) -> float:
    """The least cosine of an answer and cn-clip's features of the same input."""
    expected = features.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((vectors * expected).sum(axis=1) / lengths).min())
