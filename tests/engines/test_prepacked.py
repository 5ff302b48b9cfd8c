"""Packed weights on disk: the same answers, mapped instead of made, and never the wrong ones."""

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import face_models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from server import ROOT

from immich_ml_cn.engines import CpuEngine, LoadError, checking_engine, select_engine
from immich_ml_cn.engines.artefact_cache import MAX_UNUSED_S, ArtefactCache
from immich_ml_cn.engines.graphs.edit_process import MAX_IN_PROCESS_BYTES
from immich_ml_cn.engines.graphs.files import EditedGraph, Graph
from immich_ml_cn.engines.onnx_runtime import OnnxSession
from immich_ml_cn.engines.prepacked import MIN_BYTES, MIN_EDITED_BYTES, TIMED_OUT, PrepackedGraphs
from immich_ml_cn.engines.session import ParallelSession, Session
from immich_ml_cn.errors import DamagedModel
from immich_ml_cn.settings import Settings

FACE = np.random.default_rng(0).random((1, 3, 112, 112), np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An ArcFace in the cache folder."""
    path = tmp_path / "facial-recognition" / "small" / "recognition" / "model.onnx"
    path.parent.mkdir(parents=True)
    return face_models.build_recognizer(path, seed=1)


def engine_in(
    cache: Path, *, min_bytes: int = 0, runtime: str = "1", threads: int = 1, max_wait_s: float = 60, poll_s: float = 60
) -> CpuEngine:
    prepacked = PrepackedGraphs(
        cache, runtime, min_bytes=min_bytes, min_edited_bytes=min_bytes, max_wait_s=max_wait_s, idle_poll_s=poll_s
    )
    return CpuEngine(Settings(intra_op_threads=threads), prepacked)


def embedding(session: Session) -> np.ndarray:
    return session.run({session.inputs[0].name: FACE})[0]


def forms(cache: Path) -> list[Path]:
    """The folders of packed graphs, finished or not."""
    return sorted(
        path for folder in cache.rglob("prepacked") if folder.is_dir() for path in folder.iterdir() if path.is_dir()
    )


def plain(graph: Graph) -> Session:
    return CpuEngine(Settings(intra_op_threads=1)).open(graph, "bulk", 0)


def edited(model: Path, make: Callable[[], bytes] | None = None, version: str = "1") -> EditedGraph:
    """A file's graph with an edit that changes nothing, unless it is given another."""
    return EditedGraph(model, "edit", version, make or model.read_bytes)


def mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


class TestAnswers:
    @pytest.mark.parametrize("is_edited", [False, True])
    def test_are_those_of_the_graph_to_the_bit(self, tmp_path: Path, model: Path, is_edited: bool) -> None:
        graph = edited(model) if is_edited else model
        session = engine_in(tmp_path).open(graph, "bulk", 0, pinned=True)
        expected = plain(graph)
        (form,) = forms(tmp_path)
        assert mapped(form / "weights.bin")
        assert (session.inputs, session.outputs, session.metadata) == (
            expected.inputs,
            expected.outputs,
            expected.metadata,
        )
        np.testing.assert_array_equal(embedding(session), embedding(expected))

    def test_parallel_sessions_as_well(self, tmp_path: Path, model: Path) -> None:
        session = engine_in(tmp_path, threads=2).open(model, "bulk", 0, parallel=True, pinned=True)
        assert isinstance(session, ParallelSession)
        feeds = {session.inputs[0].name: FACE}
        expected = embedding(plain(model))
        for (answer,) in session.run_parallel([feeds] * 3):
            np.testing.assert_array_equal(answer, expected)

    def test_are_those_of_a_file_that_took_its_place(self, tmp_path: Path, model: Path) -> None:
        before = embedding(engine_in(tmp_path).open(model, "bulk", 0, pinned=True))
        face_models.build_recognizer(model, seed=2)
        after = embedding(engine_in(tmp_path).open(model, "bulk", 0, pinned=True))
        np.testing.assert_array_equal(after, embedding(plain(model)))
        assert not np.allclose(before, after)
        assert len(forms(tmp_path)) == 1

    def test_are_right_while_another_process_replaces_the_form(self, tmp_path: Path, model: Path) -> None:
        session = engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        face_models.build_recognizer(model, seed=2)
        engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        face_models.build_recognizer(model, seed=1)
        np.testing.assert_array_equal(embedding(session), embedding(plain(model)))


class TestMaking:
    def test_it_is_made_once(self, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        for _ in range(3):
            engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        assert caplog.text.count("packing the weights") == 1
        assert forms(tmp_path)[0].parent == model.parent / "prepacked"

    def test_an_edit_is_made_once(self, tmp_path: Path, model: Path) -> None:
        made: list[Path] = []

        def make() -> bytes:
            made.append(model)
            return model.read_bytes()

        for _ in range(3):
            engine_in(tmp_path).open(edited(model, make), "bulk", 0, pinned=True)
        assert made == [model]
        engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        assert [form.name.partition("-")[0] for form in forms(tmp_path)] == ["model+edit", "model"]
        engine_in(tmp_path).open(edited(model, make, "2"), "bulk", 0, pinned=True)
        assert len(made) == 2, "by other code it may be another graph"
        assert len(forms(tmp_path)) == 2
        face_models.build_recognizer(model, seed=2)
        session = engine_in(tmp_path).open(edited(model, make, "2"), "bulk", 0, pinned=True)
        assert len(made) == 3
        np.testing.assert_array_equal(embedding(session), embedding(plain(model)))

    def test_an_edit_that_fails_says_so_and_leaves_nothing(self, tmp_path: Path, model: Path) -> None:
        def make() -> bytes:
            raise ValueError("of another form")

        for _ in range(2):
            with pytest.raises(ValueError, match="of another form"):
                engine_in(tmp_path).open(edited(model, make), "bulk", 0, pinned=True)
        assert not forms(tmp_path)

    def test_what_is_in_memory_anyway_is_not_packed(self, tmp_path: Path, model: Path) -> None:
        session = engine_in(tmp_path).open(model.read_bytes(), "bulk", 0, pinned=True)
        np.testing.assert_array_equal(embedding(session), embedding(plain(model)))
        assert not forms(tmp_path)

    def test_small_graphs_are_left_as_they_are(self, tmp_path: Path, model: Path) -> None:
        engine_in(tmp_path, min_bytes=model.stat().st_size + 1).open(model, "bulk", 0, pinned=True)
        assert not forms(tmp_path)
        engine_in(tmp_path, min_bytes=model.stat().st_size + 1).open(edited(model), "bulk", 0, pinned=True)
        assert not forms(tmp_path)
        assert (MIN_BYTES, MIN_EDITED_BYTES) == (32 << 20, MAX_IN_PROCESS_BYTES)

    def test_every_cpu_and_every_onnx_runtime_has_its_own(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine_in(tmp_path, runtime="1").open(model, "bulk", 0, pinned=True)
        (old,) = forms(tmp_path)
        engine_in(tmp_path, runtime="2").open(model, "bulk", 0, pinned=True)
        (new,) = forms(tmp_path)
        assert old != new
        monkeypatch.setattr("immich_ml_cn.engines.prepacked.platform.machine", lambda: "another")
        engine_in(tmp_path, runtime="2").open(model, "bulk", 0, pinned=True)
        assert len(forms(tmp_path)) == 2

    def test_a_form_that_is_cut_short_is_thrown_away(
        self, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = embedding(engine_in(tmp_path).open(model, "bulk", 0, pinned=True))
        (form,) = forms(tmp_path)
        weights = form / "weights.bin"
        os.truncate(weights, weights.stat().st_size // 3)
        engine = engine_in(tmp_path)
        np.testing.assert_array_equal(embedding(engine.open(model, "bulk", 0, pinned=True)), expected)
        assert "packed weights are thrown away" in caplog.text
        assert not forms(tmp_path)
        np.testing.assert_array_equal(embedding(engine.open(model, "bulk", 0, pinned=True)), expected)
        assert not forms(tmp_path), "this process does without"
        engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        assert len(forms(tmp_path)) == 1, "the next one makes it anew"

    def test_a_damaged_file_is_reported_as_such(self, tmp_path: Path, model: Path) -> None:
        model.write_bytes(b"not a graph")
        with pytest.raises(DamagedModel):
            engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        assert not forms(tmp_path)

    def test_a_missing_file_is_reported_as_such(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match="no-model"):
            engine_in(tmp_path).open(tmp_path / "no-model.onnx", "bulk", 0, pinned=True)

    def test_a_full_disk_is_said_and_done_without(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        full = SimpleNamespace(free=2 * model.stat().st_size)
        monkeypatch.setattr("immich_ml_cn.engines.prepacked.shutil.disk_usage", lambda _: full)
        engine = engine_in(tmp_path)
        for _ in range(2):
            assert isinstance(engine.open(model, "bulk", 0, pinned=True), OnnxSession)
        assert caplog.text.count("is not packed: that takes up to") == 1
        assert not forms(tmp_path)

    def test_a_folder_that_cannot_be_written_is_enough(
        self, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (model.parent / "prepacked").write_text("no folder")
        assert isinstance(engine_in(tmp_path).open(model, "bulk", 0, pinned=True), OnnxSession)
        assert not caplog.records

    def test_a_process_that_dies_is_said_and_done_without(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
        monkeypatch.setattr("immich_ml_cn.engines.prepacked.child_process.command", lambda *_: killed)
        engine = engine_in(tmp_path)
        for _ in range(2):
            assert isinstance(engine.open(model, "bulk", 0, pinned=True), OnnxSession)
        assert caplog.text.count("cannot be packed") == 1
        assert "the process for it ended with -9" in caplog.text
        assert not forms(tmp_path)

    def test_one_that_takes_too_much_cpu_time_is_said_and_not_tried_again(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        endless = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)"]
        monkeypatch.setattr("immich_ml_cn.engines.prepacked.child_process.command", lambda *_: endless)
        for _ in range(2):
            assert isinstance(engine_in(tmp_path).open(model, "bulk", 0, pinned=True), OnnxSession)
        assert caplog.text.count("cannot be packed within 600 s, which is not tried again") == 1
        (late,) = forms(tmp_path)
        assert [file.name for file in late.iterdir()] == [TIMED_OUT]
        monkeypatch.undo()
        face_models.build_recognizer(model, seed=2)
        engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        (form,) = forms(tmp_path)
        assert (form / "weights.bin").exists(), "another model is tried"

    def test_a_load_does_not_wait_longer_than_it_may(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And the next one tries again: a machine that is busy now may have time later."""
        caplog.set_level(logging.INFO)
        hanging = [sys.executable, "-c", "import time; time.sleep(600)"]
        monkeypatch.setattr("immich_ml_cn.engines.prepacked.child_process.command", lambda *_: hanging)
        engine = engine_in(tmp_path, max_wait_s=0.2)
        assert isinstance(engine.open(model, "bulk", 0, pinned=True), OnnxSession)
        assert "is put off" in caplog.text
        assert not forms(tmp_path)

    @pytest.mark.parametrize(("worker_timeout_s", "max_wait_s"), [(300, 120), (120, 60)])
    def test_a_load_that_packs_is_not_taken_for_hung(self, worker_timeout_s: int, max_wait_s: float) -> None:
        engine = select_engine(Settings(provider="cpu", worker_timeout_s=worker_timeout_s))
        assert isinstance(engine, CpuEngine)
        assert engine._prepacked is not None
        assert engine._prepacked._max_wait_s == max_wait_s

    def test_what_a_killed_process_left_is_removed(self, tmp_path: Path, model: Path) -> None:
        left = model.parent / "prepacked" / ".making" / "weights.bin"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half of them")
        engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        assert not left.exists()
        assert len(forms(tmp_path)) == 1

    def test_one_process_makes_it_for_all(self, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        with ThreadPoolExecutor(3) as pool:  # each its own engine, as each process has
            sessions = list(pool.map(lambda _: engine_in(tmp_path).open(model, "bulk", 0, pinned=True), range(3)))
        assert caplog.text.count("packing the weights") == 1
        (form,) = forms(tmp_path)
        assert mapped(form / "weights.bin")
        expected = embedding(plain(model))
        for session in sessions:
            np.testing.assert_array_equal(embedding(session), expected)

    @pytest.mark.parametrize(
        ("priority", "expected"), [("normal", "1000 0 600"), ("background", f"1000 {os.SCHED_IDLE} 600")]
    )
    def test_the_process_for_it_is_the_first_to_go_when_memory_ends(
        self, tmp_path: Path, priority: str, expected: str
    ) -> None:
        """And it is no burden: in the background it has a core where nobody else wants one, and not for ever."""
        code = (
            "import os, resource, sys, onnxruntime\n"
            "def stop(*_, **__):\n"
            "    limit = resource.getrlimit(resource.RLIMIT_CPU)[0]\n"
            "    score = open('/proc/self/oom_score_adj').read().strip()\n"
            "    raise SystemExit(f'{score} {os.sched_getscheduler(0)} {limit}')\n"
            "onnxruntime.InferenceSession = stop\n"
            "from immich_ml_cn.engines.packing_process import write_prepacked\n"
            "write_prepacked()"
        )
        command = [sys.executable, "-c", code, "graph", str(tmp_path), priority]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stderr.strip() == expected


def finished(cache: Path) -> list[Path]:
    return [form for form in forms(cache) if not form.name.startswith(".")]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestBackground:
    @pytest.mark.parametrize("is_edited", [False, True])
    def test_the_first_load_waits_for_nothing_and_the_next_has_packed_weights(
        self, tmp_path: Path, model: Path, is_edited: bool
    ) -> None:
        graph = edited(model) if is_edited else model
        engine = engine_in(tmp_path, poll_s=0.5)
        first = engine.open(graph, "bulk", 0)
        assert not forms(tmp_path)
        until(lambda: finished(tmp_path))
        second = engine.open(edited(model) if is_edited else model, "bulk", 0)
        (form,) = forms(tmp_path)
        assert mapped(form / "weights.bin")
        np.testing.assert_array_equal(embedding(second), embedding(first))

    def test_nothing_is_packed_while_the_process_works(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All its threads together: what they used up is all that is looked at."""
        used = iter([0.0, 1.0, 2.0, 3.0, 3.0])
        looks: list[float] = []

        def process_time() -> float:
            looks.append(next(used))
            if forms(tmp_path):
                looks.append(math.inf)
            return looks[-1]

        monkeypatch.setattr("immich_ml_cn.engines.prepacked.time.process_time", process_time)
        engine_in(tmp_path, poll_s=0.05).open(model, "bulk", 0)
        until(lambda: finished(tmp_path))
        assert looks == [0.0, 1.0, 2.0, 3.0, 3.0]

    def test_a_graph_that_is_damaged_is_not_packed(self, tmp_path: Path, model: Path) -> None:
        model.write_bytes(b"not a graph")
        engine = engine_in(tmp_path)
        with pytest.raises(DamagedModel):
            engine.open(model, "bulk", 0)
        assert engine._prepacked is not None
        assert not engine._prepacked._pending

    def test_the_process_for_it_ends_with_ours(self, tmp_path: Path) -> None:
        """However ours ends: killed, it can tell nobody."""
        code = (
            "import subprocess, sys\n"
            "from immich_ml_cn.engines import child_process\n"
            "child = subprocess.Popen(child_process.command('time', 'sleep_for_long'))\n"
            "print(child.pid, flush=True)\n"
            "child.wait()"
        )
        hanging = "import time; time.sleep_for_long = lambda: time.sleep(600)"
        (tmp_path / "sitecustomize.py").write_text(hanging)
        environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environ, stdout=subprocess.PIPE) as ours:
            assert ours.stdout is not None
            child = Path("/proc", str(int(ours.stdout.readline())))
            until(lambda: b"prctl" not in child.joinpath("cmdline").read_bytes() and asleep(child))
            ours.kill()
        until(lambda: not child.exists() or "State:\tZ" in child.joinpath("status").read_text())


def asleep(process: Path) -> bool:
    """True if a process of Python waits for time to pass, as the last thing that it was told to do."""
    return (
        "clock_nanosleep" in process.joinpath("wchan").read_text() or "hrtimer" in process.joinpath("wchan").read_text()
    )


class TestComparison:
    """Of what was packed with what it was packed from, by the process that packs."""

    def test_other_answers_are_found_and_said(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        spoiling = (
            "from immich_ml_cn.engines import packing_process\n"
            "agree = packing_process._same_outputs\n"
            "class Off:\n"
            "    def __init__(self, right): self.right = right\n"
            "    def run(self, feeds): return [y + 0.1 for y in self.right.run(feeds)]\n"
            "packing_process._same_outputs = lambda session, packed: agree(session, Off(packed))\n"
            "packing_process.write_prepacked()"
        )
        monkeypatch.setattr(
            "immich_ml_cn.engines.prepacked.child_process.command",
            lambda module, function, *arguments: [sys.executable, "-c", spoiling, *arguments],
        )
        session = engine_in(tmp_path).open(model, "bulk", 0, pinned=True)
        assert "cannot be packed" in caplog.text
        assert "it would give other answers" in caplog.text
        assert not forms(tmp_path)
        np.testing.assert_array_equal(embedding(session), embedding(plain(model)))

    def test_a_graph_that_takes_no_made_up_input_is_packed(self, tmp_path: Path) -> None:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", "m")) for name in ("x", "y")]
        weights = numpy_helper.from_array(np.ones((3, 1000), np.float32), "w")  # 3 is not 64
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        session = engine_in(tmp_path).open(path, "bulk", 0, pinned=True)
        assert len(forms(tmp_path)) == 1
        assert session.run({"x": np.ones((2, 3), np.float32)})[0].tolist() == [[3.0] * 1000] * 2


class TestArtefactCache:
    def test_files_of_others_have_their_place_in_the_cache(self, tmp_path: Path, model: Path) -> None:
        artefacts = ArtefactCache(tmp_path / "cache", "forms", "cpu", "1")
        assert artefacts.folder_for(model).parent == tmp_path / "cache" / "forms"
        assert ArtefactCache(tmp_path, "forms", "cpu", "1").folder_for(model).parent == model.parent / "forms"

    @pytest.mark.parametrize("way", ["..", "link"])
    def test_a_file_of_others_stays_one_whatever_its_path_looks_like(
        self, tmp_path: Path, model: Path, way: str
    ) -> None:
        cache = tmp_path / "cache"
        cache.mkdir()
        (cache / "linked").symlink_to(model.parent)
        path = cache / ".." / model.relative_to(tmp_path) if way == ".." else cache / "linked" / model.name
        assert ArtefactCache(cache, "forms", "cpu", "1").folder_for(path).parent == cache / "forms"

    def test_forms_of_files_of_others_are_kept_while_somebody_uses_them(self, tmp_path: Path) -> None:
        files = [tmp_path / "elsewhere" / name / "model.onnx" for name in ("used", "unused", "new")]
        for file in files:
            file.parent.mkdir(parents=True)
            file.write_bytes(b"graph")
        artefacts = ArtefactCache(tmp_path / "cache", "forms", "cpu", "1")
        used, unused, new = (artefacts.folder_for(file) for file in files)
        long_ago = time.time() - MAX_UNUSED_S - 60
        for folder in (used, unused, new):
            folder.mkdir(parents=True)
        for folder in (used, unused):
            os.utime(folder, (long_ago, long_ago))
        artefacts.touch(files[0])
        artefacts.prune(files[2])
        assert (used.exists(), unused.exists(), new.exists()) == (True, False, True)


def test_the_settings_have_the_last_word(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immich_ml_cn.engines.prepacked.graph_bytes", lambda _: MIN_BYTES)
    for settings in (Settings(provider="cpu", cache_folder=tmp_path, prepack=False), Settings(cache_folder=tmp_path)):
        engine = checking_engine(settings) if settings.prepack else select_engine(settings)
        engine.open(model, "bulk", 0, pinned=True)
        assert not forms(tmp_path)
    select_engine(Settings(provider="cpu", cache_folder=tmp_path)).open(model, "bulk", 0, pinned=True)
    assert len(forms(tmp_path)) == 1
