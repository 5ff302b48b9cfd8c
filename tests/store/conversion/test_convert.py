"""From a checkpoint to graphs in their places: all of them, or none and nothing left behind."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from chinese_clips import GOLDEN, SMALL, Silent, convert_small, every_file, open_session, request_for, run
from clip_models import cosine
from numpy.typing import NDArray
from ort_session import OrtSession
from torch_files import Tensor, call, name, write_checkpoint, write_file

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import Translator
from immich_ml_cn.store.conversion.architecture import ResNet
from immich_ml_cn.store.conversion.convert import STAGING, convert
from immich_ml_cn.store.conversion.errors import CheckpointError
from immich_ml_cn.store.conversion.graph import PRECISIONS, quantize
from immich_ml_cn.store.conversion.model_weights import ModelWeights
from immich_ml_cn.store.conversion.onnx_file import ALIGNMENT, PROTOBUF_LIMIT, write_half, write_onnx
from immich_ml_cn.store.conversion.process import convert_in_child
from immich_ml_cn.store.conversion.towers import build_tower
from immich_ml_cn.store.conversion.weights import open_weights
from immich_ml_cn.store.fetch.checksums import recorded
from immich_ml_cn.store.fetch.failure import Cancelled, DiskFailed

NAME = "chinese-clip-vit-base-patch16"
CHECKPOINT = GOLDEN / f"{NAME}.pt"
GRAPHS = ("model.onnx", "model_fp16.onnx", "model_int8.onnx")


class Recorder:
    """Notes what it is told of the progress."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.totals: list[int | None] = []
        self.done: list[int] = []

    def start(self, file: str, done: int, total: int | None) -> None:
        self.files.append(file)
        self.totals.append(total)
        self.done.append(done)

    def advance(self, count: int) -> None:
        self.done[-1] += count

    def finish(self) -> None: ...


def test_a_model_s_folder_is_in_immichs_layout(tmp_path: Path) -> None:
    folder = convert_small(NAME, tmp_path / "model")

    graphs = {f"{kind}/{graph}" for kind in ("visual", "textual") for graph in GRAPHS}
    described = {"config.json", "visual/preprocess_cfg.json", "textual/vocab.txt", ".checksums.json"}
    assert every_file(folder) == graphs | described
    assert set(recorded(folder)) == graphs
    record = json.loads((folder / ".checksums.json").read_text())
    assert {graph: entry["size"] for graph, entry in record.items()} == {
        graph: (folder / graph).stat().st_size for graph in graphs
    }


