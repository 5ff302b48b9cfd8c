"""Engines: the graph that is opened, the provider that is chosen, and what is said when CUDA is not what it seems."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from server import ROOT

from immich_ml_cn.engines import (
    CpuEngine,
    CudaEngine,
    Engine,
    EngineError,
    LoadError,
    OpenVinoEngine,
    bulk_lane_count,
    select_engine,
    usable_cores,
)
from immich_ml_cn.engines.parallel import CpuParallelSession, RunThreads
from immich_ml_cn.engines.self_test import DOUBLING
from immich_ml_cn.engines.session import ParallelSession, Session, TensorInfo
from immich_ml_cn.errors import DamagedModel
from immich_ml_cn.settings import Settings


def graph(dtype: int = TensorProto.FLOAT, shape: Sequence[int | str | None] = ("n", 3)) -> bytes:
    """y = x, with a note."""
    ends = [helper.make_tensor_value_info(name, dtype, shape) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = "character", "一\n二"
    return bytes(model.SerializeToString())


def graph_with_weights_beside(folder: Path) -> Path:
    """y = x · ones (3, 1000), the ones in a side file."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", size)) for name, size in (("x", 3), ("y", 1000))
    ]
    weights = numpy_helper.from_array(np.ones((3, 1000), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def graph_of_many() -> bytes:
    """Two inputs; three outputs, of which one is an input and two are the same tensor."""
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.INT64, ("n", "length"))
        for name in ("ids", "mask", "sum", "same", "again")
    }
    nodes = [
        helper.make_node("Add", ["ids", "mask"], ["sum"]),
        helper.make_node("Identity", ["ids"], ["same"]),
        helper.make_node("Identity", ["sum"], ["again"]),
    ]
    values = list(ends.values())
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:2], values[2:]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def install(folder: Path, *packages: str) -> None:
    """What pip leaves of a package for `importlib.metadata` to find."""
    for package in packages:
        info = folder / f"{package.replace('-', '_')}-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.9\n")


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes these the only packages of the environment."""

    def make(*packages: str) -> None:
        install(tmp_path, *packages)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])

    return make


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Each engine of the CPU that is installed."""
    if request.param == "onnxruntime":
        return CpuEngine(Settings())
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    return OpenVinoEngine(Settings(cache_folder=tmp_path))


