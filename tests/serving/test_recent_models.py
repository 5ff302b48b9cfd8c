"""What a run used, for the next one's start."""

import json
from pathlib import Path

import pytest

from immich_ml_cn.serving.recent_models import FILE, MAX_USES, RecentModels
from immich_ml_cn.serving.tasks import ClipTextual, ClipVisual, FaceTask, OcrTask, Tasks
from immich_ml_cn.sources.tasks import ModelTask

IMAGE = Tasks(visual=ClipVisual("a"))
TEXT = Tasks(textual=ClipTextual("a", language="zh-CN"))
FACES = Tasks(faces=FaceTask("b", "b", min_score=0.5))
BOXES = Tasks(ocr=OcrTask("c", None))


def test_the_most_used_comes_first_without_its_options(tmp_path: Path) -> None:
    run = RecentModels(tmp_path)
    assert [run.count(tasks) for tasks in (BOXES, TEXT, TEXT, FACES, FACES, FACES)] == [
        True,
        True,
        False,
        True,
        *[False] * 2,
    ]
    run.save()
    assert RecentModels(tmp_path).take() == [
        Tasks(faces=FaceTask("b", "b")),
        Tasks(textual=ClipTextual("a")),
        Tasks(ocr=OcrTask("c", None)),
    ]


def test_a_process_that_dies_of_it_is_not_started_into_it_again(tmp_path: Path) -> None:
    first = RecentModels(tmp_path)
    first.count(IMAGE)
    first.save()
    assert RecentModels(tmp_path).take() == [IMAGE]
    assert RecentModels(tmp_path).take() == []


def place(cache: Path, *models: str) -> None:
    for model in models:
        (cache / model).mkdir(parents=True)
        (cache / model / "model.onnx").touch()


def test_without_a_run_before_it_is_the_only_model_of_a_kind(tmp_path: Path) -> None:
    """A folder that comes from Immich's own service; which of two models is used, nobody knows."""
    place(tmp_path, "clip/a/visual", "clip/a/textual", "clip/.a.partial/visual")
    place(tmp_path, "facial-recognition/b/detection", "facial-recognition/b/recognition")
    place(tmp_path, "ocr/c/detection", "ocr/c/recognition", "ocr/d/recognition")
    here = [Tasks(textual=ClipTextual("a")), IMAGE, Tasks(faces=FaceTask("b", "b"))]
    first = RecentModels(tmp_path)
    assert first.take() == here
    assert RecentModels(tmp_path).take() == [], "the first one may have died of it"
    first.save()
    second = RecentModels(tmp_path)
    assert second.take() == here, "nobody has used any"
    second.count(IMAGE)
    second.save()
    assert RecentModels(tmp_path).take() == [IMAGE]


def test_what_another_server_does_is_not_loaded(tmp_path: Path) -> None:
    place(tmp_path, "facial-recognition/b/detection", "facial-recognition/b/recognition", "clip/a/visual")
    forwarding = RecentModels(tmp_path, forwarded=[ModelTask.FACES])
    assert forwarding.take() == [IMAGE]
    forwarding.count(FACES)
    forwarding.save()
    assert RecentModels(tmp_path, forwarded=[ModelTask.FACES]).take() == []


def test_a_run_that_uses_little_forgets_only_what_it_replaces(tmp_path: Path) -> None:
    first = RecentModels(tmp_path)
    for tasks in (IMAGE, FACES):
        first.count(tasks)
    first.save()
    second = RecentModels(tmp_path)
    second.take()
    second.count(Tasks(visual=ClipVisual("another")))
    second.save()
    assert RecentModels(tmp_path).take() == [Tasks(visual=ClipVisual("another")), Tasks(faces=FaceTask("b", "b"))]


def test_it_is_bounded(tmp_path: Path) -> None:
    run = RecentModels(tmp_path)
    for number in range(100):
        run.count(Tasks(visual=ClipVisual(f"model-{number}" + "x" * 100)))
    run.save()
    assert len(RecentModels(tmp_path).take()) == MAX_USES
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "content", ["", "{", "3", '{"a": 1}', '[["clip/visual"]]', '[["no such task", "a"]]', "[[]]", "[7]"]
)
def test_what_somebody_else_wrote_is_no_failure(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert RecentModels(tmp_path).take() == []


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    run = RecentModels(tmp_path / "missing")
    run.count(IMAGE)
    run.save()
    assert run.take() == []


def test_a_run_that_used_nothing_writes_nothing(tmp_path: Path) -> None:
    RecentModels(tmp_path).save()
    assert list(tmp_path.iterdir()) == []


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    run = RecentModels(tmp_path)
    run.count(FACES)
    run.save()
    assert json.loads((tmp_path / FILE).read_text()) == [["faces", "b", "b"]]
