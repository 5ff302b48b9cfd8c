"""The boxes of an answer of Immich's protocol, drawn into the photo."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

TEXT_COLOUR: Final = (0, 160, 70)
FACE_COLOUR: Final = (230, 60, 30)

Corners = Sequence[tuple[float, float]]


def draw(image: bytes, answers: Iterable[Mapping[str, Any]], out: Path) -> None:
    """Write the photo with a green frame around each line of text, numbered as listed, and a red one around each face.

    Args:
        image: as it was sent; the boxes are those of its pixels as they are stored.
        answers: bodies of ``POST /predict``.
        out: its suffix decides the format.

    Raises:
        OSError: it cannot be written, or Pillow does not know the format.
    """
    from PIL import Image, ImageDraw

    with Image.open(BytesIO(image)) as opened:
        picture = opened.convert("RGB")
    pen = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 400))
    for answer in answers:
        for number, corners in enumerate(text_boxes(answer, picture.size), 1):
            pen.polygon(corners, outline=TEXT_COLOUR, width=width)
            pen.text((corners[0][0], corners[0][1] - 7 * width), str(number), fill=TEXT_COLOUR, font_size=6 * width)
        for x1, y1, x2, y2 in face_boxes(answer):
            pen.rectangle((x1, y1, x2, y2), outline=FACE_COLOUR, width=width)
    picture.save(out)


def text_boxes(answer: Mapping[str, Any], size: tuple[int, int]) -> Iterator[Corners]:
    """Four corners of each line in pixels; the answer has shares of width and height."""
    flat = (answer.get("ocr") or {}).get("box", ())
    width, height = size
    for start in range(0, len(flat), 8):
        shares = flat[start : start + 8]
        yield [(x * width, y * height) for x, y in zip(shares[::2], shares[1::2], strict=True)]


def face_boxes(answer: Mapping[str, Any]) -> Iterator[tuple[float, float, float, float]]:
    """Left, top, right and bottom of each face in pixels."""
    for face in answer.get("facial-recognition") or ():
        box = face["boundingBox"]
        yield box["x1"], box["y1"], box["x2"], box["y2"]
