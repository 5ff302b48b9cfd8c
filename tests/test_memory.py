"""Memory that really returns to the operating system when a model is unloaded."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

from immich_ml_cn import memory

LOAD_AND_UNLOAD = """
import asyncio, json, sys
from pathlib import Path
import numpy as np, onnx, onnxruntime
from onnx import helper, numpy_helper
from immich_ml_cn import memory
from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.lanes import Lane
from immich_ml_cn.registry import ModelSpec, Registry
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
    lanes = [Lane("bulk-0", "bulk", time_limit_s=60, on_death=print)]
    registry = Registry(CpuEngine(Settings(intra_op_threads=1)), lanes, ttl_s=0, wait_s=60)
    small, big = spec(save(folder / "small.onnx", 8, 1), 8), spec(save(folder / "big.onnx", 2000, 4), 2000)
    await use(registry, small)
    await registry.unload_idle(at_once=True)
    memory.release()
    figures = [memory.resident_bytes()]
    for _ in range(rounds):
        await use(registry, big)
        figures.append(memory.resident_bytes())
        await registry.unload_idle(at_once=True)
        figures.append(memory.resident_bytes())
    print(json.dumps([round(figure / 1e6, 1) for figure in figures]))
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_unloading_gives_the_memory_of_a_session_back(tmp_path: Path) -> None:
    """64 MB of weights take that and up to as much again while loaded.

    Nearly all of it returns; now and then glibc keeps the top of one thread's heap, at most 64 MB, until the next time.
    """
    command = [sys.executable, "-c", LOAD_AND_UNLOAD, str(tmp_path), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    before, *rounds = json.loads(done.stdout)
    loaded, unloaded = rounds[::2], rounds[1::2]
    assert all(megabytes - before > 64 for megabytes in loaded), rounds
    assert min(unloaded) - before < 15, rounds
    assert max(unloaded) - before < 75, rounds
