"""What is read does not hang on a hair's breadth of JPEG quality."""

import pytest
from make_ocr_pictures import PICTURES
from ocr_pipeline import read_picture
from picture_files import encoded
from PIL import Image


@pytest.mark.parametrize("name", ["english.png", "mixed.png", "vertical.png"])
def test_neighbouring_qualities_read_alike(name: str) -> None:
    image = Image.open(PICTURES / name).convert("RGB")
    read = {quality: read_picture(encoded(image, "JPEG", quality=quality)) for quality in (70, 75, 80, 85, 90)}
    texts = {quality: ["".join(text.split()) for text in answer.texts] for quality, answer in read.items()}
    assert len({tuple(lines) for lines in texts.values()}) == 1, texts
    assert min(score for answer in read.values() for score in answer.scores) > 0.8
