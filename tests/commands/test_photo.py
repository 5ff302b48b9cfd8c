"""`immich-ml-cn test PHOTO`: on a running server and by itself, with the boxes drawn where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, command
from PIL import Image
from server import CLIP, FACES, OCR, ROOT, RunningServer, fill_cache

from immich_ml_cn.commands.drawing import FACE_COLOUR, TEXT_COLOUR, draw, text_boxes
from immich_ml_cn.commands.photo import choose
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.tasks import ModelTask

SAMPLE = ROOT / "docs" / "sample.jpg"


@pytest.fixture
def photo(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `test …` with a cache of its own and no network."""
    return command(capsys, "test", MACHINE_LEARNING_CACHE_FOLDER=str(tmp_path), HF_HUB_OFFLINE="1", IMMICH_PORT="9")


def test_by_itself_it_reads_a_photo_and_draws_the_boxes(photo: Run, tmp_path: Path) -> None:
    out = tmp_path / "boxes.png"
    printed = photo(str(SAMPLE), "--task", "ocr", "--out", str(out))
    assert printed.code == 0
    assert "by itself" in printed.out
    assert f"text ({OCR}, " in printed.out
    assert "山间音乐会" in printed.out
    with Image.open(out) as drawn, Image.open(SAMPLE) as sample:
        assert drawn.size == sample.size
        changed = np.any(np.asarray(drawn) != np.asarray(sample.convert("RGB")), axis=2)
        green = np.all(np.asarray(drawn) == TEXT_COLOUR, axis=2)
    assert 0.002 < green.mean() < 0.05
    assert not (changed & ~green)[: sample.height // 10].any(), "nothing but the frames has changed"


def test_a_running_server_does_the_work(photo: Run, tmp_path: Path) -> None:
    fill_cache(tmp_path)
    with RunningServer(tmp_path) as server:
        printed = photo(str(SAMPLE), "--model", CLIP, IMMICH_PORT=str(server.port))
        requests = server.log.count("loaded ")
    assert printed.code == 0
    said = printed.out
    assert f"asking the server at http://127.0.0.1:{server.port}" in said
    assert f"embedding ({CLIP}, " in said
    assert "512 numbers" in said
    assert f"faces ({FACES}, " in said
    assert requests >= 4


def test_what_fails_is_said_and_is_exit_code_1(photo: Run, tmp_path: Path) -> None:
    printed = photo(str(SAMPLE), "--task", "faces", "--task", "ocr", "--json")
    assert printed.code == 1
    faces, text = printed.json
    assert "fetching is switched off" in faces["error"]
    assert text["error"] is None
    assert text["answer"]["ocr"]["text"][0] == "山间音乐会"
    printed = photo(str(SAMPLE), "--task", "faces")
    assert printed.code == 1
    assert "what to do: immich-ml-cn doctor" in printed.out


def test_a_photo_that_is_not_there_is_one_line_and_exit_code_2(photo: Run, tmp_path: Path) -> None:
    printed = photo(str(tmp_path / "none.jpg"))
    assert printed.code == 2
    assert printed.err == f"{tmp_path / 'none.jpg'} cannot be read: No such file or directory\n"


def test_a_model_that_is_here_is_asked_else_the_recommended_one(tmp_path: Path) -> None:
    settings = Settings(cache_folder=tmp_path)
    assert choose(settings, [ModelTask.CLIP, ModelTask.OCR]) == {"clip": "ViT-L-14__openai", "ocr": OCR}
    fill_cache(tmp_path)
    assert choose(settings, [ModelTask.CLIP]) == {"clip": CLIP}
    assert choose(settings, [ModelTask.OCR], ["PP-OCRv5_mobile"]) == {"ocr": "PP-OCRv5_mobile"}


def test_boxes_are_drawn_where_the_answer_has_them(tmp_path: Path) -> None:
    white = tmp_path / "white.png"
    Image.new("RGB", (400, 200), "white").save(white)
    answer: dict[str, Any] = {
        "ocr": {"box": [0.25, 0.5, 0.75, 0.5, 0.75, 0.75, 0.25, 0.75], "text": ["x"]},
        "facial-recognition": [{"boundingBox": {"x1": 10, "y1": 20, "x2": 60, "y2": 80}}],
    }
    assert list(text_boxes(answer, (400, 200))) == [[(100, 100), (300, 100), (300, 150), (100, 150)]]
    draw(white.read_bytes(), [answer], tmp_path / "drawn.png")
    pixels = np.asarray(Image.open(tmp_path / "drawn.png"))
    assert tuple(pixels[100, 200]) == TEXT_COLOUR
    assert tuple(pixels[125, 200]) == (255, 255, 255)
    assert tuple(pixels[20, 30]) == FACE_COLOUR
