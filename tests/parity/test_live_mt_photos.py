"""MT Photos' API of the running server beside cn-clip on PyTorch.

Needs torch and cn-clip: `scripts/test-parity` runs it in an environment of its own.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed; scripts/test-parity runs these tests where it is")
pytest.importorskip("cn_clip", reason="cn-clip is not installed; scripts/test-parity runs these tests where it is")

import export_clip
import numpy as np
import small_clip
import torch_clip
from numpy.typing import NDArray
from server import BOUNDARY, Reply, RunningServer, node_form

from immich_ml_cn.errors import ServiceError
from immich_ml_cn.models.images import decode
from immich_ml_cn.settings import Settings

PICTURES = sorted((Path(__file__).parent.parent / "golden" / "clip_parity" / "pictures").iterdir())
KEY = {"api-key": "key"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[export_clip.Reference, RunningServer]]:
    """What cn-clip says of the pictures and queries, and a server with an export of the same checkpoint."""
    folder = tmp_path_factory.mktemp("mt-photos")
    vocabulary = small_clip.write_vocabulary(folder / "vocab.txt")
    architecture = small_clip.architecture("vit", vocabulary)
    torch_clip.save_checkpoint(small_clip.trained(architecture), folder / "official.pt")
    pictures = [decode(path.read_bytes(), 1_000_000) for path in PICTURES]
    export_clip.export(
        "small",
        architecture,
        folder / "official.pt",
        folder / "cache",
        pictures=pictures,
        texts=small_clip.QUERIES,
        vocabulary=vocabulary,
    )
    clip = torch_clip.load_model(architecture, torch_clip.read_checkpoint(folder / "official.pt"))
    with RunningServer(folder / "cache", API_AUTH_KEY="key", CLIP_MODEL="small") as running:
        yield export_clip.Reference.of(clip, pictures, small_clip.QUERIES), running


def assert_features(reply: Reply, expected: NDArray[np.float32]) -> None:
    assert reply.status == 200, reply.body
    given = np.array([float(number) for number in reply.json["result"]])
    lengths = np.linalg.norm(given), np.linalg.norm(expected.astype(np.float64))
    assert given @ expected / (lengths[0] * lengths[1]) >= 0.9999
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)
    assert abs(lengths[1] - 1) > 0.01, "a normalised reference would prove nothing"


def test_features_are_cn_clips(reference: tuple[export_clip.Reference, RunningServer]) -> None:
    expected, running = reference
    with running.client() as client:
        for path, features in zip(PICTURES, expected.image_features, strict=True):
            headers = {**KEY, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
            form = node_form(("file", path.read_bytes()))
            assert_features(client.request("POST", "/clip/img", form, headers), features)
        for text, features in zip(small_clip.QUERIES, expected.text_features, strict=True):
            if text:
                body = json.dumps({"text": text}).encode()
                assert_features(client.request("POST", "/clip/txt", body, KEY), features)


def test_a_checkpoint_in_clip_download_root_is_taken(tmp_path: Path) -> None:
    downloaded = tmp_path / "clip_cn_vit-b-16.pt"
    downloaded.touch()
    settings = Settings.from_env({"CLIP_DOWNLOAD_ROOT": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert export_clip.fetch_checkpoint("chinese-clip-vit-base-patch16", tmp_path / "cache", settings) == downloaded
    with pytest.raises(ServiceError, match=r"clip_cn_vit-l-14\.pt"):
        export_clip.fetch_checkpoint("chinese-clip-vit-large-patch14", tmp_path / "cache", settings)
