"""Chinese-CLIP at its full size: the official checkpoint from a local hub to the running server's answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import Page, Site
from numpy.typing import NDArray
from server import ROOT, RunningServer
from torch_files import write_checkpoint

from immich_ml_cn.store.conversion.architecture import ARCHITECTURES

SAMPLE = ROOT / "docs" / "sample.jpg"
NAME = "RN50__openai"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_size_checkpoint_arrives_in_two_pieces_is_converted_and_answers(site: Site, tmp_path: Path) -> None:
    """RN50 with random weights, from the hub's file to embeddings under Immich's name; cut off at 60 % and resumed."""
    official = write_checkpoint(tmp_path / "clip_cn_rn50.pt", random_weights("chinese-clip-rn50"))
    page = Page(official.read_bytes(), cut_at=0.6, cuts=1)
    official.unlink()
    site.hub("OFA-Sys/chinese-clip-rn50", {"clip_cn_rn50.pt": page})
    tasks = {"clip": {"visual": {"modelName": NAME}}}
    with RunningServer(tmp_path, HF_HUB_OFFLINE="0", HF_ENDPOINT=site.base) as server:
        image = server.predict_once_loaded(tasks, SAMPLE.read_bytes()).embedding
        text = server.predict({"clip": {"textual": {"modelName": NAME}}}, text="海边的日落").embedding
        assert "converted chinese-clip-rn50: visual/model.onnx, textual/model.onnx" in server.log
    assert image.shape == text.shape == (1024,)
    assert np.linalg.norm(image) == pytest.approx(1, abs=1e-4)
    assert np.linalg.norm(text) == pytest.approx(1, abs=1e-4)
    assert site.downloads(page) == [None, int(0.6 * len(page.data))]
    assert not list((tmp_path / "clip").rglob("*.pt")), "the checkpoint is deleted once it is converted"


def random_weights(model: str) -> dict[str, NDArray[Any]]:
    """Every tensor of a model at its full size, so that activations neither vanish nor grow."""
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {}
    for name, shape in ARCHITECTURES[model].shapes().items():
        if len(shape) == 1:
            weights[name] = np.full(shape, float(name.endswith(("weight", "running_var"))), np.float32)
        else:
            weights[name] = random.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
    return weights
