"""Another CLIP behind Immich's own names, asked for over a socket."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import clip_models
import orjson
import pytest
from hub_server import Page, running
from server import ROOT, Client, RunningServer

PICTURE = (ROOT / "docs" / "sample.jpg").read_bytes()
LOCAL, FROM_A_HUB, TOO_SHORT = "ViT-B-16-SigLIP2__webli", "ViT-L-14__openai", "ViT-B-16__laion400m_e31"
REPOSITORY = "pigzhou/fg-clip2-base-immich"


def save_fg_clip(folder: Path) -> Path:
    """Shaped like FG-CLIP 2 in Immich's layout: 768 numbers, ``text`` int32 [batch, 64], canonical text, squash."""
    with patch.object(clip_models, "DIMENSION", 768):
        clip_models.save_visual(folder / "visual" / "model.onnx")
        vocabulary = clip_models.save_tokenizer(folder, length=64, tokenizer_kwargs={"clean": "canonicalize"})
        clip_models.save_openclip_text(folder / "textual" / "model.onnx", vocabulary=vocabulary, context=64)
    clip_models.save_preprocessing(folder, size=32, mean=[0.5] * 3, std=[0.5] * 3, resize_mode="squash")
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server to which the model is a local folder under two names and a repository under a third."""
    base = tmp_path_factory.mktemp("aliases")
    own = save_fg_clip(base / "own")
    aliases = f"{LOCAL}={own},{TOO_SHORT}={own},{FROM_A_HUB}=huggingface:{REPOSITORY}"
    with running() as site:
        files = (path for path in own.rglob("*") if path.is_file())
        site.hub(REPOSITORY, {str(path.relative_to(own)): Page(path.read_bytes()) for path in files})
        environ = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": site.base, "MACHINE_LEARNING_CLIP_ALIASES": aliases}
        with RunningServer(base / "cache", **environ) as server, server.client() as client:
            yield client


@pytest.mark.parametrize("name", [LOCAL, FROM_A_HUB])
def test_a_model_of_ones_own_answers_under_a_listed_name(client: Client, name: str) -> None:
    text = client.predict({"clip": {"textual": {"modelName": name}}}, text="海边的日落")
    image = client.predict({"clip": {"visual": {"modelName": name}}}, PICTURE)
    assert [len(orjson.loads(reply.json["clip"])) for reply in (text, image)] == [768, 768]


def test_both_names_mean_the_same_model(client: Client) -> None:
    task = "clip"
    local, hub = (
        client.predict({task: {"textual": {"modelName": name}}}, text="cat").json[task] for name in (LOCAL, FROM_A_HUB)
    )
    assert local == hub


@pytest.mark.parametrize("kind", ["textual", "visual"])
def test_another_dimension_than_the_listed_one_is_never_answered(client: Client, kind: str) -> None:
    """Also when the model is in memory already, because it was asked for under a name that it fits."""
    payload = {"text": "cat"} if kind == "textual" else {"image": PICTURE}
    assert client.predict({"clip": {kind: {"modelName": LOCAL}}}, **payload).status == 200
    reply = client.predict({"clip": {kind: {"modelName": TOO_SHORT}}}, **payload)
    assert reply.status == 503
    assert "expects 512 numbers" in reply.detail
    assert "gives 768" in reply.detail
