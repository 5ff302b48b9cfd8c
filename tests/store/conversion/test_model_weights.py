"""Whichever way a checkpoint names its tensors, they are those of the architecture or it is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chinese_clips import GOLDEN, SMALL, Silent, convert_small, open_session, request_for, run
from clip_models import cosine
from numpy.typing import NDArray
from torch_files import write_checkpoint

from immich_ml_cn.store.conversion.convert import convert
from immich_ml_cn.store.conversion.errors import CheckpointError
from immich_ml_cn.store.conversion.model_weights import ModelWeights
from immich_ml_cn.store.conversion.weights import open_weights

NAME = "chinese-clip-vit-base-patch16"
ARCHITECTURE = SMALL[NAME]


def official() -> dict[str, NDArray[Any]]:
    """The tensors of the golden checkpoint."""
    file = open_weights(GOLDEN / f"{NAME}.pt")
    return {name.removeprefix("module."): np.array(file.read(name)) for name in file.names}


def weights_of(path: Path, tensors: dict[str, NDArray[Any]]) -> ModelWeights:
    return ModelWeights(open_weights(write_checkpoint(path, tensors)), ARCHITECTURE)


def test_weights_are_rounded_where_cn_clip_rounds_them(tmp_path: Path) -> None:
    tensors = official()
    weights = weights_of(tmp_path / "a.pt", tensors)

    for name in ("visual.conv1.weight", "visual.proj", "text_projection", "bert.embeddings.LayerNorm.weight"):
        np.testing.assert_array_equal(weights.read(name), tensors[name].astype(np.float16).astype(np.float32))
    for name in ("visual.ln_pre.weight", "visual.class_embedding", "visual.positional_embedding"):
        np.testing.assert_array_equal(weights.read(name), tensors[name])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_may_be_of_any_float(tmp_path: Path, dtype: type) -> None:
    halves = {name: tensor.astype(np.float16) for name, tensor in official().items()}
    weights = weights_of(tmp_path / "a.pt", halves)

    assert weights.read("visual.proj").dtype == np.float32
    np.testing.assert_array_equal(weights.read("visual.proj"), halves["visual.proj"].astype(np.float32))


def without(name: str) -> Callable[[dict[str, NDArray[Any]]], None]:
    return lambda tensors: tensors.__delitem__(name)


def replaced(name: str, array: NDArray[Any]) -> Callable[[dict[str, NDArray[Any]]], None]:
    return lambda tensors: tensors.update({name: array})


CASES: dict[str, tuple[Callable[[dict[str, NDArray[Any]]], None], str]] = {
    "one too few": (without("visual.proj"), r"it lacks visual\.proj$"),
    "one too many": (replaced("visual.extra", np.zeros(1, np.float32)), r"it has visual\.extra, which the model"),
    "of another shape": (replaced("visual.proj", np.zeros((24, 32), np.float32)), r"24 x 32 instead of 32 x 24"),
    "a number": (replaced("text_projection", np.array(1, np.float32)), "one number instead of 24 x 24"),
    "whole numbers": (replaced("visual.proj", np.zeros((32, 24), np.int64)), r"visual\.proj in int64"),
}


@pytest.mark.parametrize("case", CASES)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, case: str) -> None:
    change, reason = CASES[case]
    tensors = official()
    change(tensors)

    with pytest.raises(CheckpointError, match=reason):
        weights_of(tmp_path / "a.pt", tensors)


@pytest.mark.parametrize(("name", "shown"), [("\x1b[2Jgone\nfine", r"\x1b[2Jgone\nfine"), ("\ud800", r"\ud800")])
def test_a_name_that_would_do_something_to_a_log_is_escaped(tmp_path: Path, name: str, shown: str) -> None:
    """Or to an answer: half of a surrogate pair cannot be written as UTF-8."""
    tensors = official() | {name: np.zeros(1, np.float32)}

    with pytest.raises(CheckpointError) as refused:
        weights_of(tmp_path / "a.pt", tensors)
    assert f"it has '{shown}', which the model does not" in str(refused.value)


def test_another_model_is_named_with_how_much_is_missing() -> None:
    with pytest.raises(CheckpointError, match=r"it lacks bert\.encoder\.layer\.1\.\S+ and \d+ more"):
        ModelWeights(open_weights(GOLDEN / "chinese-clip-rn50.pt"), ARCHITECTURE)
    with pytest.raises(CheckpointError, match=r"it lacks .* and \d+ more"):
        ModelWeights(open_weights(GOLDEN / "transformers" / "pytorch_model.bin"), SMALL["chinese-clip-rn50"])


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, number: float) -> None:
    tensors = official()
    tensors["visual.proj"][3, 4] = number

    with pytest.raises(CheckpointError, match=r"visual\.proj holds numbers that are not finite"):
        weights_of(tmp_path / "a.pt", tensors).read("visual.proj")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_transformers_own_files_give_its_own_answers(tmp_path: Path, name: str) -> None:
    """tests/golden/make_transformers_clip.py"""
    saved = GOLDEN / "transformers"
    answers = {key: np.array(value) for key, value in json.loads((saved / "answers.json").read_text()).items()}
    folder = tmp_path / "model"
    convert(request_for(saved / name, folder, ARCHITECTURE), Silent(), open_session)

    feeds: dict[str, dict[str, NDArray[Any]]] = {
        "visual": {"image": answers["image"].astype(np.float32)},
        "textual": {"text": answers["text"].astype(np.int32)},
    }
    for kind, feed in feeds.items():
        _, features = run(folder / kind / "model.onnx", feed)
        for found, expected in zip(features, answers[kind], strict=True):
            assert cosine(found, expected) >= 0.999999
            assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected), rel=1e-4)


def test_the_two_layouts_of_one_model_give_one_graph(tmp_path: Path) -> None:
    """cn_clip's names and transformers', of the same numbers."""
    ours = convert_small(NAME, tmp_path / "a", ("fp32",))
    tensors = official()
    renamed = {new: array for name, array in tensors.items() for new, array in _transformers(name, array)}
    write_checkpoint(tmp_path / "b.pt", renamed)
    convert(request_for(tmp_path / "b.pt", tmp_path / "b", ARCHITECTURE), Silent(), open_session)

    for kind in ("visual", "textual"):
        assert (ours / kind / "model.onnx").read_bytes() == (tmp_path / "b" / kind / "model.onnx").read_bytes()


def _transformers(name: str, array: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    """A tensor of cn_clip's as transformers' script for Chinese-CLIP converts it."""
    if name.startswith("bert."):
        return [(name.replace("bert.", "text_model."), array)]
    if name == "text_projection":
        return [("text_projection.weight", array.T.copy())]
    if name == "visual.proj":
        return [("visual_projection.weight", array.T.copy())]
    if ".attn.in_proj_" in name:
        layer, kind = name.split(".")[3], name.rpartition("_")[2]
        parts = zip("qkv", np.split(array, 3), strict=True)
        return [(f"vision_model.encoder.layers.{layer}.self_attn.{x}_proj.{kind}", part.copy()) for x, part in parts]
    for old, new in (
        ("visual.transformer.resblocks", "vision_model.encoder.layers"),
        ("visual.conv1", "vision_model.embeddings.patch_embedding"),
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        (".attn.", ".self_attn."),
        (".ln_", ".layer_norm"),
        ("c_fc", "fc1"),
        ("c_proj", "fc2"),
    ):
        name = name.replace(old, new)
    return [(name, array)]
