"""From a checkpoint in the official format to the server's answers, beside cn-clip on PyTorch.

Needs torch and cn-clip: `scripts/test-parity` runs it in an environment of its own.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed; scripts/test-parity runs these tests where it is")
pytest.importorskip("cn_clip", reason="cn-clip is not installed; scripts/test-parity runs these tests where it is")

import export_clip
import numpy as np
import small_clip
import torch
import torch_clip
from PIL import Image

from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import Session
from immich_ml_cn.models.clip import WordPieceTokenizer, chinese_clip_transform, load_textual, load_visual
from immich_ml_cn.models.images import Picture, decode
from immich_ml_cn.settings import Settings
from immich_ml_cn.store.conversions import split_joint

PICTURES = Path(__file__).parent.parent / "golden" / "clip_parity" / "pictures"


def open_session(graph: Graph) -> Session:
    return CpuEngine(Settings()).open(graph, "bulk", 0)


def pictures() -> list[Picture]:
    return [decode(path.read_bytes(), 1_000_000) for path in sorted(PICTURES.iterdir())]


@pytest.fixture(params=list(small_clip.VISION))
def architecture(request: pytest.FixtureRequest, tmp_path: Path) -> torch_clip.Architecture:
    vision: str = request.param
    return small_clip.architecture(vision, small_clip.write_vocabulary(tmp_path / "vocab.txt"))


@pytest.fixture
def checkpoint(architecture: torch_clip.Architecture, tmp_path: Path) -> Path:
    path = tmp_path / "official.pt"
    torch_clip.save_checkpoint(small_clip.trained(architecture), path)
    return path


def export(architecture: torch_clip.Architecture, checkpoint: Path, tmp_path: Path, **options: Any) -> Path:
    return export_clip.export(
        "small",
        architecture,
        checkpoint,
        tmp_path / "cache",
        pictures=pictures(),
        texts=small_clip.QUERIES,
        vocabulary=tmp_path / "vocab.txt",
        **options,
    )


def test_an_export_answers_as_pytorch(
    architecture: torch_clip.Architecture, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(architecture, checkpoint, tmp_path, precisions=("fp32", "fp16", "int8"))

    printed = capsys.readouterr().out
    assert printed.count("cosine ≥") == 6
    assert folder == tmp_path / "cache" / "clip" / "small"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]
    clip = torch_clip.load_model(architecture, torch_clip.read_checkpoint(checkpoint))
    reference = export_clip.Reference.of(clip, pictures(), small_clip.QUERIES)
    for precision, least in (("fp32", 0.99999), ("fp16", 0.999), ("int8", 0.9)):
        for checked in export_clip.compare(folder, export_clip.graph_name(precision), reference):
            assert checked.cosine >= least, precision


def test_an_export_that_is_there_is_kept_unless_it_shall_be_replaced(
    architecture: torch_clip.Architecture, checkpoint: Path, tmp_path: Path
) -> None:
    folder = export(architecture, checkpoint, tmp_path)
    (folder / "visual" / "model.onnx").write_bytes(b"mine")

    with pytest.raises(export_clip.ExportRefused, match="--replace"):
        export(architecture, checkpoint, tmp_path)
    assert (folder / "visual" / "model.onnx").read_bytes() == b"mine"

    export(architecture, checkpoint, tmp_path, replace=True)
    assert (folder / "visual" / "model.onnx").stat().st_size > 1000
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]


def test_weights_beside_the_graph_survive_a_move(
    architecture: torch_clip.Architecture, checkpoint: Path, tmp_path: Path
) -> None:
    folder = export(architecture, checkpoint, tmp_path, precisions=("fp32", "fp16", "int8"), limit=1000)
    moved = folder.rename(tmp_path / "elsewhere")

    for name in ("model.onnx", "model_fp16.onnx", "model_int8.onnx"):
        for kind in ("visual", "textual"):
            assert (moved / kind / f"{name}.data").stat().st_size > 10_000
    clip = torch_clip.load_model(architecture, torch_clip.read_checkpoint(checkpoint))
    reference = export_clip.Reference.of(clip, pictures(), small_clip.QUERIES)
    for checked in export_clip.compare(moved, "model.onnx", reference):
        assert checked.cosine >= 0.99999


def test_an_export_that_answers_otherwise_is_not_put_in_place(
    architecture: torch_clip.Architecture, checkpoint: Path, tmp_path: Path
) -> None:
    """The vocabulary the server would use is not the one the model has."""
    words = (tmp_path / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]) + "\n")

    with pytest.raises(export_clip.ExportRefused, match="textual tower in fp32 answers otherwise"):
        export(architecture, checkpoint, tmp_path)
    assert list((tmp_path / "cache" / "clip").iterdir()) == []


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    vocabulary = small_clip.write_vocabulary(tmp_path / "vocab.txt")
    resnet = small_clip.architecture("resnet", vocabulary)
    torch_clip.save_checkpoint(resnet.build(), tmp_path / "resnet.pt")
    (tmp_path / "page.pt").write_text("<html>")
    torch.save({"weights": {}}, tmp_path / "other.pt")

    for name, reason in (
        ("resnet.pt", "another architecture"),
        ("page.pt", "no PyTorch checkpoint"),
        ("other.pt", "no 'state_dict'"),
    ):
        with pytest.raises(torch_clip.CheckpointError, match=reason):
            export(small_clip.architecture("vit", vocabulary), tmp_path / name, tmp_path)


@pytest.mark.parametrize("conversion", ["cn-clip", "joint"])
def test_the_conversions_of_others_answer_as_pytorch(
    conversion: str, architecture: torch_clip.Architecture, checkpoint: Path, tmp_path: Path
) -> None:
    clip = torch_clip.load_model(architecture, torch_clip.read_checkpoint(checkpoint))
    folder = tmp_path / "conversion"
    if conversion == "cn-clip":
        small_clip.export_as_cn_clip(clip, folder)
    else:
        small_clip.export_joint(clip, folder / "onnx" / "model.onnx")
        split_joint(folder, open_session)
    transform = chinese_clip_transform(architecture.pixels)
    visual = load_visual(folder, folder / "visual" / "model.onnx", open_session, transform)
    tokenizer = WordPieceTokenizer.from_file(tmp_path / "vocab.txt")
    textual = load_textual(folder, folder / "textual" / "model.onnx", open_session, tokenizer)
    reference = export_clip.Reference.of(clip, pictures(), small_clip.QUERIES)

    images = [item.vector for item in visual.infer([visual.prepare(picture) for picture in reference.pictures])]
    texts = [item.vector for item in textual.infer([textual.tokenize(text) for text in reference.texts])]

    assert least_cosine(images, reference.image_features) >= 0.99999
    assert least_cosine(texts, reference.text_features) >= 0.99999


def test_our_reading_of_a_picture_is_cn_clips() -> None:
    for path in sorted(PICTURES.iterdir()):
        ours = chinese_clip_transform(224)(decode(path.read_bytes(), 1_000_000))
        theirs = torch_clip.cn_clip().image_transform(224)(Image.open(path)).numpy()

        assert np.array_equal(ours, theirs), path.name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["RN50", "ViT-B-16"])
def test_full_size(name: str, tmp_path: Path) -> None:
    architecture = torch_clip.Architecture.official(name)
    checkpoint = tmp_path / f"{name}.pt"
    torch_clip.save_checkpoint(small_clip.trained(architecture), checkpoint)

    folder = export_clip.export(name, architecture, checkpoint, tmp_path / "cache", pictures=pictures())

    clip = torch_clip.load_model(architecture, torch_clip.read_checkpoint(checkpoint))
    reference = export_clip.Reference.of(clip, pictures(), ["海边的日落", "a red car"])
    for checked in export_clip.compare(folder, "model.onnx", reference):
        assert checked.cosine >= 0.99999
        assert checked.length < 1e-3
    shutil.rmtree(tmp_path / "cache")


def least_cosine(vectors: Sequence[np.ndarray], features: np.ndarray) -> float:
    """The least cosine between unit vectors and features of any length."""
    lengths = np.linalg.norm(features, axis=1)
    return float(((np.stack(vectors) * features).sum(axis=1) / lengths).min())
