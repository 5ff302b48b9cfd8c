"""One ONNX Runtime and one OpenCV in the environment; lock files that are complete and name no registry."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from server import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
FLAVOURS = {
    "cpu": {"onnxruntime"},
    "cuda": {"onnxruntime-gpu"},
    "cuda12": {"onnxruntime-gpu"},
    "openvino": set[str](),
    "test": {"onnxruntime"},
}
"""Lock → what it has of ONNX Runtime."""


def installed() -> list[str]:
    return [re.sub(r"[-_.]+", "-", item.metadata["Name"]).lower() for item in importlib.metadata.distributions()]


def requirements(lock: Path) -> dict[str, list[str]]:
    """The packages of a lock file, one entry for each pinned line → its hashes."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return {
        line.split(" --hash")[0].strip(): re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line) for line in lines if line
    }


def names(lock: Path) -> set[str]:
    return {re.split(r"[=\[; ]", line)[0].lower() for line in requirements(lock)}


def test_exactly_one_onnxruntime_is_installed() -> None:
    (name,) = [name for name in installed() if name.startswith("onnxruntime")]
    assert name in ("onnxruntime", "onnxruntime-gpu")


def test_exactly_one_opencv_is_installed_and_it_is_headless() -> None:
    assert [name for name in installed() if name in OPENCVS] == ["opencv-python-headless"]


def test_there_is_a_lock_for_each_way_to_install() -> None:
    assert set(FLAVOURS) <= {lock.stem for lock in LOCKS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_line_is_pinned_and_hashed(lock: Path) -> None:
    pinned = requirements(lock)
    assert pinned
    for line, hashes in pinned.items():
        assert re.match(r"^[A-Za-z0-9._-]+(\[[a-z0-9,._-]+\])?==[0-9][^ ;]*( ; .+)?$", line), line
        assert hashes, line


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_one_onnxruntime_and_the_headless_opencv(lock: Path) -> None:
    runtimes = {name for name in names(lock) if name.startswith("onnxruntime")}
    opencvs = {name for name in names(lock) if name.startswith("opencv")}
    if lock.stem in FLAVOURS:
        assert (runtimes, opencvs) == (FLAVOURS[lock.stem], {"opencv-python-headless"})
    assert len(runtimes) <= 1
    assert opencvs <= {"opencv-python-headless"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_registry(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"https?:|--index-url|--extra-index|--find-links|--trusted-host|git\+| @ ", text)


def test_the_test_environment_is_the_cpus_with_more_in_it() -> None:
    """`scripts/serve` runs in the test environment where that is installed."""
    cpu, test = (set(requirements(ROOT / "requirements" / f"{name}.txt")) for name in ("cpu", "test"))
    assert cpu <= test
