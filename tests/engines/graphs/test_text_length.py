"""Text towers without a fixed length: a text alone has the embedding that it has with padding up to 77 tokens."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from clip_models import (
    save_chinese_text,
    save_fused_openclip_text,
    save_masked_text,
    save_openclip_text,
    save_visual,
)
from numpy.typing import NDArray
from onnx import numpy_helper
from ort_session import OrtSession

from immich_ml_cn.engines import CpuEngine, OpenVinoEngine
from immich_ml_cn.engines.graphs import edit_process
from immich_ml_cn.engines.graphs.text_length import MAX_LENGTH, looks_fixed, with_any_length
from immich_ml_cn.settings import Settings

GOLDEN = Path(__file__).parents[2] / "golden" / "openclip_text"
EXPORTS = ("torchscript.onnx", "dynamo.onnx")
CONTEXT = 77
END = 63
"""The largest id of the small models: the end of the text."""


def padded(ids: NDArray[np.int32], padding: int = 0) -> NDArray[np.int32]:
    row = np.full((1, CONTEXT), padding, np.int32)
    row[:, : ids.shape[1]] = ids
    return row


def texts() -> list[NDArray[np.int32]]:
    random = np.random.default_rng(0)
    lengths = (2, 3, 8, 9, 31, 76, 77)
    return [np.array([[62, *random.integers(1, 60, length - 2), END]], np.int32) for length in lengths]


def assert_freed(path: Path) -> None:
    """With and without padding, whatever it is, a text has the embedding that the graph in the file gives it."""
    whole, freed = OrtSession(path), OrtSession(with_any_length(path))
    assert freed.inputs[0].shape[1] is None
    assert freed.metadata[MAX_LENGTH] == str(CONTEXT)
    for ids in texts():
        (expected,) = whole.run({"text": padded(ids)})
        for given in (ids, padded(ids), padded(ids, END)):
            np.testing.assert_allclose(freed.run({"text": given})[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", EXPORTS)
def test_what_pytorch_exports_of_openclip(name: str) -> None:
    assert looks_fixed(GOLDEN / name)
    assert_freed(GOLDEN / name)


@pytest.mark.parametrize("engine_class", [CpuEngine, OpenVinoEngine])
@pytest.mark.parametrize("name", EXPORTS)
def test_on_either_engine(tmp_path: Path, engine_class: type[CpuEngine | OpenVinoEngine], name: str) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(GOLDEN / name, path)
    engine = engine_class(Settings(cache_folder=tmp_path))
    whole, freed = (engine.open(graph, "interactive", 0) for graph in (path, edit_process.with_any_length(path)))
    assert freed.metadata[MAX_LENGTH] == str(CONTEXT)
    for ids in texts():
        (expected,), (found,) = whole.run({"text": padded(ids)}), freed.run({"text": ids})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, "batch"])
def test_the_fused_form_of_newer_exports(tmp_path: Path, batch: int | str) -> None:
    """Attention is one operator, and the end of the text is taken by a product."""
    path = save_fused_openclip_text(tmp_path / "model.onnx", vocabulary=END + 1, batch=batch)
    assert looks_fixed(path)
    assert_freed(path)


def test_a_batch_of_one_length(tmp_path: Path) -> None:
    path = save_fused_openclip_text(tmp_path / "model.onnx", vocabulary=END + 1)
    freed = OrtSession(with_any_length(path))
    one, other = texts()[2], texts()[2][:, ::-1].copy()
    both = freed.run({"text": np.concatenate([one, other])})[0]
    alone = np.concatenate([freed.run({"text": ids})[0] for ids in (one, other)])
    np.testing.assert_allclose(both, alone, rtol=0, atol=2e-6)


def test_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((GOLDEN / EXPORTS[0]).read_bytes())
    path.chmod(0o444)
    with_any_length(path)
    assert path.read_bytes() == (GOLDEN / EXPORTS[0]).read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_others_are_not_even_tried(tmp_path: Path) -> None:
    """Chinese-CLIP takes any length already; M-CLIP, SigLIP and NLLB do not search for the end of the text."""
    assert not looks_fixed(save_chinese_text(tmp_path / "chinese.onnx"))
    assert not looks_fixed(save_openclip_text(tmp_path / "any.onnx", vocabulary=64, length="length"))
    assert not looks_fixed(save_masked_text(tmp_path / "masked.onnx", vocabulary=64, length=CONTEXT))
    assert not looks_fixed(save_visual(tmp_path / "visual.onnx"))


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x3a\x7f"])
def test_no_graph(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="graph"):
        looks_fixed(path)


def changed(tmp_path: Path, name: str, change: Any) -> Path:
    model = onnx.load(str(GOLDEN / name))
    change(model.graph)
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    return path


def share_the_mask(graph: Any) -> None:
    """One mask for all layers, as some exporters and optimisers write it."""
    masks = {tensor.name for tensor in graph.initializer if list(tensor.dims[-2:]) == [CONTEXT, CONTEXT]}
    assert len(masks) == 2
    for node in graph.node:
        node.input[:] = [min(masks) if name in masks else name for name in node.input]


def test_a_mask_of_several_layers(tmp_path: Path) -> None:
    assert_freed(changed(tmp_path, "dynamo.onnx", share_the_mask))


def see_later_tokens(graph: Any) -> None:
    """SigLIP's text tower has no causal mask."""
    for tensor in graph.initializer:
        if list(tensor.dims[-2:]) == [CONTEXT, CONTEXT]:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))


def take_the_last_position(graph: Any) -> None:
    """In place of the end of the text, as SigLIP does."""
    last = numpy_helper.from_array(np.array([CONTEXT - 1], np.int64), "last")
    graph.initializer.append(last)
    (search,) = (node for node in graph.node if node.op_type == "ArgMax")
    search.CopyFrom(onnx.helper.make_node("Identity", ["last"], list(search.output)))


def name_the_length_elsewhere(graph: Any) -> None:
    """As a cut does that was recorded with its end."""
    for name, value in (("from", 0), ("to", CONTEXT), ("along", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    lookup = next(node for node in graph.node if "text" in node.input)
    cut = onnx.helper.make_node("Slice", [lookup.output[0], "from", "to", "along"], ["recorded"])
    place = list(graph.node).index(lookup)
    for node in graph.node:
        node.input[:] = ["recorded" if name == lookup.output[0] else name for name in node.input]
    graph.node.insert(place + 1, cut)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (see_later_tokens, "may see those after them"),
        (take_the_last_position, "does not take its embedding at the end"),
        (name_the_length_elsewhere, "is not understood"),
    ],
)
def test_what_the_padding_may_change_is_refused(tmp_path: Path, change: Any, why: str) -> None:
    path = changed(tmp_path, "dynamo.onnx", change)
    OrtSession(path).run({"text": padded(texts()[2])})
    with pytest.raises(ValueError, match=why):
        with_any_length(path)


def test_a_mask_that_a_file_has_as_weights_is_refused_where_it_sees_one_token_too_many(tmp_path: Path) -> None:
    def open_one(graph: Any) -> None:
        for tensor in graph.initializer:
            if list(tensor.dims[-2:]) == [CONTEXT, CONTEXT]:
                mask = numpy_helper.to_array(tensor).copy()
                mask[..., 3, 4] = 0
                tensor.CopyFrom(numpy_helper.from_array(mask, tensor.name))

    with pytest.raises(ValueError, match="may see those after them"):
        with_any_length(changed(tmp_path, "dynamo.onnx", open_one))