@pytest.mark.parametrize("model", SMALL)
def test_the_graphs_are_valid(tmp_path: Path, model: str) -> None:
    folder = convert_small(model, tmp_path / "model")

    for kind in ("visual", "textual"):
        for graph in GRAPHS:
            onnx.checker.check_model(str(folder / kind / graph), full_check=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_large_weights_lie_beside_the_graph(tmp_path: Path, precision: Any) -> None:
    one = convert_small(NAME, tmp_path / "one", (precision,))
    two = tmp_path / "two"
    convert(request_for(CHECKPOINT, two, SMALL[NAME], (precision,), limit=1000), Silent(), open_session)

    moved = two.rename(tmp_path / "moved")
    feeds: dict[str, dict[str, NDArray[Any]]] = {
        "visual": {"image": np.ones((1, 3, 32, 32), np.float32)},
        "textual": {"text": np.ones((1, 4), np.int32)},
    }
    for kind, feed in feeds.items():
        graph = next((moved / kind).glob("*.onnx"))
        data = graph.with_name(f"{graph.name}.data")
        onnx.checker.check_model(str(graph), full_check=True)
        assert data.stat().st_size > 4 * graph.stat().st_size / 10
        assert str(data.relative_to(moved)) in recorded(moved)
        model = onnx.load(str(graph), load_external_data=False)
        outside = [w for w in model.graph.initializer if w.data_location == onnx.TensorProto.EXTERNAL]
        offsets = [int(entry.value) for w in outside for entry in w.external_data if entry.key == "offset"]
        assert len(offsets) > 5
        assert all(offset % ALIGNMENT == 0 for offset in offsets)
        for ours, theirs in zip(run(graph, feed), run(one / kind / graph.name, feed), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("limit", [1000, PROTOBUF_LIMIT])
def test_the_halves_of_a_tower_answer_as_the_whole(tmp_path: Path, limit: int) -> None:
    """With the weights of its own files, wherever they lie in them."""
    graph = build_tower("visual", SMALL[NAME], ModelWeights(open_weights(CHECKPOINT), SMALL[NAME]), "fp32")
    whole = write_onnx(graph, tmp_path / "model.onnx", limit=limit)
    feeds = {"image": np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)}

    values: dict[str, NDArray[Any]] = dict(feeds)
    for half in graph.halves():
        path = tmp_path / "half.onnx"
        write_half(half, path, whole)
        assert path.stat().st_size < sum(file.size for file in whole) / 4
        outputs = run(path, values)
        values = {value.name: output for value, output in zip(half.outputs, outputs, strict=True)}

    np.testing.assert_array_equal(values["embedding"], run(tmp_path / "model.onnx", feeds)[0])


def test_what_is_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    mine = folder / "visual" / "model.onnx"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    (folder / "config.json").write_text("{}")

    made = convert(request_for(CHECKPOINT, folder, SMALL[NAME]), Silent(), open_session)

    assert made == (Path("textual/model.onnx"),)
    assert mine.read_bytes() == b"mine"
    assert (folder / "config.json").read_text() == "{}"
    assert convert(request_for(CHECKPOINT, folder, SMALL[NAME]), Silent(), open_session) == ()


def test_what_an_earlier_conversion_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "model" / STAGING / "visual" / "model.onnx"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")

    folder = convert_small(NAME, tmp_path / "model", ("fp32",))
    assert not left.exists()
    assert (folder / "visual" / "model.onnx").stat().st_size > 1000


def spoiled(path: Path, change: Any) -> Path:
    """The golden checkpoint with a change."""
    file = open_weights(CHECKPOINT)
    tensors = {key.removeprefix("module."): np.array(file.read(key)) for key in file.names}
    change(tensors)
    return write_checkpoint(path, tensors)


def _nan(tensors: dict[str, NDArray[Any]]) -> None:
    tensors["bert.encoder.layer.1.output.dense.weight"][0, 0] = np.nan


def _shape(tensors: dict[str, NDArray[Any]]) -> None:
    tensors["visual.proj"] = tensors["visual.proj"].T.copy()


def _zero(tensors: dict[str, NDArray[Any]]) -> None:
    tensors["visual.proj"][:] = 0


def hostile(case: str, path: Path, marker: Path) -> Path:
    """A checkpoint that should not be taken; `marker` is what it would write if it ran."""
    numbers = {"0": bytes(24)}
    match case:
        case "foreign class":
            return write_file(path, {"state_dict": call(name("os", "system"), f"touch {marker}")}, numbers)
        case "nested archive":
            write_file(path, {"a": 1})
            return write_file(path.with_name("b.pt"), path.read_bytes())
        case "lying size":
            return write_file(path, {"state_dict": {"t": Tensor("0", (1 << 30, 1 << 30), 1 << 28)}}, numbers)
        case "zip bomb":
            return write_file(path, {"t": Tensor("0", (1 << 24,), 1 << 24)}, {"0": bytes(1 << 26)}, packed=True)
        case "wrong shape":
            return spoiled(path, _shape)
        case "NaN":
            return spoiled(path, _nan)
        case "zeros":
            return spoiled(path, _zero)
    path.write_bytes(CHECKPOINT.read_bytes()[:100_000])
    return path


CASES = ("foreign class", "nested archive", "lying size", "zip bomb", "wrong shape", "NaN", "zeros", "cut off")


@pytest.mark.parametrize("case", CASES)
def test_hostile_checkpoints_are_refused_and_leave_nothing(tmp_path: Path, case: str) -> None:
    marker, folder = tmp_path / "owned", tmp_path / "model"
    checkpoint = hostile(case, tmp_path / "a.pt", marker)

    with np.errstate(invalid="ignore"), pytest.raises(CheckpointError, match=str(checkpoint)):
        convert(request_for(checkpoint, folder, SMALL[NAME]), Silent(), open_session)

    assert not marker.exists()
    assert every_file(folder) == set()
    assert checkpoint.exists(), "whoever placed it decides about it"


@pytest.mark.parametrize("case", ["foreign class", "NaN"])
def test_hostile_checkpoints_are_refused_in_the_other_process(tmp_path: Path, case: str) -> None:
    marker, folder = tmp_path / "owned", tmp_path / "model"
    checkpoint = hostile(case, tmp_path / "a.pt", marker)

    with pytest.raises(Unavailable, match=f"{checkpoint} is refused") as refused:
        convert_in_child(request_for(checkpoint, folder, SMALL[NAME]), "m", Recorder(), threading.Event())

    assert Translator("zh")(refused.value).startswith(f"{checkpoint} 被拒绝：")
    assert not marker.exists()
    assert every_file(folder) == set()


@pytest.mark.parametrize("model", ["chinese-clip-rn50", NAME])
def test_the_other_process_converts_and_tells_how_far_it_is(tmp_path: Path, model: str) -> None:
    request = request_for(GOLDEN / f"{model}.pt", tmp_path / "model", SMALL[model])
    progress = Recorder()

    made = convert_in_child(request, f"clip/{model}", progress, threading.Event())

    assert made == (Path("visual/model.onnx"), Path("textual/model.onnx"))
    assert every_file(tmp_path / "model") >= {str(path) for path in made}
    assert [file.partition(" (")[0] for file in progress.files] == [
        f"converting clip/{model}/visual/model.onnx",
        f"converting clip/{model}/textual/model.onnx",
    ]
    assert all("tensors)" in file for file in progress.files)
    assert progress.done == progress.totals


def test_a_conversion_can_be_stopped(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()

    with pytest.raises(Cancelled):
        convert_in_child(request_for(CHECKPOINT, tmp_path / "model", SMALL[NAME]), "m", Recorder(), cancelled)
    assert every_file(tmp_path / "model") == set()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    request = request_for(CHECKPOINT, folder, SMALL[NAME])
    folder.rmdir()
    folder.write_text("a file")

    with pytest.raises(DiskFailed, match=str(folder)):
        convert_in_child(request, "m", Recorder(), threading.Event())


def test_int8_weights_are_within_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((50, 7)) * np.arange(7)

    quantized, scale = quantize(weight)

    assert quantized.dtype == np.int8
    assert (abs(quantized * scale - weight) <= scale * 0.5001).all()
    assert (abs(quantized).max(axis=0) == [0, *[127] * 6]).all()


def test_the_last_layer_computes_one_row(tmp_path: Path) -> None:
    """Only the class token's row is asked for, so no matrix product after the last keys and values has more."""
    folder = convert_small(NAME, tmp_path / "model", ("fp32",))
    model = onnx.shape_inference.infer_shapes(onnx.load(str(folder / "visual" / "model.onnx")), data_prop=True)
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in model.graph.value_info
    }
    last = [node for node in model.graph.node if any(".1.mlp" in weight for weight in node.input)]

    assert len(last) == 4
    assert all(shapes[node.output[0]][1] == 1 for node in last)


def test_batch_norms_are_folded(tmp_path: Path) -> None:
    folder = convert_small("chinese-clip-rn50", tmp_path / "model", ("fp32",))
    kinds = {node.op_type for node in onnx.load(str(folder / "visual" / "model.onnx")).graph.node}

    assert isinstance(SMALL["chinese-clip-rn50"].vision, ResNet)
    assert "BatchNormalization" not in kinds
    assert {"Conv", "AveragePool", "Relu"} <= kinds


def test_padding_does_not_change_an_answer(tmp_path: Path) -> None:
    session = OrtSession(convert_small(NAME, tmp_path / "model", ("fp32",)) / "textual" / "model.onnx")
    short = session.run({"text": np.array([[2, 7, 9, 3]], np.int32)})[0][0]
    padded = session.run({"text": np.array([[2, 7, 9, 3] + [0] * 48], np.int32)})[0][0]

    assert cosine(short, padded) >= 0.9999999
