"""From a checkpoint in the official format to the server's answers, beside cn-clip on PyTorch.

Needs torch and cn-clip: `scripts/test-parity` runs it in an environment of its own.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed; scripts/test-parity runs these tests where it is")
pytest.importorskip("cn_clip", reason="cn-clip is not installed; scripts/test-parity runs these tests where it is")

import cn_clip_models
import numpy as np
import small_clip
from chinese_clips import GOLDEN, QUERIES, SMALL, request_for, write_vocabulary
from numpy.typing import NDArray
from ort_session import OrtSession
from PIL import Image

from immich_ml_cn.models.clip import WordPieceTokenizer, chinese_clip_transform, load_textual, load_visual
from immich_ml_cn.models.clip.wordpiece import BUNDLED_VOCABULARY
from immich_ml_cn.models.images import Picture, decode
from immich_ml_cn.sources.clip_names import DIRECT_NAMES
from immich_ml_cn.store.conversion.architecture import ARCHITECTURES
from immich_ml_cn.store.conversion.graph import PRECISIONS
from immich_ml_cn.store.conversion.model_weights import ModelWeights
from immich_ml_cn.store.conversion.process import convert_in_child
from immich_ml_cn.store.conversion.weights import open_weights
from immich_ml_cn.store.fetch import NullProgress
from immich_ml_cn.store.joint_graphs import split_joint

LEAST_COSINE = {"model.onnx": 0.999999, "model_fp16.onnx": 0.9999, "model_int8.onnx": 0.998}
PICTURES = sorted((GOLDEN / "pictures").iterdir())


def pictures() -> list[Picture]:
    return [decode(path.read_bytes(), 1_000_000) for path in PICTURES]


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def architecture(name: str, tmp_path: Path) -> cn_clip_models.TorchArchitecture:
    return small_clip.in_torch(SMALL[name], write_vocabulary(tmp_path / "vocab.txt"))


@pytest.fixture
def checkpoint(architecture: cn_clip_models.TorchArchitecture, tmp_path: Path) -> Path:
    """Of other weights than the golden ones."""
    path = tmp_path / "official.pt"
    cn_clip_models.save_checkpoint(small_clip.trained(architecture, seed=1), path)
    return path


def assert_equal(folder: Path, graph: str, reference: cn_clip_models.Reference) -> None:
    """Each input alone and all at once."""
    visual = load_visual(folder, folder / "visual" / graph, OrtSession)
    textual = load_textual(folder, folder / "textual" / graph, OrtSession)
    images = [visual.prepare(picture) for picture in reference.pictures]
    texts = [textual.tokenize(text) for text in reference.texts]
    for found, expected in (
        (visual.infer(images), reference.image_features),
        ([visual.infer([image])[0] for image in images], reference.image_features),
        (textual.infer(texts), reference.text_features),
        ([textual.infer([text])[0] for text in texts], reference.text_features),
    ):
        assert least_cosine([item.vector for item in found], expected) >= LEAST_COSINE[graph]
        assert least_cosine([item.features for item in found], expected) >= LEAST_COSINE[graph]


def test_a_conversion_answers_as_pytorch(
    name: str, architecture: cn_clip_models.TorchArchitecture, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / name
    request = request_for(checkpoint, folder, SMALL[name], PRECISIONS)
    convert_in_child(request, name, NullProgress(), threading.Event())

    clip = cn_clip_models.load_model(architecture, cn_clip_models.read_checkpoint(checkpoint))
    reference = cn_clip_models.Reference.of(clip, pictures(), QUERIES)
    for graph in LEAST_COSINE:
        assert_equal(folder, graph, reference)


def test_every_weight_is_the_one_that_cn_clip_computes_with(
    name: str, architecture: cn_clip_models.TorchArchitecture, checkpoint: Path
) -> None:
    """Rounded or not."""
    clip = cn_clip_models.load_model(architecture, cn_clip_models.read_checkpoint(checkpoint))
    weights = ModelWeights(open_weights(checkpoint), SMALL[name])
    theirs = {key: tensor.numpy() for key, tensor in clip.state_dict().items()}

    assert set(weights.shapes) <= set(theirs)
    for key in weights.shapes:
        np.testing.assert_array_equal(weights.read(key), theirs[key])


@pytest.mark.parametrize("cn_clips_name", DIRECT_NAMES)
def test_the_architectures_are_cn_clips(cn_clips_name: str) -> None:
    ours = small_clip.in_torch(ARCHITECTURES[DIRECT_NAMES[cn_clips_name]], BUNDLED_VOCABULARY)
    theirs = cn_clip_models.TorchArchitecture.official(cn_clips_name).options
    layers = theirs["vision_layers"]
    same_layers = {"vision_layers": tuple(layers) if isinstance(layers, list) else layers}

    assert ours.options == {"vision_head_width": 64, **theirs, **same_layers}


@pytest.mark.parametrize("conversion", ["cn-clip", "joint"])
@pytest.mark.parametrize("name", ["chinese-clip-rn50", "chinese-clip-vit-base-patch16"])
def test_the_conversions_of_others_answer_as_pytorch(
    conversion: str, architecture: cn_clip_models.TorchArchitecture, checkpoint: Path, tmp_path: Path
) -> None:
    clip = cn_clip_models.load_model(architecture, cn_clip_models.read_checkpoint(checkpoint))
    folder = tmp_path / "conversion"
    if conversion == "cn-clip":
        small_clip.export_as_cn_clip(clip, folder)
    else:
        small_clip.export_joint(clip, folder / "onnx" / "model.onnx")
        split_joint(folder, OrtSession)
    transform = chinese_clip_transform(architecture.pixels)
    visual = load_visual(folder, folder / "visual" / "model.onnx", OrtSession, transform)
    tokenizer = WordPieceTokenizer.from_file(tmp_path / "vocab.txt")
    textual = load_textual(folder, folder / "textual" / "model.onnx", OrtSession, tokenizer)
    reference = cn_clip_models.Reference.of(clip, pictures(), QUERIES)

    images = [item.vector for item in visual.infer([visual.prepare(picture) for picture in reference.pictures])]
    texts = [item.vector for item in textual.infer([textual.tokenize(text) for text in reference.texts])]

    assert least_cosine(images, reference.image_features) >= 0.99999
    assert least_cosine(texts, reference.text_features) >= 0.99999


def test_our_reading_of_a_picture_is_cn_clips() -> None:
    for path in PICTURES:
        ours = chinese_clip_transform(224)(decode(path.read_bytes(), 1_000_000))
        theirs = cn_clip_models.cn_clip().image_transform(224)(Image.open(path)).numpy()

        assert np.array_equal(ours, theirs), path.name


def least_cosine(vectors: Sequence[NDArray[np.float32] | None], features: NDArray[np.float32]) -> float:
    """The least cosine between two vectors of the same place."""
    found = np.stack([vector for vector in vectors if vector is not None]).astype(np.float64)
    expected = features.astype(np.float64)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return float(((found * expected).sum(axis=1) / lengths).min())
