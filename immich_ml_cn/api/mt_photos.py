"""MT-Photos AI's wire format on our pipeline: pictures and texts → the JSON that MT Photos expects.

Its own convention, used nowhere else: a picture that cannot be used is answered with 200, an empty result and ``msg``.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np

from immich_ml_cn.errors import BadImage, InferenceFailed, InvalidEntries, TooLarge, Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.models.results import Answer, EmbeddedFaces, Embedding, ReadText
from immich_ml_cn.serving.pipeline import Pipeline
from immich_ml_cn.serving.tasks import ClipTextual, ClipVisual, FaceTask, OcrTask, Tasks
from immich_ml_cn.settings import Settings

from .immich import OCR_MODEL, RAPIDOCR_MIN_SCORE, rectangles, score_texts
from .json_object import json_object

MAX_SIDE: Final = 10_000
"""Pixels in width or height above which that API refuses a picture."""

MAX_TEXT_BYTES: Final = 65_536
"""Size of the JSON body with a text to embed."""

DETECTOR: Final = "insightface"
"""What that API calls the family of face models; there is one."""

PASSED: Final = {"result": "pass"}
"""The answer to a check and to a restart."""


class MtPhotos:
    """The API's answers, each a JSON document; pictures are those of a form's field ``file``."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._clip = settings.mt_photos_clip_model
        self._faces = settings.mt_photos_face_model
        self._min_score = settings.mt_photos_face_min_score

    async def read(self, picture: bytes) -> dict[str, object]:
        """``/ocr``: the lines of text."""
        task = OcrTask(OCR_MODEL, OCR_MODEL, min_recognition_score=RAPIDOCR_MIN_SCORE)
        return await _answered(self._look(Tasks(ocr=task), picture, upright=True), _lines)

    async def embed_picture(self, picture: bytes) -> dict[str, object]:
        """``/clip/img``: the features of the picture, not normalised."""
        return await _answered(self._look(Tasks(visual=ClipVisual(self._clip)), picture), self._features)

    async def embed_text(self, text: str) -> dict[str, object]:
        """``/clip/txt``: the features of the text, not normalised."""
        task = ClipTextual(self._clip, normalize=False)  # MT Photos compares with what cn-clip gave
        return self._features(await self._pipeline.predict(Tasks(textual=task), None, text))

    async def represent(self, picture: bytes) -> dict[str, object]:
        """``/represent``: the faces."""
        task = FaceTask(self._faces, self._faces, min_score=self._min_score)
        return await _answered(self._look(Tasks(faces=task), picture, upright=True), self._represented)

    def about_faces(self) -> dict[str, object]:
        """``/face/check``: what finds and compares faces."""
        return {"title": "immich-ml-cn: faces for MT Photos", **self._face_models()}

    def _look(self, tasks: Tasks, picture: bytes, *, upright: bool = False) -> Awaitable[Answer]:
        """That API's OCR and faces see a picture upright, as OpenCV decodes it; its CLIP sees it as stored."""
        return self._pipeline.predict(tasks, picture, None, upright=upright, max_side=MAX_SIDE)

    def _features(self, answer: Answer) -> dict[str, object]:
        if answer.features is None:
            raise Unavailable(
                tr(
                    "the graph of {model} gives no features before normalisation, which MT Photos compares: "
                    "`immich-ml-cn models remove {model}`, then the next request makes one from the official weights",
                    model=self._clip,
                )
            )
        if not np.isfinite(answer.features).all():
            raise InferenceFailed("the model gave features with a value that is not a number")
        return {"result": [f"{value:.16f}" for value in answer.features.tolist()]}

    def _represented(self, answer: Answer) -> dict[str, object]:
        found = answer.faces
        if not isinstance(found, EmbeddedFaces):
            raise TypeError(f"the pipeline answered {found!r} instead of faces")
        faces = zip(found.faces.boxes.tolist(), found.faces.scores.tolist(), found.embeddings, strict=True)
        return {**self._face_models(), "result": [_face(*face) for face in faces]}

    def _face_models(self) -> dict[str, str]:
        return {"detector_backend": DETECTOR, "recognition_model": self._faces}


def is_key(key: str, given: str) -> bool:
    """Whether the given key is the right one, in a time that does not tell how much of it is right.

    Args:
        given: a header's value, Latin-1 as HTTP has them.
    """
    return hmac.compare_digest(key.encode(), given.encode("latin-1"))


def read_picture(picture: bytes | None) -> bytes:
    """The picture of the form's field ``file``.

    Raises:
        InvalidEntries: the form has no such field.
    """
    if picture is None:
        raise InvalidEntries("Field required: `file`")
    return picture


def read_text(body: bytes) -> str:
    """The text of ``{"text": "飞机"}``.

    Raises:
        InvalidEntries: the body is no such JSON, or the text is empty.
    """
    document = json_object(body)
    if document is None:
        raise InvalidEntries("the body must be a JSON object")
    text = document.get("text")
    if not isinstance(text, str) or not text:
        raise InvalidEntries("Field required: `text`, a string that is not empty")
    return text


async def _answered(looking: Awaitable[Answer], write: Callable[[Answer], dict[str, object]]) -> dict[str, object]:
    """The answer, or why the picture cannot be used; failures that are not the picture's stay failures."""
    try:
        answer = await looking
    except (BadImage, TooLarge) as error:
        return {"result": [], "msg": str(error)}
    return write(answer)


def _lines(answer: Answer) -> dict[str, object]:
    found = answer.ocr
    if not isinstance(found, ReadText):
        raise TypeError(f"the pipeline answered {found!r} instead of lines of text")
    boxes = [
        {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": f"{right - left:.1f}", "height": f"{bottom - top:.1f}"}
        for left, top, right, bottom in rectangles(found)
    ]
    return {"result": {"texts": list(found.texts), "scores": score_texts(found), "boxes": boxes}}


def _face(box: list[float], score: float, embedding: Embedding) -> dict[str, object]:
    """One face; its box is cut to whole numbers and may reach beyond the picture, as insightface's does.

    Raises:
        InferenceFailed: a number is not finite, or the embedding is zero.
    """
    length = float(np.linalg.norm(embedding))
    if not (np.isfinite([*box, score, length]).all() and length > 0):
        raise InferenceFailed("the model gave a face with a value that is not a number")
    left, top, right, bottom = box
    return {
        "embedding": (embedding / length).tolist(),
        "facial_area": {"x": int(left), "y": int(top), "w": int(right - left), "h": int(bottom - top)},
        "face_confidence": score,
    }
