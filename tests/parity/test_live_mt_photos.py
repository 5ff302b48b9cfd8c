"""MT Photos' API of the running server beside cn-clip on PyTorch.

Needs torch and cn-clip: `scripts/test-parity` runs it in an environment of its own.
"""

import json
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="torch is not installed; scripts/test-parity runs these tests where it is")
pytest.importorskip("cn_clip", reason="cn-clip is not installed; scripts/test-parity runs these tests where it is")

import cn_clip_models
import numpy as np
import small_clip
from chinese_clips import GOLDEN, QUERIES, SMALL, convert_small
from numpy.typing import NDArray
from server import BOUNDARY, Reply, RunningServer, node_form

from immich_ml_cn.models.images import decode

PICTURES = sorted((GOLDEN / "pictures").iterdir())
KEY = {"api-key": "key"}
NAME = "chinese-clip-vit-base-patch16"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[cn_clip_models.Reference, RunningServer]]:
    """What cn-clip says of the pictures and queries, and a server with a conversion of the same checkpoint."""
    folder = tmp_path_factory.mktemp("mt-photos")
    convert_small(NAME, folder / "cache" / "clip" / "small", ("fp32",))
    weights = cn_clip_models.read_checkpoint(GOLDEN / f"{NAME}.pt")
    clip = cn_clip_models.load_model(small_clip.in_torch(SMALL[NAME], GOLDEN / "vocab.txt"), weights)
    pictures = [decode(path.read_bytes(), 1_000_000) for path in PICTURES]
    with RunningServer(folder / "cache", API_AUTH_KEY="key", CLIP_MODEL="small") as running:
        yield cn_clip_models.Reference.of(clip, pictures, QUERIES), running


def assert_features(reply: Reply, expected: NDArray[np.float32]) -> None:
    assert reply.status == 200, reply.body
    given = np.array([float(number) for number in reply.json["result"]])
    lengths = np.linalg.norm(given), np.linalg.norm(expected.astype(np.float64))
    assert given @ expected / (lengths[0] * lengths[1]) >= 0.9999
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)
    assert abs(lengths[1] - 1) > 0.01, "a normalised reference would prove nothing"


def test_features_are_cn_clips(reference: tuple[cn_clip_models.Reference, RunningServer]) -> None:
    expected, running = reference
    with running.client() as client:
        for path, features in zip(PICTURES, expected.image_features, strict=True):
            headers = {**KEY, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
            form = node_form(("file", path.read_bytes()))
            assert_features(client.request("POST", "/clip/img", form, headers), features)
        for text, features in zip(QUERIES, expected.text_features, strict=True):
            if text:
                body = json.dumps({"text": text}).encode()
                assert_features(client.request("POST", "/clip/txt", body, KEY), features)
