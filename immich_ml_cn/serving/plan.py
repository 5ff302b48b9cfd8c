"""The models that one request needs, each beside the options it is run with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from .spec import AnyModel, ModelSpec
from .tasks import ClipTextual, ClipVisual, FaceTask, OcrTask

if TYPE_CHECKING:
    from immich_ml_cn.models.clip import TextualEncoder, VisualEncoder
    from immich_ml_cn.models.faces import FaceDetector, FaceRecognizer
    from immich_ml_cn.models.ocr import TextDetector, TextOrientation, TextRecognizer

DECODED_BYTES_PER_PIXEL: Final = 4


@dataclass(frozen=True, slots=True)
class VisualPlan:
    """Embed the image."""

    bytes_per_pixel: ClassVar[int] = 5
    """Memory that the task needs beside the decoded image: that one in RGB, and what it is resized through."""

    task: ClipVisual
    encoder: "ModelSpec[VisualEncoder]"

    @property
    def models(self) -> Sequence[ModelSpec[AnyModel]]:
        """What is run, in this order: the output of the last one is the answer."""
        return (self.encoder,)


@dataclass(frozen=True, slots=True)
class TextualPlan:
    """Embed the text."""

    task: ClipTextual
    encoder: "ModelSpec[TextualEncoder]"

    @property
    def models(self) -> Sequence[ModelSpec[AnyModel]]:
        """See `VisualPlan.models`."""
        return (self.encoder,)


@dataclass(frozen=True, slots=True)
class FacePlan:
    """Find faces, and embed them where there is a recogniser."""

    bytes_per_pixel: ClassVar[int] = 4
    """Memory that the task needs beside the decoded image: that one as an array."""

    task: FaceTask
    detector: "ModelSpec[FaceDetector]"
    recognizer: "ModelSpec[FaceRecognizer] | None" = None

    @property
    def models(self) -> Sequence[ModelSpec[AnyModel]]:
        """See `VisualPlan.models`."""
        return (self.detector,) if self.recognizer is None else (self.detector, self.recognizer)


@dataclass(frozen=True, slots=True)
class TextReader:
    """The two models that read a line of text: one tells whether it is upside down, one reads it."""

    orientation: "ModelSpec[TextOrientation]"
    recognizer: "ModelSpec[TextRecognizer]"


@dataclass(frozen=True, slots=True)
class OcrPlan:
    """Find lines of text, and read them where there is a reader."""

    bytes_per_pixel: ClassVar[int] = 6
    """Memory that the task needs beside the decoded image: that one as an array, of 16 bits at first or opaque."""

    task: OcrTask
    detector: "ModelSpec[TextDetector]"
    reader: TextReader | None = None

    @property
    def models(self) -> Sequence[ModelSpec[AnyModel]]:
        """See `VisualPlan.models`."""
        return (self.detector,) + ((self.reader.orientation, self.reader.recognizer) if self.reader else ())


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request needs; a task that it does not ask for is None."""

    visual: VisualPlan | None = None
    textual: TextualPlan | None = None
    faces: FacePlan | None = None
    ocr: OcrPlan | None = None

    @property
    def bytes_per_pixel(self) -> int:
        """Memory that a decoded image and the tasks on it need: Pillow has four bytes for each pixel."""
        tasks = (self.visual, self.faces, self.ocr)
        return DECODED_BYTES_PER_PIXEL + sum(task.bytes_per_pixel for task in tasks if task is not None)

    def specs(self) -> list[ModelSpec[AnyModel]]:
        """All models that the request may need, each once."""
        return [spec for plan in self._parts() for spec in plan.models]

    def models(self) -> dict[str, ModelSpec[AnyModel]]:
        """Label of each task → the model that answers it."""
        return {plan.task.label: plan.models[-1] for plan in self._parts()}

    def _parts(self) -> Iterator[VisualPlan | TextualPlan | FacePlan | OcrPlan]:
        return (plan for plan in (self.visual, self.textual, self.faces, self.ocr) if plan is not None)
