"""What the tasks answer, as arrays: between the models and the wire format."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Embedding: TypeAlias = NDArray[np.float32]
"""float32 (D,); CLIP's are L2-normalised, ArcFace's are not."""


@dataclass(frozen=True, slots=True)
class Faces:
    """Detected faces, in pixels of the decoded image, best score first.

    Attributes:
        boxes: float32 (N, 4): x1, y1, x2, y2; may reach beyond the image.
        scores: float32 (N,), 0…1.
        landmarks: float32 (N, 5, 2): eyes, nose, mouth corners as x, y.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class EmbeddedFaces:
    """Faces with one embedding each, float32 (512,)."""

    faces: Faces
    embeddings: tuple[Embedding, ...]


@dataclass(frozen=True, slots=True)
class TextBoxes:
    """Detected text lines, in pixels of the decoded image, in reading order.

    Attributes:
        boxes: float32 (N, 4, 2): x, y from the top left corner clockwise.
        scores: float32 (N,), 0…1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


NO_BOXES = TextBoxes(np.zeros((0, 4, 2), np.float32), np.zeros(0, np.float32))
"""Of a picture without text."""


@dataclass(frozen=True, slots=True)
class ReadText:
    """Lines that were read, in reading order: their boxes, texts and recognition scores (0…1)."""

    lines: TextBoxes
    texts: tuple[str, ...]
    scores: tuple[float, ...]

    def is_better_than(self, other: "ReadText") -> bool:
        """Whether more characters of the same picture were read, or hardly fewer but with higher scores."""
        (count, score), (other_count, other_score) = self._characters(), other._characters()
        return score > other_score or (count >= 0.8 * other_count and score * other_count >= other_score * count)

    def _characters(self) -> tuple[int, float]:
        """How many there are, and the sum of their scores, which are those of their lines."""
        lengths = [len(text) for text in self.texts]
        return sum(lengths), sum(length * score for length, score in zip(lengths, self.scores, strict=True))


@dataclass(frozen=True, slots=True)
class Answer:
    """The results of one request.

    Attributes:
        size: (width, height) of the decoded image in pixels.
        features: float32 (D,), what CLIP gives before it is normalised; None where its graph does not tell.
    """

    clip: Embedding | None = None
    faces: Faces | EmbeddedFaces | None = None
    ocr: TextBoxes | ReadText | None = None
    size: tuple[int, int] | None = None
    features: Embedding | None = None
