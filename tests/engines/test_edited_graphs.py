"""Edited graphs on disk: made once, anew for another file or edit, in memory where nothing can be written."""

from pathlib import Path

import pytest

from immich_ml_cn.engines.edited_graphs import EditedGraphs
from immich_ml_cn.engines.graphs.edit_process import MAX_IN_PROCESS_BYTES
from immich_ml_cn.engines.graphs.files import EditedGraph


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Larger than what is edited in milliseconds."""
    path = tmp_path / "cache" / "clip" / "m" / "visual" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * (MAX_IN_PROCESS_BYTES + 1))
    return path


class Edit:
    """Makes a graph and counts how often."""

    def __init__(self, data: bytes = b"edited") -> None:
        self.data = data
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return self.data


def edited(model: Path, edit: Edit, version: str = "1") -> EditedGraph:
    return EditedGraph(model, "batch-axis", version, edit)


def opened(tmp_path: Path, graph: EditedGraph) -> Path | bytes:
    """As a process opens it that has just started."""
    return EditedGraphs(tmp_path / "cache").file_or_data(graph)


def test_an_edit_is_made_once(tmp_path: Path, model: Path) -> None:
    edit = Edit()
    files = {opened(tmp_path, edited(model, edit)) for _ in range(3)}
    assert edit.count == 1
    (file,) = files
    assert isinstance(file, Path)
    assert file.read_bytes() == b"edited"
    assert file.is_relative_to(model.parent / "edited")
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_another_file_and_another_edit_are_another_graph(tmp_path: Path, model: Path) -> None:
    opened(tmp_path, edited(model, Edit()))
    newer = opened(tmp_path, edited(model, Edit(b"newer"), "2"))
    assert isinstance(newer, Path)
    assert newer.read_bytes() == b"newer"
    model.write_bytes(b"y" * (MAX_IN_PROCESS_BYTES + 2))
    other = opened(tmp_path, edited(model, Edit(b"other"), "2"))
    assert isinstance(other, Path)
    assert other.read_bytes() == b"other"
    assert not newer.exists(), "of a file that is no longer there"


def test_nothing_is_written_beside_a_file_of_others(tmp_path: Path) -> None:
    outside = tmp_path / "wheel" / "model.onnx"
    outside.parent.mkdir()
    outside.write_bytes(b"x" * (MAX_IN_PROCESS_BYTES + 1))
    file = opened(tmp_path, edited(outside, Edit()))
    assert isinstance(file, Path)
    assert file.is_relative_to(tmp_path / "cache" / "edited")
    assert list(outside.parent.iterdir()) == [outside]


def test_where_nothing_can_be_written_it_stays_in_memory(tmp_path: Path, model: Path) -> None:
    (model.parent / "edited").write_text("no folder")
    assert opened(tmp_path, edited(model, Edit())) == b"edited"


def test_a_full_disk_leaves_nothing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("immich_ml_cn.engines.edited_graphs.os.fsync", full)
    assert opened(tmp_path, edited(model, Edit())) == b"edited"
    assert not [path for path in (model.parent / "edited").rglob("*") if path.is_file()]


def test_a_small_graph_is_edited_faster_than_it_is_written(tmp_path: Path, model: Path) -> None:
    model.write_bytes(b"x" * MAX_IN_PROCESS_BYTES)
    assert opened(tmp_path, edited(model, Edit())) == b"edited"
    assert not (model.parent / "edited").exists()


def test_an_edit_that_fails_says_so(tmp_path: Path, model: Path) -> None:
    def make() -> bytes:
        raise ValueError("of another form")

    with pytest.raises(ValueError, match="of another form"):
        opened(tmp_path, EditedGraph(model, "batch-axis", "1", make))
    model.unlink()
    with pytest.raises(ValueError, match="of another form"):
        opened(tmp_path, EditedGraph(model, "batch-axis", "1", make))