class TestSessions:
    """What holds for every engine on the CPU."""

    def test_a_graph_of_a_file_runs(self, engine: Engine, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(graph())
        session = engine.open(path, "bulk", 0)
        assert session.inputs == (TensorInfo("x", "float32", (None, 3)),)
        assert session.outputs == (TensorInfo("y", "float32", (None, 3)),)
        assert session.metadata == {"character": "一\n二"}
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        (y,) = session.run({"x": x})
        np.testing.assert_array_equal(y, x)

    def test_a_graph_of_bytes_with_weights_beside_it_is_not_needed(self, engine: Engine) -> None:
        (y,) = engine.open(graph(), "interactive", 7).run({"x": np.ones((1, 3), np.float32)})
        assert y.tolist() == [[1, 1, 1]]

    @pytest.mark.parametrize(
        ("dtype", "name"),
        [
            (TensorProto.FLOAT, "float32"),
            (TensorProto.FLOAT16, "float16"),
            (TensorProto.DOUBLE, "float64"),
            (TensorProto.INT32, "int32"),
            (TensorProto.INT64, "int64"),
            (TensorProto.UINT8, "uint8"),
            (TensorProto.BOOL, "bool"),
        ],
    )
    def test_types_have_their_numpy_names(self, engine: Engine, dtype: int, name: str) -> None:
        (info,) = engine.open(graph(dtype), "bulk", 0).inputs
        assert info.dtype == name
        assert np.dtype(info.dtype) == helper.tensor_dtype_to_np_dtype(dtype)

    @pytest.mark.parametrize(
        ("declared", "shape"),
        [(("n", 3, "h", 640), (None, 3, None, 640)), ((1, 3), (1, 3)), ((None, 3), (None, 3)), ((), ())],
    )
    def test_axes_without_a_size_are_none(
        self, engine: Engine, declared: Sequence[int | str | None], shape: tuple[int | None, ...]
    ) -> None:
        (info,) = engine.open(graph(shape=declared), "bulk", 0).inputs
        assert info.shape == shape

    def test_a_broken_file_is_damage_that_names_it(self, engine: Engine, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(b"<html>404</html>")
        with pytest.raises(DamagedModel) as caught:
            engine.open(path, "bulk", 0)
        assert caught.value.path == path
        assert str(path) in str(caught.value)

    def test_a_file_that_is_not_there_is_no_damage(self, engine: Engine, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match=r"model\.onnx"):
            engine.open(tmp_path / "model.onnx", "bulk", 0)

    def test_half_a_file_is_damage(self, engine: Engine, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(graph()[:-20])
        with pytest.raises(DamagedModel):
            engine.open(path, "bulk", 0)

    def test_weights_beside_the_file_are_found(self, engine: Engine, tmp_path: Path) -> None:
        path = graph_with_weights_beside(tmp_path)
        (y,) = engine.open(path, "bulk", 0).run({"x": np.ones((1, 3), np.float32)})
        np.testing.assert_array_equal(y, np.full((1, 1000), 3, np.float32))

    def test_weights_that_are_not_there_are_a_load_error(self, engine: Engine, tmp_path: Path) -> None:
        path = graph_with_weights_beside(tmp_path)
        (tmp_path / "weights.bin").unlink()
        with pytest.raises(LoadError, match=r"model\.onnx cannot be loaded: .*weights\.bin"):
            engine.open(path, "bulk", 0)

    @pytest.mark.parametrize(
        "feeds",
        [
            {},
            {"z": np.ones((1, 3), np.float32)},
            {"x": np.ones((1, 3), np.float64)},
            {"x": np.ones((1, 4), np.float32)},
            {"x": np.ones(3, np.float32)},
        ],
        ids=["nothing", "another name", "another type", "another size", "another rank"],
    )
    def test_wrong_inputs_are_refused(self, engine: Engine, feeds: dict[str, Any]) -> None:
        session = engine.open(graph(), "bulk", 0)
        session.run({"x": np.ones((1, 3), np.float32)})
        with pytest.raises(Exception, match=r"\w"):
            session.run(feeds)

    def test_views_and_arrays_that_cannot_be_written_run(self, engine: Engine) -> None:
        session = engine.open(graph(), "bulk", 0)
        x = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
        np.testing.assert_array_equal(session.run({"x": x})[0], x)
        fixed = np.ones((2, 3), np.float32)
        fixed.flags.writeable = False
        np.testing.assert_array_equal(session.run({"x": fixed})[0], fixed)

    def test_an_answer_outlives_the_next_run(self, engine: Engine) -> None:
        session = engine.open(graph(), "bulk", 0)
        (first,) = session.run({"x": np.ones((1, 3), np.float32)})
        session.run({"x": np.zeros((1, 3), np.float32)})
        assert first.tolist() == [[1, 1, 1]]

    def test_inputs_and_outputs_keep_names_and_order(self, engine: Engine) -> None:
        session = engine.open(graph_of_many(), "bulk", 0)
        assert [info.name for info in session.inputs] == ["ids", "mask"]
        assert [(info.name, info.dtype) for info in session.outputs] == [
            ("sum", "int64"),
            ("same", "int64"),
            ("again", "int64"),
        ]
        ids = np.array([[1, 2]])
        answers = session.run({"mask": ids * 10, "ids": ids})
        assert [a.tolist() for a in answers] == [[[11, 22]], [[1, 2]], [[11, 22]]]

    def test_a_graph_of_unknown_operators_cannot_be_loaded(self, engine: Engine, tmp_path: Path) -> None:
        model = onnx.load_from_string(graph())
        model.graph.node[0].op_type = "NoSuchOperator"
        with pytest.raises(LoadError, match="a graph in memory cannot be loaded"):
            engine.open(model.SerializeToString(), "bulk", 0)


class Meeting:
    """A session whose runs each wait for as many others as it is told; it answers what it is fed."""

    inputs = outputs = ()
    metadata: Mapping[str, str] = MappingProxyType({})

    def __init__(self, others: int) -> None:
        self._barrier = threading.Barrier(others + 1)

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        if feeds["x"] < 0:
            raise RuntimeError("one of them failed")
        self._barrier.wait(10)
        return [feeds["x"]]


def numbered(count: int) -> list[Mapping[str, Any]]:
    return [{"x": np.array(number, np.float32)} for number in range(count)]


class TestParallelSession:
    def test_as_many_runs_as_threads_go_at_once(self) -> None:
        session = CpuParallelSession(Meeting(0), Meeting(2), 3, RunThreads(3))
        assert session.run_parallel(numbered(6)) == [[np.float32(n)] for n in range(6)]

    def test_too_few_for_all_threads_take_all_of_them_in_turn(self) -> None:
        session = CpuParallelSession(Meeting(0), Meeting(2), 3, RunThreads(3))
        assert session.run_parallel(numbered(2)) == [[np.float32(n)] for n in range(2)]
        assert session.run_parallel([]) == []

    def test_the_failure_of_one_is_the_failure_of_all(self) -> None:
        feeds = [*numbered(3), {"x": np.array(-1, np.float32)}, *numbered(2)]
        with pytest.raises(RuntimeError, match="one of them failed"):
            CpuParallelSession(Meeting(0), Meeting(0), 2, RunThreads(2)).run_parallel(feeds)

    def test_threads_are_kept_from_run_to_run_and_end_when_memory_is_released(self) -> None:
        run_threads = RunThreads(2)
        first = run_threads.map(lambda _: threading.current_thread(), range(2))
        assert set(run_threads.map(lambda _: threading.current_thread(), range(2))) <= set(first)
        run_threads.release()
        for thread in first:
            thread.join(10)
            assert not thread.is_alive()
        assert run_threads.map(str, range(3)) == ["0", "1", "2"]

    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_the_cpu_answers_each_with_its_own(self, threads: int) -> None:
        session = CpuEngine(Settings(intra_op_threads=threads)).open(graph(), "bulk", 0, parallel=True)
        assert isinstance(session, ParallelSession)
        feeds = [{"x": np.full((1, 3), number, np.float32)} for number in range(7)]
        assert [y.tolist() for (y,) in session.run_parallel(feeds)] == [[[n] * 3] for n in range(7)]
        assert session.metadata == {"character": "一\n二"}
        assert session.inputs == (TensorInfo("x", "float32", (None, 3)),)

    def test_a_graph_of_large_batches_is_opened_once(self) -> None:
        assert not isinstance(CpuEngine(Settings()).open(graph(), "bulk", 0), ParallelSession)


class TestCpu:
    def test_the_bytes_of_an_edited_graph_are_not_kept(self) -> None:
        """ONNX Runtime would keep them as long as the session: 174 MB of a face recogniser."""
        data = graph()
        before = sys.getrefcount(data)
        session = CpuEngine(Settings(intra_op_threads=1)).open(data, "bulk", 0)
        assert session.inputs
        assert sys.getrefcount(data) == before

    def test_description_and_threads(self) -> None:
        assert CpuEngine(Settings(intra_op_threads=3)).description.startswith("CPU, 3 threads (ONNX Runtime 1.")
        assert f"CPU, {usable_cores()} threads" in CpuEngine(Settings()).description


def test_there_is_a_bulk_lane_for_each_gpu_and_worker() -> None:
    two = Settings(device_ids=(0, 2), workers=1)
    assert bulk_lane_count(two, on_gpu=True) == 2
    assert bulk_lane_count(two, on_gpu=False) == 1
    assert bulk_lane_count(Settings(workers=3), on_gpu=True) == 3


class TestSelection:
    def test_cpu_when_asked(self, only: Any, caplog: pytest.LogCaptureFixture) -> None:
        only("onnxruntime-gpu")
        assert isinstance(select_engine(Settings(provider="cpu")), CpuEngine)
        assert not caplog.records

    def test_auto_with_the_cpu_package_says_nothing(self, only: Any, caplog: pytest.LogCaptureFixture) -> None:
        only("onnxruntime")
        assert isinstance(select_engine(Settings()), CpuEngine)
        assert not caplog.records

    def test_cuda_demanded_of_the_cpu_package_says_what_to_install(self, only: Any) -> None:
        only("onnxruntime")
        with pytest.raises(EngineError, match=r"PROVIDER=cuda.*install immich-ml-cn\[cuda\]"):
            select_engine(Settings(provider="cuda"))

    def test_nothing_installed_says_what_to_install(self, only: Any) -> None:
        only()
        with pytest.raises(EngineError, match=r"immich-ml-cn\[cpu\]"):
            select_engine(Settings())

    def test_two_packages_are_a_warning(self, only: Any, caplog: pytest.LogCaptureFixture) -> None:
        only("onnxruntime", "onnxruntime-gpu")
        select_engine(Settings(provider="cpu"))
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "onnxruntime and onnxruntime-gpu are both installed" in record.message

    @pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a driver")
    def test_the_gpu_package_without_a_driver(self, only: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Silently using the CPU is what users of Immich's service complain of."""
        only("onnxruntime-gpu")
        assert isinstance(select_engine(Settings()), CpuEngine)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "everything runs on the CPU: the NVIDIA driver is not there" in record.message
        with pytest.raises(EngineError, match="the NVIDIA driver is not there"):
            select_engine(Settings(provider="cuda"))


@dataclass
class FakeRuntime:
    """What `CudaEngine` uses of the package onnxruntime.

    Attributes:
        used: the providers that a session ends up with, whatever was asked for.
    """

    used: list[str]
    opened: list[Any] = field(default_factory=list)
    options: list[Any] = field(default_factory=list)
    SessionOptions: Any = None

    def __post_init__(self) -> None:
        self.SessionOptions = lambda: SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def preload_dlls(self) -> None:
        pass

    def InferenceSession(self, source: str, options: Any, *, providers: list[Any]) -> Any:
        self.opened.append(providers)
        self.options.append(options)
        return SimpleNamespace(
            disable_fallback=lambda: None,
            get_inputs=lambda: [],
            get_outputs=lambda: [],
            get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
            get_providers=lambda: self.used,
        )


class TestCuda:
    def open(self, monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime, device_id: int = 0) -> Session:
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        return CudaEngine(Settings()).open(Path("/m.onnx"), "bulk", device_id)

    def test_a_session_that_silently_fell_back_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(LoadError, match="fell back to CPUExecutionProvider"):
            self.open(monkeypatch, FakeRuntime(["CPUExecutionProvider"]))

    def test_each_session_is_for_the_gpu_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runtime = FakeRuntime(["CUDAExecutionProvider", "CPUExecutionProvider"])
        self.open(monkeypatch, runtime, device_id=2)
        ((name, options), last) = runtime.opened[0]
        assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
        assert options["device_id"] == 2
        assert options["cudnn_conv_algo_search"] == "HEURISTIC"
        assert runtime.options[0].intra_op_num_threads == 1


SELECT = """
import json, logging, sys, types
from types import SimpleNamespace as Bag
import numpy as np
from immich_ml_cn.engines import EngineError, select_engine, selection
from immich_ml_cn.settings import Settings

selection.version = lambda package: ""  # nor is OpenVINO, wherever this runs
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
mode, used = "works", [CUDA, CPU]

class Session:
    def __init__(self, source, options, providers):
        (self.name, cuda), _ = providers
        if mode == "refuses" or cuda["device_id"] not in (0, 1):
            raise RuntimeError("no such device")
    def disable_fallback(self): pass
    def get_inputs(self): return []
    def get_outputs(self): return []
    def get_modelmeta(self): return Bag(custom_metadata_map={})
    def get_providers(self): return [CPU] if mode == "falls back" else used
    def run(self, names, feeds):
        if mode == "crashes":
            raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED")
        return [feeds["x"] * (3 if mode == "computes nonsense" else 2)]

module = types.ModuleType("onnxruntime")
module.InferenceSession, module.preload_dlls = Session, lambda: None
module.SessionOptions = lambda: Bag(add_session_config_entry=lambda key, value: None)
module.__version__, module.cuda_version = "9.9", "13.0"
sys.modules["onnxruntime"] = module
lines = []
logging.getLogger("immich_ml_cn").addHandler(Bag(level=0, handle=lambda record: lines.append(record.getMessage())))

found = {}
for mode in ("works", "refuses", "falls back", "crashes", "computes nonsense"):
    lines.clear()
    engine = select_engine(Settings())
    found[mode] = [engine.provider, *(line for line in lines if "installed" not in line)]
mode = "works"
found["two"] = select_engine(Settings(device_ids=(0, 1), provider="cuda")).description
try:
    select_engine(Settings(device_ids=(0, 5), provider="cuda"))
except EngineError as error:
    found["missing"] = str(error)
json.dump(found, sys.stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a library that passes for the driver's")
def test_the_self_test_decides_whether_cuda_is_used(tmp_path: Path) -> None:
    """With a driver and the GPU package, played by a fake one: only a session that computes right counts."""
    maps = Path("/proc/self/maps").read_text().split()
    library = next(word for word in maps if "/libc.so" in word or "/libc-" in word or "/ld-musl" in word)
    (tmp_path / "libcuda.so.1").symlink_to(library)
    install(tmp_path, "onnxruntime-gpu")
    root = str(ROOT)
    env = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{root}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", SELECT], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["works"] == ["CUDAExecutionProvider"]
    why = "CUDA cannot be used, everything runs on the CPU: GPU 0: "
    assert found["refuses"] == [
        "CPUExecutionProvider",
        why + "a graph in memory cannot be loaded: no such device",
    ]
    assert found["falls back"][0] == "CPUExecutionProvider"
    assert found["falls back"][1].startswith(why + "CUDA was refused by ONNX Runtime")
    assert found["crashes"][1] == why + "the self-test failed: CUDNN_STATUS_NOT_INITIALIZED"
    assert found["computes nonsense"][1] == why + "the self-test computed [4.5] instead of [3.0]"
    assert "CUDA 13.0" in found["two"]
    assert "1: " in found["two"]
    assert "GPU 5: a graph in memory cannot be loaded: no such device" in found["missing"]


def test_the_self_tests_graph_doubles() -> None:
    onnx.checker.check_model(onnx.load_from_string(DOUBLING))
    session = CpuEngine(Settings()).open(DOUBLING, "bulk", 0)
    assert session.run({"x": np.array([1.5], np.float32)})[0].tolist() == [3.0]


@pytest.mark.parametrize(("content", "expected"), [("150000 100000", 2), ("20000 100000", 1), ("max 100000", None)])
def test_a_containers_quota_bounds_the_cores(tmp_path: Path, content: str, expected: int | None) -> None:
    """``docker --cpus``; "max" means that only the affinity counts."""
    quota = tmp_path / "cpu.max"
    quota.write_text(content)
    unbounded = usable_cores(tmp_path / "missing")
    assert usable_cores(quota) == min(unbounded, expected or unbounded)


RUN_AND_RELEASE = """
import sys
from pathlib import Path
import numpy as np
from immich_ml_cn import memory, sources
from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.tasks import Component, ModelTask

def anonymous_mb():
    told = Path("/proc/self/smaps_rollup").read_text()
    return int(told.partition("Pss_Anon:")[2].split()[0]) / 1024

assert memory.use_one_heap()
engine = CpuEngine(Settings(intra_op_threads=1, model_arena=sys.argv[1] == "arena"))
detector = sources.bundled(ModelTask.OCR, "PP-OCRv6_small", Component.DETECTION)
sessions = [engine.open(detector, "bulk", 0) for _ in range(2)]
engine.release_memory()
opened = anonymous_mb()
for session in sessions:
    session.run({session.inputs[0].name: np.zeros((1, 3, 736, 1024), np.float32)})
used = anonymous_mb()
engine.release_memory()
print(used - opened, anonymous_mb() - opened)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sessions_on_the_cpu_share_memory_for_their_runs_and_return_it(tmp_path: Path) -> None:
    """A run of the text detector takes 120 MB and more, of which two sessions would keep twice as much."""

    def kept_mb(arena: str) -> tuple[float, float]:
        command = [sys.executable, "-c", RUN_AND_RELEASE, arena]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
        used, released = map(float, done.stdout.split())
        return used, released

    used, released = kept_mb("arena")
    assert 60 < used < 220
    assert released < 15
    assert kept_mb("none")[1] < 15
