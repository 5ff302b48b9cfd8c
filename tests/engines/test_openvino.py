"""OpenVINO: which device and precision, what it keeps on disk, its threads; answers equal to ONNX Runtime's."""

import gc
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clip_models
import face_models
import numpy as np
import ocr_session
import pytest
from numpy.typing import NDArray
from ocr_pipeline import OcrModels, read_picture
from onnx import TensorProto, helper, numpy_helper
from server import FACE_TASK, OCR_TASK, ROOT, TEXTUAL, VISUAL, RunningServer, fill_cache
from test_engines import graph, install

from immich_ml_cn import memory
from immich_ml_cn.engines import CpuEngine, Engine, EngineError, OpenVinoEngine, checking_engine, select_engine
from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.graphs.metadata import read_metadata
from immich_ml_cn.engines.openvino_session import OpenVinoSession
from immich_ml_cn.engines.self_test import DOUBLING
from immich_ml_cn.engines.session import ParallelSession, Session
from immich_ml_cn.models import ocr
from immich_ml_cn.settings import Settings

DETECTOR = ocr_session.bundled("PP-OCRv6_det_small")
CLASSIFIER = ocr_session.bundled("ch_ppocr_mobile_v2.0_cls_mobile")
RECOGNIZER = ocr_session.bundled("PP-OCRv6_rec_small")
PICTURES = sorted((ROOT / "tests" / "pictures" / "ocr").iterdir())


def installed() -> bool:
    return subprocess.run([sys.executable, "-c", "import openvino"], capture_output=True, check=False).returncode == 0


needs_openvino = pytest.mark.skipif(not installed(), reason="OpenVINO is not installed")


def engine_in(cache: Path, **settings: Any) -> OpenVinoEngine:
    return OpenVinoEngine(Settings(cache_folder=cache, **settings))


