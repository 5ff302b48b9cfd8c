"""Model tasks and the components that serve them, by Immich's names: in requests, settings and the cache's folders."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class ModelTask(StrEnum):
    """What a model is for: a key of a request's entries, and a folder of the cache."""

    CLIP = "clip"
    FACES = "facial-recognition"
    OCR = "ocr"

    @property
    def components(self) -> "tuple[Component, Component]":
        """The two components that a model of this task consists of."""
        return _COMPONENTS[self]


class Component(StrEnum):
    """One of the graphs that a model consists of: the type of a request's entry, and a folder below the model's."""

    VISUAL = "visual"
    TEXTUAL = "textual"
    DETECTION = "detection"
    RECOGNITION = "recognition"


_COMPONENTS: Final[Mapping[ModelTask, tuple[Component, Component]]] = {
    ModelTask.CLIP: (Component.VISUAL, Component.TEXTUAL),
    ModelTask.FACES: (Component.DETECTION, Component.RECOGNITION),
    ModelTask.OCR: (Component.DETECTION, Component.RECOGNITION),
}
