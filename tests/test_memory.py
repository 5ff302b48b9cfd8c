"""Memory that really returns to the operating system when a model is unloaded."""

import ctypes
import json
import math
import mmap
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from immich_ml_cn import memory

LOAD_AND_UNLOAD = """
import asyncio, gc, json, sys
import immich_ml_cn.cli
from immich_ml_cn import memory
assert memory.use_one_heap() or not sys.platform.startswith("linux")
from pathlib import Path
from types import SimpleNamespace
import numpy as np, onnx, onnxruntime
from onnx import helper, numpy_helper
from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.serving.lanes import Lane
from immich_ml_cn.serving.registry import Registry
from immich_ml_cn.serving.spec import ModelSpec
from immich_ml_cn.settings import Settings

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])

def save(path, size, layers):
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.random((size, size), np.float32), f"w{i}") for i in range(layers)]
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    ends = [[helper.make_tensor_value_info(name, 1, ["n", size])] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path

class Model:
    def __init__(self, session, size):
        self.session, self.size = session, size
    def bucket(self, item):
        return 0
    def infer(self, items):
        x = np.ones((len(items), self.size), np.float32)
        return list(self.session.run({"x": x})[0][:, 0])

def spec(path, size):
    return ModelSpec(path.stem, "bulk", 4, lambda open_session: Model(open_session(path), size))

async def use(registry, model):
    async with registry.lease(model) as loaded:
        await loaded.batcher.submit_all([1, 2, 3])

async def main():
    lanes = [Lane("bulk-0", "bulk", time_limit_s=60, on_fatal=print)]
    registry = Registry(CpuEngine(Settings(intra_op_threads=1)), lanes, ttl_s=0, wait_s=60)
    small, big = spec(save(folder / "small.onnx", 8, 1), 8), spec(save(folder / "big.onnx", 2000, 4), 2000)
    await use(registry, small)
    await registry.unload_idle(at_once=True)
    memory.release()
    idle, loaded, unloaded, objects = memory.resident_bytes(), [], [], []
    for _ in range(rounds):
        await use(registry, big)
        loaded.append(memory.resident_bytes())
        await registry.unload_idle(at_once=True)
        unloaded.append(memory.resident_bytes())
        objects.append(len(gc.get_objects()))
    over = [[round((figure - idle) / 1e6, 1) for figure in figures] for figures in (loaded, unloaded)]
    print(json.dumps([*over, objects]))
    await registry.close()
    lanes[0].close()
    lanes[0].join(10)

asyncio.run(main())
"""


def test_release_can_be_called_any_time() -> None:
    memory.release()
    memory.release()


def test_resident_bytes_follow_what_is_held() -> None:
    before = memory.resident_bytes()
    if before == 0:
        pytest.skip("no /proc here")
    held = ctypes.create_string_buffer(b"x" * 50_000_000)
    grown = memory.resident_bytes() - before
    assert 45_000_000 < grown < 200_000_000
    del held


def test_a_file_that_is_mapped_twice_counts_once(tmp_path: Path) -> None:
    """Resident set size would count it twice: the weights of sessions that run side by side."""
    size = 50_000_000
    path = tmp_path / "weights"
    path.write_bytes(bytes(size))
    before = memory.resident_bytes()
    with path.open("rb") as file:
        maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for _ in range(2)]
    assert [sum(m[::4096]) for m in maps] == [0, 0]
    assert 0.9 * size < memory.resident_bytes() - before < 1.5 * size
    for mapped in maps:
        mapped.close()


def test_old_kernels_tell_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(*parts: str) -> Path:
        return Path("/nowhere") if "smaps_rollup" in parts else Path(*parts)

    monkeypatch.setattr("immich_ml_cn.memory.Path", older)
    assert memory.resident_bytes() > 10_000_000


HEAPS_OF_THREADS = """
import ctypes, sys, threading
import immich_ml_cn.cli
from immich_ml_cn import memory

if sys.argv[2] == "one":
    assert memory.use_one_heap()
meeting = threading.Barrier(9)

def work():
    held = ctypes.create_string_buffer(100_000)
    meeting.wait(30)

for _ in range(8):
    threading.Thread(target=work).start()
library = ctypes.CDLL(None)
library.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(library.fopen(sys.argv[1].encode(), b"w"))
library.malloc_info(0, file)
library.fclose(file)
meeting.wait(30)
"""


def run(code: str, *arguments: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no heaps of threads")
def test_threads_share_one_heap(tmp_path: Path) -> None:
    """Also after all that the command line imports: glibc counts heaps once and for all when the first is made."""
    for asked in ("one", "usual"):
        file = tmp_path / asked
        run(HEAPS_OF_THREADS, str(file), asked)
        heaps = file.read_text().count("<heap nr=")
        assert (heaps == 1) is (asked == "one"), heaps


def test_nothing_is_asked_of_other_c_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        def __init__(self, name: None) -> None:
            """As `ctypes.CDLL`, without any function."""

    monkeypatch.setattr(ctypes, "CDLL", Musl)
    assert memory.use_one_heap() is False
    memory.release()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_and_unloading_time_and_again_leaves_nothing(tmp_path: Path) -> None:
    """64 MB of weights take that and little more while loaded, and return; no Python object stays either."""
    loaded, unloaded, objects = json.loads(run(LOAD_AND_UNLOAD, str(tmp_path), "10"))
    assert all(megabytes > 60 for megabytes in loaded), loaded
    assert max(unloaded) < 15, unloaded
    assert max(unloaded[5:]) - max(unloaded[:5]) < 5, unloaded
    assert objects[-1] - objects[1] < 200, objects


class FakeNvml:
    """One GPU, number 0, under NVML's names."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.sessions = 0

    def nvmlInit(self) -> None:
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        if number:
            raise self.NVMLError("Invalid Argument")
        return number

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=24 << 30, used=3 << 30, free=21 << 30)


class TestGpuMemory:
    def test_a_gpu_that_is_unknown_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeNvml()
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        assert memory.gpu_bytes([0, 1]) == {0: (3 << 30, 24 << 30)}
        assert fake.sessions == 0

    def test_the_library_is_not_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        assert memory.gpu_bytes([0]) == {}

    def test_nor_is_a_gpu(self) -> None:
        """On a machine without a driver there are none; otherwise the numbers are those of a GPU."""
        known = memory.gpu_bytes([0, 999])
        assert 999 not in known
        assert all(0 < used <= total for used, total in known.values())


def test_free_memory_is_the_machines_or_what_a_containers_limit_leaves(tmp_path: Path) -> None:
    """Cached files count as free; without a limit the machine's counts, and without either there is no bound."""
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    assert memory.free_bytes(meminfo, cgroup) == math.inf
    meminfo.write_text("MemTotal: 4000 kB\nMemFree: 100 kB\nMemAvailable: 3000 kB\n")
    cgroup.mkdir()
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("900000\n")
    (cgroup / "memory.stat").write_text("anon 500000\ninactive_file 300000\nactive_file 100000\n")
    assert memory.free_bytes(meminfo, cgroup) == 3000 * 1024
    (cgroup / "memory.max").write_text("1000000\n")
    assert memory.free_bytes(meminfo, cgroup) == 500_000