def blobs(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.blob"))


class TestMetadata:
    def test_it_is_read_without_the_graph(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(graph())
        assert read_metadata(path) == read_metadata(graph()) == {"character": "一\n二"}
        assert read_metadata(DOUBLING) == {}

    @pytest.mark.parametrize("junk", [b"<html>404</html>", b"\x00", b"\xff" * 12, graph()[:-3], graph()[:40]])
    def test_what_is_no_graph_is_told_apart(self, junk: bytes) -> None:
        with pytest.raises(ValueError, match="ONNX graph"):
            read_metadata(junk)


@dataclass
class FakePort:
    element_type: Any = field(default_factory=lambda: SimpleNamespace(to_dtype=lambda: np.dtype(np.float32)))
    partial_shape: tuple[Any, ...] = (SimpleNamespace(is_dynamic=True),)
    name: str = "x"

    def get_names(self) -> set[str]:
        return {self.name}

    def get_node(self) -> Any:
        return SimpleNamespace(get_friendly_name=lambda: self.name)


@dataclass
class FakeOpenVino:
    """What the engine uses of the package openvino.

    Attributes:
        devices: those that it lists.
        broken: those that compute nonsense.
        compiled: device and configuration of each model compiled.
    """

    devices: Sequence[str] = ("CPU",)
    broken: Sequence[str] = ()
    capabilities: Sequence[str] = ("FP32",)
    compiled: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def Core(self) -> "FakeOpenVino":
        return self

    @property
    def available_devices(self) -> list[str]:
        return list(self.devices)

    def get_property(self, device: str, key: str) -> Any:
        return {"OPTIMIZATION_CAPABILITIES": list(self.capabilities), "FULL_DEVICE_NAME": f"name of {device}"}[key]

    def read_model(self, graph: bytes) -> bytes:
        return graph

    def compile_model(self, source: Any, device: str, config: dict[str, Any]) -> Any:
        self.compiled.append((device, config))
        if device not in self.devices:
            raise RuntimeError("Exception from src/x.cpp:1:\nCheck 'found' failed at src/y.cpp:2:\nno such device\n")
        factor = 3 if device in self.broken else 2
        request = SimpleNamespace(infer=lambda feeds, **_: {0: feeds["x"] * factor})
        return SimpleNamespace(
            create_infer_request=lambda: request,
            inputs=[FakePort()],
            outputs=[FakePort(name="y")],
            get_property=lambda key: True,
        )


class TestSelection:
    @pytest.fixture
    def fake(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Makes these the only packages, openvino's being a fake."""

        def make(openvino: Any, *packages: str) -> Any:
            install(tmp_path, *packages)
            monkeypatch.setattr(sys, "path", [str(tmp_path)])
            monkeypatch.setitem(sys.modules, "openvino", openvino)
            return openvino

        return make

    def test_auto_prefers_it_to_onnx_runtime_on_the_cpu(self, fake: Any, caplog: pytest.LogCaptureFixture) -> None:
        fake(FakeOpenVino(), "onnxruntime", "openvino")
        engine = select_engine(Settings())
        assert (engine.provider, engine.on_gpu) == ("OpenVINO", False)
        assert engine.description.endswith("f32 (OpenVINO 9.9)")
        assert not caplog.records

    def test_cpu_means_onnx_runtime_where_there_is_one(self, fake: Any, caplog: pytest.LogCaptureFixture) -> None:
        fake(FakeOpenVino(), "onnxruntime", "openvino")
        assert isinstance(select_engine(Settings(provider="cpu")), CpuEngine)
        assert isinstance(checking_engine(Settings()), CpuEngine)
        assert not caplog.records

    def test_it_is_enough_alone(self, fake: Any, caplog: pytest.LogCaptureFixture) -> None:
        fake(FakeOpenVino(), "openvino")
        assert isinstance(select_engine(Settings()), OpenVinoEngine)
        assert isinstance(checking_engine(Settings()), OpenVinoEngine)
        assert not caplog.records
        assert isinstance(select_engine(Settings(provider="cpu")), OpenVinoEngine)
        assert "OpenVINO runs everything, on the CPU" in caplog.text

    def test_one_that_fails_is_replaced_loudly(self, fake: Any, caplog: pytest.LogCaptureFixture) -> None:
        fake(FakeOpenVino(broken=["CPU"]), "onnxruntime", "openvino")
        assert isinstance(select_engine(Settings()), CpuEngine)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.message == (
            "OpenVINO cannot be used, everything runs on ONNX Runtime, on the CPU: "
            "CPU: the self-test computed [4.5] instead of [3.0]"
        )
        with pytest.raises(EngineError, match="PROVIDER=openvino, but it cannot be used: CPU: the self-test"):
            select_engine(Settings(provider="openvino"))

    def test_one_that_fails_and_nothing_else_is_an_error(self, fake: Any) -> None:
        fake(FakeOpenVino(broken=["CPU"]), "openvino")
        with pytest.raises(EngineError, match="the self-test computed"):
            select_engine(Settings())

    def test_a_package_that_cannot_be_imported(self, fake: Any, caplog: pytest.LogCaptureFixture) -> None:
        fake(None, "onnxruntime", "openvino")
        assert isinstance(select_engine(Settings()), CpuEngine)
        assert "OpenVINO cannot be started" in caplog.text

    def test_demanded_but_not_installed_says_what_to_install(self, fake: Any) -> None:
        fake(None, "onnxruntime")
        with pytest.raises(EngineError, match=r"PROVIDER=openvino.*install immich-ml-cn\[openvino\]"):
            select_engine(Settings(provider="openvino"))

    def test_graphics_that_compute_right_are_used(self, fake: Any) -> None:
        openvino = fake(FakeOpenVino(["CPU", "GPU.0", "GPU.1"], capabilities=["FP32", "FP16"]), "openvino")
        settings = Settings(device_ids=(0, 1), openvino_precision="auto")
        engine = select_engine(settings)
        assert engine.on_gpu
        assert engine.description == "GPU 0: name of GPU.0, 1: name of GPU.1, f16 (OpenVINO 9.9)"
        engine.open(DOUBLING, "bulk", 1)
        assert openvino.compiled[-1] == ("GPU.1", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16"})
        assert not select_engine(Settings(openvino_device="cpu")).on_gpu

    def test_graphics_that_do_not_are_replaced_loudly(self, fake: Any, caplog: pytest.LogCaptureFixture) -> None:
        fake(FakeOpenVino(["CPU", "GPU.0"], broken=["GPU.0"]), "openvino")
        engine = select_engine(Settings())
        assert (engine.provider, engine.on_gpu) == ("OpenVINO", False)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "OpenVINO cannot use the graphics, everything runs on the CPU: GPU.0: the self-test" in record.message
        with pytest.raises(EngineError, match=r"GPU\.0: the self-test computed"):
            select_engine(Settings(provider="openvino", openvino_device="gpu"))

    def test_graphics_that_are_not_there(self, fake: Any) -> None:
        fake(FakeOpenVino(), "openvino")
        with pytest.raises(EngineError, match="finds no graphics: pass /dev/dri"):
            select_engine(Settings(provider="openvino", openvino_device="gpu"))
        fake(FakeOpenVino(["CPU", "GPU.0"]), "onnxruntime-gpu")
        with pytest.raises(EngineError, match=r"GPU\.3: a graph in memory cannot be loaded: no such device$"):
            select_engine(Settings(provider="openvino", openvino_device="gpu", device_ids=(3,)))

    @pytest.mark.parametrize(
        ("wanted", "capabilities", "precision"),
        [
            ("f32", ["FP32", "BF16"], "f32"),
            ("auto", ["FP32", "BF16"], "bf16"),
            ("auto", ["FP32", "FP16"], "f32"),
            ("bf16", ["FP32", "BF16"], "bf16"),
        ],
    )
    def test_precisions(self, fake: Any, wanted: Any, capabilities: list[str], precision: str) -> None:
        openvino = fake(FakeOpenVino(capabilities=capabilities), "openvino")
        engine = OpenVinoEngine(Settings(openvino_precision=wanted))
        engine.open(DOUBLING, "bulk", 0)
        assert openvino.compiled[-1][1]["INFERENCE_PRECISION_HINT"] == precision
        assert f", {precision} (" in engine.description

    def test_a_precision_that_the_cpu_lacks_is_a_warning(self, fake: Any, caplog: pytest.LogCaptureFixture) -> None:
        fake(FakeOpenVino(), "openvino")
        assert ", f32 (" in OpenVinoEngine(Settings(openvino_precision="f16")).description
        assert "the CPU has no arithmetic in f16" in caplog.text


@needs_openvino
class TestEngine:
    def test_it_says_what_it_is(self, tmp_path: Path) -> None:
        assert engine_in(tmp_path, intra_op_threads=3).description.startswith("CPU, 3 threads, f32 (OpenVINO 20")

    def test_it_comes_without_the_converter_and_its_telemetry(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from immich_ml_cn.engines import OpenVinoEngine; "
            "from immich_ml_cn.settings import Settings; OpenVinoEngine(Settings(cache_folder=Path(sys.argv[1]))); "
            "assert 'openvino' in sys.modules; assert not [m for m in sys.modules if 'telemetry' in m]; "
            "import openvino.tools.ovc"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, timeout=60)

    def test_a_compiled_model_is_kept_beside_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "ocr" / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(DETECTOR.read_bytes())
        engine = engine_in(tmp_path)
        x = {"x": np.random.default_rng(0).random((1, 3, 96, 96), np.float32)}
        first = engine.open(path, "bulk", 0)
        (kept,) = blobs(tmp_path)
        assert kept.is_relative_to(path.parent / "openvino")
        written = kept.stat().st_mtime_ns
        second = engine_in(tmp_path).open(path, "interactive", 0)
        assert blobs(tmp_path) == [kept]
        assert kept.stat().st_mtime_ns == written
        assert (second.inputs, second.outputs) == (first.inputs, first.outputs)
        np.testing.assert_array_equal(second.run(x)[0], first.run(x)[0])

    def test_a_file_that_was_replaced_is_compiled_anew(self, tmp_path: Path) -> None:
        path = face_models.build_recognizer(tmp_path / "model.onnx", seed=1)
        engine = engine_in(tmp_path)
        x = {info.name: np.ones((1, 3, 112, 112), np.float32) for info in engine.open(path, "bulk", 0).inputs}
        before = engine.open(path, "bulk", 0).run(x)[0]
        face_models.build_recognizer(path, seed=2)
        after = engine.open(path, "bulk", 0).run(x)[0]
        np.testing.assert_allclose(after, CpuEngine(Settings()).open(path, "bulk", 0).run(x)[0], rtol=1e-3, atol=1e-4)
        assert not np.allclose(before, after)
        assert len(blobs(tmp_path)) == 1

    def test_a_compiled_model_cut_short_is_compiled_anew(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(DETECTOR.read_bytes())
        engine_in(tmp_path).open(path, "bulk", 0)
        (kept,) = blobs(tmp_path)
        size = kept.stat().st_size
        kept.write_bytes(kept.read_bytes()[: size // 2])
        engine_in(tmp_path).open(path, "bulk", 0)
        assert kept.stat().st_size > size // 2 + 1000

    def test_a_folder_that_cannot_be_written_is_enough(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(graph())
        (tmp_path / "openvino").write_text("no folder")
        engine_in(tmp_path).open(path, "bulk", 0)
        assert not blobs(tmp_path)

    def test_nothing_is_written_beside_files_of_others_nor_for_edited_graphs(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "model.onnx").write_bytes(graph())
        engine = engine_in(tmp_path / "cache")
        engine.open(graph(), "bulk", 0)
        assert not blobs(tmp_path)
        engine.open(outside / "model.onnx", "bulk", 0)
        assert list(outside.iterdir()) == [outside / "model.onnx"]
        assert len(blobs(tmp_path / "cache")) == 1

    def test_memory_can_be_given_back_after_each_run(self, tmp_path: Path) -> None:
        session = engine_in(tmp_path, model_arena=False).open(graph(), "bulk", 0)
        for _ in range(2):
            assert session.run({"x": np.ones((1, 3), np.float32)})[0].tolist() == [[1, 1, 1]]

    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
    @pytest.mark.slow
    def test_memory_stays_flat_over_many_shapes(self, tmp_path: Path) -> None:
        """By default OpenVINO keeps 4 MB for each shape a text detector ever saw."""
        session = engine_in(tmp_path).open(DETECTOR, "bulk", 0)
        shapes = [(h, w) for h in range(96, 448, 32) for w in range(96, 448, 32)]

        def run(some: list[tuple[int, int]]) -> int:
            for height, width in some:
                session.run({"x": np.zeros((1, 3, height, width), np.float32)})
            gc.collect()
            memory.release()
            return memory.resident_bytes()

        half = len(shapes) // 2
        run([(448, 448), *shapes[:half]])
        before = run(shapes[:1])
        assert run(shapes[half:]) - before < 90e6

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_the_shared_workers_have_normal_priority(self, tmp_path: Path) -> None:
        """They are one pool for all lanes, and keep the priority of whoever started them."""
        code = WORKERS.format(detector=str(DETECTOR))
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            check=False,
            timeout=120,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "worker" in done.stdout or len(os.sched_getaffinity(0)) == 1


WORKERS = """
import os, sys, threading
from pathlib import Path
import numpy as np
from immich_ml_cn.engines import OpenVinoEngine
from immich_ml_cn.serving.lanes import lower_priority
from immich_ml_cn.settings import Settings

def times():
    found = {{}}
    for name in os.listdir("/proc/self/task"):
        words = Path(f"/proc/self/task/{{name}}/stat").read_text().rpartition(")")[2].split()
        found[name] = int(words[11]) + int(words[12]), int(words[16])
    return found

normal = os.getpriority(os.PRIO_PROCESS, 0)
engine = OpenVinoEngine(Settings(cache_folder=Path(sys.argv[1])))

def bulk():
    lower_priority(19)
    session = engine.open(Path({detector!r}), "bulk", 0)
    session.run({{"x": np.zeros((1, 3, 480, 480), np.float32)}})
    before = times()
    for _ in range(4):
        session.run({{"x": np.zeros((1, 3, 480, 480), np.float32)}})
    own = str(threading.get_native_id())
    for name, (ticks, nice) in times().items():
        if name != own and ticks - before.get(name, (0, 0))[0] > 3:
            print("worker")
            assert nice == normal, (name, nice)
    assert times()[own][1] == 19

thread = threading.Thread(target=bulk)
failures = []
threading.excepthook = failures.append
thread.start()
thread.join()
assert not failures, failures
"""


def model_of(nodes: Sequence[Any], result: Any, shape: Sequence[Any], **weights: NDArray[Any]) -> bytes:
    """x → `result`, opset 13."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [result], initializers),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def arg_max(axis: int, *, keepdims: int, size: int | str = 300) -> bytes:
    rank = 3 if keepdims else 2
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [None] * rank)
    node = helper.make_node("ArgMax", ["x"], ["y"], axis=axis, keepdims=keepdims)
    shape: list[int | str] = ["n", "t", "c"]
    shape[axis] = size
    return model_of([node], y, shape)


def upsampling_head(*, biased: bool = True, kernel: int = 2, channels: int = 1) -> bytes:
    """The end of a DB detector: x, (n, 6, h, w), to four times the height and width."""
    rng = np.random.default_rng(5)
    weights = {
        "w1": rng.standard_normal((6, 5, 2, 2)).astype(np.float32),
        "w2": rng.standard_normal((5, channels, kernel, kernel)).astype(np.float32),
        "b1": rng.standard_normal((1, 5, 1, 1)).astype(np.float32),
        "b2": rng.standard_normal((1, channels, 1, 1)).astype(np.float32),
    }
    nodes = []

    def step(number: int, given: str, activation: str, wanted: str) -> None:
        up = helper.make_node("ConvTranspose", [given, f"w{number}"], [f"up{number}"], strides=[2, 2])
        same = helper.make_node("Identity", [f"up{number}"], [f"same{number}"])
        add = helper.make_node("Add", [f"same{number}", f"b{number}"], [f"sum{number}"])
        last = helper.make_node(activation, [f"sum{number}" if biased else f"same{number}"], [wanted])
        nodes.extend([up, same, *([add] if biased else []), last])

    step(1, "x", "Relu", "between")
    step(2, "between", "Sigmoid", "y")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, None, None])
    return model_of(nodes, y, ["n", 6, "h", "w"], **weights)


def recognizer_session(engine: Engine, *, parallel: bool = False) -> Session:
    """Of the graph as it is edited to answer the best class of each time step."""
    return ocr.load_recognizer(RECOGNIZER, lambda edited: engine.open(edited, "bulk", 0, parallel=parallel)).session


def operations(session: Session) -> set[str]:
    """The types of a compiled graph's nodes."""
    compiled: Any = session
    while not hasattr(compiled, "get_runtime_model"):
        compiled = compiled._compiled
    return {node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()}


@needs_openvino
class TestRewrites:
    """What is computed in another way gives the same answers; ONNX Runtime computes it as it was written."""

    @staticmethod
    def both(cache: Path, source: Graph, x: NDArray[np.float32]) -> tuple[set[str], NDArray[Any], NDArray[Any]]:
        """The types of the nodes that OpenVINO runs, its answer and ONNX Runtime's."""
        session = engine_in(cache).open(source, "bulk", 0)
        (ours,), (theirs,) = session.run({"x": x}), CpuEngine(Settings()).open(source, "bulk", 0).run({"x": x})
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        return operations(session), ours, theirs

    @pytest.mark.parametrize("axis", [1, 2, -1])
    @pytest.mark.parametrize("keepdims", [0, 1])
    def test_the_largest_of_many_is_found_without_sorting(self, tmp_path: Path, axis: int, keepdims: int) -> None:
        shape = [2, 3, 4]
        shape[axis] = 300
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) - 10
        done, ours, theirs = self.both(tmp_path, arg_max(axis, keepdims=keepdims), x)
        assert "TopK" not in done
        np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("size", [2, 16, 300])
    def test_whatever_the_number_of_rows(self, tmp_path: Path, size: int) -> None:
        """OpenVINO finds the largest of integers wrongly where the middle axis is 1."""
        source = arg_max(2, keepdims=0, size=size)
        ours, theirs = (engine.open(source, "bulk", 0) for engine in (engine_in(tmp_path), CpuEngine(Settings())))
        rng = np.random.default_rng(2)
        for rows in [(1, 1), (1, 2), (2, 1), (3, 7), (5, 40)]:
            x = {"x": rng.standard_normal((*rows, size)).astype(np.float32)}
            np.testing.assert_array_equal(ours.run(x)[0], theirs.run(x)[0])

    def test_of_equals_it_is_the_first(self, tmp_path: Path) -> None:
        x = np.zeros((1, 3, 300), np.float32)
        x[0, 1, [7, 299]] = 1
        x[0, 2, :5] = -1
        _, ours, theirs = self.both(tmp_path, arg_max(2, keepdims=0), x)
        assert ours.tolist() == theirs.tolist() == [[0, 7, 5]]

    def test_of_an_unknown_number_it_is_left_to_openvino(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).random((2, 3, 40), np.float32)
        done, ours, theirs = self.both(tmp_path, arg_max(2, keepdims=0, size="c"), x)
        assert "TopK" in done
        np.testing.assert_array_equal(ours, theirs)

    def test_an_index_is_exact_in_bf16(self, tmp_path: Path) -> None:
        """bf16 has three digits."""
        x = np.zeros((1, 4, 18710), np.float32)
        places = [0, 12345, 18707, 18709]
        x[0, range(4), places] = 1
        session = engine_in(tmp_path, openvino_precision="auto").open(arg_max(2, keepdims=0, size=18710), "bulk", 0)
        assert session.run({"x": x})[0].tolist() == [places]

    def test_the_detector_has_its_slow_part_no_more(self, tmp_path: Path) -> None:
        assert "Deconvolution" not in operations(engine_in(tmp_path).open(DETECTOR, "bulk", 0))

    def test_the_two_best_of_the_recogniser_are_left_to_openvino(self, tmp_path: Path) -> None:
        """They take 1 to 2 % of its time; found by comparing, 3 to 5."""
        assert "TopK" in operations(recognizer_session(engine_in(tmp_path)))

    @pytest.mark.parametrize("biased", [True, False])
    def test_a_detectors_end_is_upsampled_at_once(self, tmp_path: Path, biased: bool) -> None:
        x = np.random.default_rng(0).standard_normal((2, 6, 7, 9)).astype(np.float32)
        done, ours, theirs = self.both(tmp_path, upsampling_head(biased=biased), x)
        assert "Deconvolution" not in done
        assert ours.shape == (2, 1, 28, 36)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    @pytest.mark.parametrize("other", [{"kernel": 3}, {"channels": 2}])
    def test_another_end_is_left_as_it_is(self, tmp_path: Path, other: dict[str, Any]) -> None:
        x = np.random.default_rng(0).standard_normal((1, 6, 7, 9)).astype(np.float32)
        done, ours, theirs = self.both(tmp_path, upsampling_head(**other), x)
        assert "Deconvolution" in done
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@needs_openvino
class TestParallelSession:
    @staticmethod
    def session(cache: Path, source: Graph, threads: int = 2, **settings: Any) -> ParallelSession:
        engine = engine_in(cache, intra_op_threads=threads, **settings)
        session = engine.open(source, "bulk", 0, parallel=True)
        assert isinstance(session, ParallelSession)
        return session

    @pytest.mark.parametrize("threads", [1, 2, 3])
    @pytest.mark.parametrize("keep_memory", [True, False])
    def test_each_is_answered_with_its_own(self, tmp_path: Path, threads: int, keep_memory: bool) -> None:
        session = self.session(tmp_path, graph(), threads, model_arena=keep_memory)
        feeds = [{"x": np.full((1, 3), number, np.float32)} for number in range(7)]
        for _ in range(2):
            assert [y.tolist() for (y,) in session.run_parallel(feeds)] == [[[n] * 3] for n in range(7)]
        assert session.run_parallel([]) == []
        assert session.metadata == {"character": "一\n二"}

    def test_those_of_one_shape_are_run_as_batches_of_bounded_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("immich_ml_cn.engines.openvino_session.MAX_BATCH", 3)
        session = self.session(tmp_path, graph())
        sizes: list[int] = []
        run = OpenVinoSession.run

        def counting(one: OpenVinoSession, feeds: Any) -> Any:
            sizes.append(len(feeds["x"]))
            return run(one, feeds)

        monkeypatch.setattr(OpenVinoSession, "run", counting)
        feeds = [{"x": np.full((1, 3), number, np.float32)} for number in range(8)]
        outputs = session.run_parallel(feeds)
        assert sorted(sizes) == [2, 3, 3]
        assert [y.tolist() for (y,) in outputs] == [[[n] * 3] for n in range(8)]

    def test_large_ones_are_run_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("immich_ml_cn.engines.openvino_session.MAX_BATCHED_SIZE", 2)
        session = self.session(tmp_path, graph())
        feeds = [{"x": np.full((1, 3), number, np.float32)} for number in range(5)]
        assert [y.tolist() for (y,) in session.run_parallel(feeds)] == [[[n] * 3] for n in range(5)]

    def test_a_graph_for_batches_of_one_gets_no_larger_ones(self, tmp_path: Path) -> None:
        session = self.session(tmp_path, graph(shape=(1, 3)))
        feeds = [{"x": np.full((1, 3), number, np.float32)} for number in range(5)]
        assert [y.tolist() for (y,) in session.run_parallel(feeds)] == [[[n] * 3] for n in range(5)]

    def test_lines_of_any_width_are_read_as_one_by_one(self, tmp_path: Path) -> None:
        session = recognizer_session(engine_in(tmp_path, intra_op_threads=2), parallel=True)
        assert isinstance(session, ParallelSession)
        rng = np.random.default_rng(1)
        widths = [320, 64, 192, 64, 416, 96, 320]
        feeds = [{"x": rng.standard_normal((1, 3, 48, width)).astype(np.float32)} for width in widths]
        for feed, together in zip(feeds, session.run_parallel(feeds), strict=True):
            for mine, alone in zip(together, session.run(feed), strict=True):
                assert mine.dtype == alone.dtype
                np.testing.assert_allclose(mine, alone, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize(
        ("wrong", "error"),
        [({"y": np.ones((1, 3), np.float32)}, ValueError), ({"x": np.ones((1, 4), np.float32)}, RuntimeError)],
    )
    @pytest.mark.parametrize("keep_memory", [True, False])
    def test_the_failure_of_one_is_told_and_harms_no_later_run(
        self, tmp_path: Path, wrong: dict[str, Any], error: type[Exception], keep_memory: bool
    ) -> None:
        session = self.session(tmp_path, graph(), model_arena=keep_memory)
        right = {"x": np.ones((1, 3), np.float32)}
        for _ in range(3):
            with pytest.raises(error):
                session.run_parallel([right, wrong, right, wrong])
        assert [y.tolist() for (y,) in session.run_parallel([right] * 4)] == [[[1, 1, 1]]] * 4

    def test_a_graph_of_large_batches_is_compiled_once(self, tmp_path: Path) -> None:
        assert not isinstance(engine_in(tmp_path).open(graph(), "bulk", 0), ParallelSession)

    def test_a_compiled_form_on_disk_serves_both_ways(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(CLASSIFIER.read_bytes())
        feeds = [{"x": np.full((1, 3, 48, 192), value, np.float32)} for value in (0, 0.5, 1)]
        first = self.session(tmp_path, path).run_parallel(feeds)
        kept = blobs(tmp_path)
        again = self.session(tmp_path, path).run_parallel(feeds)
        assert blobs(tmp_path) == kept
        np.testing.assert_array_equal([y for (y,) in again], [y for (y,) in first])


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    cosine: NDArray[Any] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosine


@pytest.fixture(scope="module", params=["f32", pytest.param("bf16", marks=pytest.mark.slow)])
def parity_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenVinoEngine:
    engine = engine_in(tmp_path_factory.mktemp("cache"), openvino_precision=request.param)
    if engine.precision != request.param:
        pytest.skip(f"this CPU has no {request.param}")
    return engine


@needs_openvino
class TestParity:
    """Against ONNX Runtime on the same graphs."""

    @staticmethod
    def same(engine: OpenVinoEngine, path: Path, *shape: int) -> None:
        ours, theirs = (opener.open(path, "bulk", 0) for opener in (engine, CpuEngine(Settings())))
        assert ours.inputs == theirs.inputs
        assert [info.name for info in ours.outputs] == [info.name for info in theirs.outputs]
        assert [len(info.shape) for info in ours.outputs] == [len(info.shape) for info in theirs.outputs]
        rng = np.random.default_rng(3)
        feeds = {}
        for info in ours.inputs:
            if info.dtype.startswith("float"):
                feeds[info.name] = rng.standard_normal(shape).astype(info.dtype)
            else:
                feeds[info.name] = rng.integers(1, 20, shape).astype(info.dtype)
        limit = 0.99999 if engine.precision == "f32" else 0.998
        for mine, other in zip(ours.run(feeds), theirs.run(feeds), strict=True):
            assert mine.shape == other.shape
            assert mine.dtype == other.dtype
            assert cosines(mine[None], other[None]).min() >= limit

    def test_clip_image(self, parity_engine: OpenVinoEngine, tmp_path: Path) -> None:
        path = tmp_path / "visual" / "model.onnx"
        clip_models.save_visual(path)
        self.same(parity_engine, path, 2, 3, 32, 32)

    def test_clip_text(self, parity_engine: OpenVinoEngine, tmp_path: Path) -> None:
        path = tmp_path / "textual" / "model.onnx"
        clip_models.save_chinese_text(path)
        self.same(parity_engine, path, 2, 9)

    def test_faces(self, parity_engine: OpenVinoEngine, tmp_path: Path) -> None:
        self.same(parity_engine, face_models.build_detector(tmp_path / "det.onnx"), 1, 3, 640, 640)
        self.same(parity_engine, face_models.build_recognizer(tmp_path / "rec.onnx"), 1, 3, 112, 112)

    def test_ocr_reads_the_same_text(self, parity_engine: OpenVinoEngine) -> None:
        assert texts(parity_engine, PICTURES, parallel=True) == texts_of_onnx_runtime()

    @pytest.mark.slow
    def test_ocr_reads_the_same_text_in_batches(self, tmp_path: Path) -> None:
        """As on graphics; of the pictures every other one."""
        some = PICTURES[::2]
        expected = {path.name: texts_of_onnx_runtime()[path.name] for path in some}
        assert texts(engine_in(tmp_path), some, parallel=False) == expected


def texts(engine: Engine, pictures: Sequence[Path], *, parallel: bool) -> dict[str, tuple[str, ...]]:
    """What is read on each picture."""

    def open_session(graph: Graph) -> Session:
        return engine.open(graph, "bulk", 0)

    def open_lines(graph: Graph) -> Session:
        return engine.open(graph, "bulk", 0, parallel=parallel)

    models = OcrModels(
        ocr.load_detector(DETECTOR, open_session),
        ocr.load_classifier(CLASSIFIER, open_lines),
        ocr.load_recognizer(RECOGNIZER, open_lines),
    )
    return {path.name: read_picture(path.read_bytes(), models=models).texts for path in pictures}


@cache
def texts_of_onnx_runtime() -> dict[str, tuple[str, ...]]:
    return texts(CpuEngine(Settings()), PICTURES, parallel=True)


@needs_openvino
def test_the_server_answers_all_tasks_with_it(tmp_path: Path) -> None:
    fill_cache(tmp_path / "cache")
    settings = {"MACHINE_LEARNING_PROVIDER": "openvino", "MACHINE_LEARNING_CACHE_FOLDER": str(tmp_path / "cache")}
    image = (ROOT / "docs" / "sample.jpg").read_bytes()
    with RunningServer(tmp_path, **settings) as server, server.client() as client:
        assert re.search(r"device: CPU, \d+ threads, f32 \(OpenVINO 20\d\d", server.log)
        answer = client.predict(VISUAL | FACE_TASK | OCR_TASK, image).json
        assert len(json.loads(answer["clip"])) == 512
        assert isinstance(answer["facial-recognition"], list)
        assert answer["ocr"]["text"]
        assert len(json.loads(client.predict(TEXTUAL, text="海边的狗").json["clip"])) == 512
        assert server.stop() == 0
