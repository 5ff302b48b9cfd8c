"""How much memory the conversion of the largest model needs."""

import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch_files import Tensor, pickled

from immich_ml_cn.engines import child_process
from immich_ml_cn.store.checkpoints import VOCABULARY
from immich_ml_cn.store.conversion.architecture import ARCHITECTURES, Shapes
from immich_ml_cn.store.conversion.convert import Request
from immich_ml_cn.store.conversion.graph import PRECISIONS
from immich_ml_cn.store.conversion.process import convert_in_child
from immich_ml_cn.store.fetch import NullProgress

MODEL = "chinese-clip-vit-huge-patch14"


def write_random(path: Path, shapes: Shapes) -> Path:
    """A checkpoint in the official format with random weights, in fp32, written one tensor after the other."""
    random = np.random.default_rng(0)
    described = {
        f"module.{name}": Tensor(str(index), shape, int(np.prod(shape)))
        for index, (name, shape) in enumerate(shapes.items())
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled({"state_dict": described}))
        for index, shape in enumerate(shapes.values()):
            archive.writestr(f"archive/data/{index}", _weight(random, shape).data.cast("B"))
    return path


def _weight(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return random.standard_normal(shape, np.float32) * np.float32(np.prod(shape[1:]) ** -0.5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_largest_model_is_converted_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are mapped count: what the kernel may take back is not told apart."""
    architecture = ARCHITECTURES[MODEL]
    checkpoint = write_random(tmp_path / "random.pt", architecture.shapes())
    request = Request(checkpoint, tmp_path / "model", architecture, PRECISIONS, VOCABULARY)
    status, command = tmp_path / "status", child_process.command

    def observed(module: str, function: str, *arguments: str) -> list[str]:
        """The process, which in the end says what it took."""
        python, option, program, *others = command(module, function, *arguments)
        return [python, option, f"{program}; __import__('shutil').copy('/proc/self/status', {str(status)!r})", *others]

    monkeypatch.setattr(child_process, "command", observed)
    try:
        made = convert_in_child(request, MODEL, NullProgress(), threading.Event())
    finally:
        checkpoint.unlink()
        shutil.rmtree(request.folder, ignore_errors=True)

    assert {path.name for path in made} >= {"model.onnx", "model.onnx.data", "model_fp16.onnx", "model_int8.onnx"}
    peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    assert peak < 2.5e9
