"""Immich's wire format both ways: `entries` → tasks, results → the JSON that Immich's server expects.

Pure: no model, no HTTP. The rules are those of Immich v3.3, which is stricter than v2.5 and compatible with both
servers: unknown tasks, types and entry keys are refused, unknown option keys are ignored.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from immich_ml_cn.errors import BadRequest, InferenceFailed, InvalidEntries, NotServed
from immich_ml_cn.models.results import Answer, EmbeddedFaces, Faces, ReadText, TextBoxes
from immich_ml_cn.serving.tasks import (
    FACE_MIN_SCORE,
    MAX_RESOLUTION,
    TEXT_DETECTION_MIN_SCORE,
    TEXT_RECOGNITION_MIN_SCORE,
    ClipTextual,
    ClipVisual,
    FaceTask,
    OcrTask,
    Tasks,
)
from immich_ml_cn.sources.tasks import Component, ModelTask

OCR_MODEL: Final = "PP-OCRv6_small"
"""What reads text for clients that name no model of ours: its weights come with the server."""
RAPIDOCR_MIN_SCORE: Final = 0.5
"""RapidOCR's own default for a line of text, on which the services before us relied."""
GATEWAYS_OCR: Final = "ocr"
"""The model name that the gateway before us was sent; it asked for recognition alone."""

_TYPES: Final = {str(task): task.components for task in ModelTask}
_MALFORMED: Final = "Invalid request format."


@dataclass(frozen=True, slots=True)
class _Entry:
    model: str
    options: Mapping[str, object]
    where: str


def parse_entries(text: str | None) -> dict[str, object]:
    """The JSON of the `entries` field: task → what is asked of it, not yet looked at.

    Args:
        text: JSON ``{task: {type: {"modelName": str, "options"?: object}}}``; None where the field is missing.

    Raises:
        InvalidEntries: missing, or no JSON object.
    """
    if not text:
        raise InvalidEntries("Field required: `entries`")
    try:
        document = orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError):
        raise InvalidEntries(f"{_MALFORMED} `entries` is not valid JSON.") from None
    return _object(document, "`entries`")


def read_tasks(document: Mapping[str, object]) -> Tasks:
    """What a request asks for.

    Args:
        document: of `parse_entries`.

    Raises:
        NotServed: an unknown task or type.
        InvalidEntries: malformed or empty; an option of a wrong type.
        BadRequest: recognition without the detection it depends on.
    """
    entries = {task: _read_task(task, types) for task, types in document.items()}
    if not any(entries.values()):
        raise InvalidEntries("No model task requested.")
    clip = entries.get(ModelTask.CLIP, {})
    return Tasks(
        visual=ClipVisual(clip[Component.VISUAL].model) if Component.VISUAL in clip else None,
        textual=_textual(clip[Component.TEXTUAL]) if Component.TEXTUAL in clip else None,
        faces=_faces(entries.get(ModelTask.FACES, {})),
        ocr=_ocr(entries.get(ModelTask.OCR, {})),
    )


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidEntries(f"{_MALFORMED} {where} must be an object.")
    return value


def _read_task(task: str, types: object) -> dict[str, _Entry]:
    known = _TYPES.get(task)
    if known is None:
        raise NotServed(f"{_MALFORMED} Unknown task {_shown(task)}; known are {', '.join(_TYPES)}.")
    entries = {}
    for kind, entry in _object(types, f"task {task}").items():
        if kind not in known:
            raise NotServed(f"{_MALFORMED} Unknown type {_shown(kind)} of task {task}; known are {', '.join(known)}.")
        entries[kind] = _read_entry(f"{task}.{kind}", entry)
    return entries


def _read_entry(where: str, value: object) -> _Entry:
    entry = _object(value, where)
    unknown = sorted(entry.keys() - {"modelName", "options"})
    if unknown:
        raise InvalidEntries(f"{_MALFORMED} Unknown key {_shown(unknown[0])} in {where}.")
    name = entry.get("modelName")
    if not isinstance(name, str) or not name:
        raise InvalidEntries(f"{_MALFORMED} {where} needs a `modelName`.")
    return _Entry(name, _object(entry.get("options", {}), f"{where}.options"), where)


def _textual(entry: _Entry) -> ClipTextual:
    language = entry.options.get("language")
    if language is not None and not isinstance(language, str):
        raise InvalidEntries(f"{_MALFORMED} {entry.where}.options.language must be a string.")
    return ClipTextual(entry.model, language)


def _faces(entries: Mapping[str, _Entry]) -> FaceTask | None:
    if not entries:
        return None
    detection = _detection(ModelTask.FACES, entries)
    recognition = entries.get(Component.RECOGNITION)
    return FaceTask(
        detection=detection.model,
        recognition=recognition.model if recognition else None,
        min_score=_score(detection, FACE_MIN_SCORE),
    )


