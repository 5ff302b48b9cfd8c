"""What a request asks for: its tasks, each with the options it was given or Immich's defaults."""

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

FACE_MIN_SCORE: Final = 0.7
TEXT_DETECTION_MIN_SCORE: Final = 0.5
TEXT_RECOGNITION_MIN_SCORE: Final = 0.9
MAX_RESOLUTION: Final = 736


@dataclass(frozen=True, slots=True)
class ClipVisual:
    """Embed the image."""

    label: ClassVar[str] = "clip/visual"
    """What its requests are counted under."""

    model: str


@dataclass(frozen=True, slots=True)
class ClipTextual:
    """Embed the text.

    Attributes:
        language: Immich's UI language, such as ``zh-CN``.
        normalize: whether the text is normalised for its tokenizer, rather than read as cn-clip does.
    """

    label: ClassVar[str] = "clip/textual"

    model: str
    language: str | None = None
    normalize: bool = True


@dataclass(frozen=True, slots=True)
class FaceTask:
    """Find faces and, where `recognition` names a model, embed them."""

    label: ClassVar[str] = "faces"

    detection: str
    recognition: str | None
    min_score: float = FACE_MIN_SCORE


@dataclass(frozen=True, slots=True)
class OcrTask:
    """Find text lines and, where `recognition` names a model, read them.

    Attributes:
        for_gateway: asked in the form of the gateway that this server replaces, and answered in its format.
    """

    label: ClassVar[str] = "ocr"

    detection: str
    recognition: str | None
    min_detection_score: float = TEXT_DETECTION_MIN_SCORE
    max_resolution: int = MAX_RESOLUTION
    min_recognition_score: float = TEXT_RECOGNITION_MIN_SCORE
    for_gateway: bool = False


Task: TypeAlias = ClipVisual | ClipTextual | FaceTask | OcrTask


@dataclass(frozen=True, slots=True)
class Tasks:
    """What one request asks for; at least one field is set."""

    visual: ClipVisual | None = None
    textual: ClipTextual | None = None
    faces: FaceTask | None = None
    ocr: OcrTask | None = None

    @property
    def need_image(self) -> bool:
        """Whether any task works on the image."""
        return self.visual is not None or self.faces is not None or self.ocr is not None

    @property
    def labels(self) -> tuple[str, ...]:
        """What the tasks are counted under."""
        asked: tuple[Task | None, ...] = (self.visual, self.textual, self.faces, self.ocr)
        return tuple(task.label for task in asked if task is not None)