def _ocr(entries: Mapping[str, _Entry]) -> OcrTask | None:
    if not entries:
        return None
    recognition = entries.get(Component.RECOGNITION)
    if recognition and recognition.model == GATEWAYS_OCR and Component.DETECTION not in entries:
        score = _score(recognition, RAPIDOCR_MIN_SCORE)
        return OcrTask(OCR_MODEL, OCR_MODEL, min_recognition_score=score, for_gateway=True)
    detection = _detection(ModelTask.OCR, entries)
    return OcrTask(
        detection=detection.model,
        recognition=recognition.model if recognition else None,
        min_detection_score=_score(detection, TEXT_DETECTION_MIN_SCORE),
        max_resolution=_resolution(detection, MAX_RESOLUTION),
        min_recognition_score=_score(recognition, TEXT_RECOGNITION_MIN_SCORE)
        if recognition
        else TEXT_RECOGNITION_MIN_SCORE,
    )


def _detection(task: ModelTask, entries: Mapping[str, _Entry]) -> _Entry:
    if Component.DETECTION not in entries:
        raise BadRequest(f"Task {task} of type recognition depends on output of detection, which was not requested.")
    return entries[Component.DETECTION]


def _score(entry: _Entry, default: float) -> float:
    value = entry.options.get("minScore", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidEntries(f"{_MALFORMED} {entry.where}.options.minScore must be a number.")
    return float(value)


def _resolution(entry: _Entry, default: int) -> int:
    value = entry.options.get("maxResolution", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1 or value != value // 1:
        raise InvalidEntries(f"{_MALFORMED} {entry.where}.options.maxResolution must be a whole number of at least 1.")
    return int(min(value, 1 << 20))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


# --- results → JSON ---


def write_body(body: Mapping[str, object]) -> bytes:
    """A response body as compact UTF-8 JSON; values may be arrays."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def answer_body(answer: Answer) -> dict[str, object]:
    """What Immich's server is answered, before it is written.

    Raises:
        InferenceFailed: a result holds NaN or infinity, which Immich's database would refuse.
    """
    body: dict[str, object] = {}
    if answer.clip is not None:
        body[ModelTask.CLIP.value] = _embedding(answer.clip)
    if answer.faces is not None:
        body[ModelTask.FACES.value] = _write_faces(answer.faces)
    if answer.ocr is not None:
        body[ModelTask.OCR.value] = _write_ocr(answer.ocr, answer.size or (1, 1))
    if answer.size is not None:
        body["imageHeight"], body["imageWidth"] = answer.size[1], answer.size[0]
    return body


def gateways_ocr_body(result: ReadText) -> dict[str, object]:
    """What a client of the gateway before us is answered: boxes in pixels, `x2` and `y2` the lower right corner.

    Raises:
        InferenceFailed: a box or score is not finite.
    """
    corners = [dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)) for box in rectangles(result)]
    found = {"texts": list(result.texts), "scores": score_texts(result), "boxes": corners}
    return {"ocr": " ".join(result.texts), "result": found}


def rectangles(result: ReadText) -> list[list[float]]:
    """The lines' bounding rectangles, left, top, right, bottom in pixels to a tenth.

    Raises:
        InferenceFailed: one is not finite.
    """
    boxes = result.lines.boxes
    _check_finite(boxes, "a text box")
    edges = np.concatenate([boxes.min(axis=1), boxes.max(axis=1)], axis=1)  # (N, 4, 2) → (N, 4)
    return [[round(value, 1) for value in edge] for edge in edges.tolist()]


def score_texts(result: ReadText) -> list[str]:
    """The lines' scores as text of two decimals.

    Raises:
        InferenceFailed: one is not finite.
    """
    _check_finite(np.array(result.scores), "a line of text")
    return [f"{score:.2f}" for score in result.scores]


def _embedding(vector: NDArray[np.float32]) -> str:
    _check_finite(vector, "an embedding")
    return orjson.dumps(np.ascontiguousarray(vector, dtype=np.float32), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _write_faces(result: Faces | EmbeddedFaces) -> object:
    faces = result.faces if isinstance(result, EmbeddedFaces) else result
    for values in (faces.boxes, faces.scores, faces.landmarks):
        _check_finite(values, "a face")
    boxes = np.ascontiguousarray(faces.boxes.round(), dtype=np.float32)
    if isinstance(result, Faces):
        return {
            "boxes": boxes,
            "scores": np.ascontiguousarray(faces.scores),
            "landmarks": np.ascontiguousarray(faces.landmarks),
        }
    return [
        {
            "boundingBox": dict(zip(("x1", "y1", "x2", "y2"), box.tolist(), strict=True)),
            "embedding": _embedding(embedding),
            "score": score,
        }
        for box, score, embedding in zip(boxes, faces.scores, result.embeddings, strict=True)
    ]


def _write_ocr(result: TextBoxes | ReadText, size: tuple[int, int]) -> object:
    lines = result.lines if isinstance(result, ReadText) else result
    for values in (lines.boxes, lines.scores):
        _check_finite(values, "a text box")
    if isinstance(result, TextBoxes):
        return {"boxes": np.ascontiguousarray(lines.boxes), "scores": np.ascontiguousarray(lines.scores)}
    _check_finite(np.array(result.scores), "a line of text")
    normalised = (lines.boxes / np.array(size, dtype=np.float32)).astype(np.float32)
    return {
        "box": normalised.reshape(-1),
        "text": list(result.texts),
        "boxScore": np.ascontiguousarray(lines.scores),
        "textScore": list(result.scores),
    }


def _check_finite(values: NDArray[np.floating[Any]], what: str) -> None:
    if not np.isfinite(values).all():
        raise InferenceFailed(f"the model gave {what} with a value that is not a number")
