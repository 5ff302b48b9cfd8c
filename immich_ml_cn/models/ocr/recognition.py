"""What a line says: a CTC recogniser (PP-OCR's, any version) as a loaded model."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.graphs import edit_process
from immich_ml_cn.engines.graphs.edits import CLASSES
from immich_ml_cn.engines.session import OpenSession, ParallelSession, Session
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr

from . import ctc
from .pixels import to_tensor
from .widths import usual_classes

_log = logging.getLogger(__name__)

HEIGHT = 48
# The narrowest step between two padded widths; above 512 px it is an eighth of the width's power
# of two, so that padding stays under an eighth and there are few shapes (40 up to the maximum).
WIDTH_STEP = 64
# Where lines are run alone nothing is gained from equal shapes. With 16 a 静 is read as 靜 that RapidOCR reads right.
FINE_WIDTH_STEP = 32
# A line 170 times as long as high; longer ones are squeezed to this.
MAX_WIDTH = 8192
# Columns in one run of the graph: bounds memory whatever the batch.
MAX_COLUMNS = 8192

BestPath: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class RecognitionInput:
    """A line prepared for the recogniser.

    Attributes:
        tensor: float32 (3, 48, W), BGR, -1…1, 0 (grey) right of the line; W is its padded width.
    """

    tensor: NDArray[np.float32]


@dataclass(frozen=True)
class TextRecognizer:
    """A loaded recogniser.

    Its graph maps [N, 3, 48, W] to the two likeliest classes and their probabilities per time step, both [N, T, 2],
    or to the likeliest only, both [N, T], or to the probabilities of all classes, [N, T, C].

    Attributes:
        alphabet: the text of each of the C classes; class 0 is CTC's blank.
    """

    session: Session
    alphabet: tuple[str, ...]

    @cached_property
    def usual(self) -> NDArray[np.int64]:
        """Per class the one of its character's usual width, (C,)."""
        return usual_classes(self.alphabet)

    def prepare(self, line: NDArray[np.uint8]) -> RecognitionInput:
        """Resize a crop, uint8 (h, w, 3) RGB, to 48 px height and pad it; for the CPU pool.

        The width depends on this line alone, so its text does not depend on its neighbours.
        """
        width = min(MAX_WIDTH, math.ceil(HEIGHT * line.shape[1] / line.shape[0]))
        padded = finely_padded_width(width) if self._parallel else padded_width(width)
        tensor = np.zeros((3, HEIGHT, padded), np.float32)
        tensor[:, :, :width] = to_tensor(np.asarray(cv2.resize(line, (width, HEIGHT)), np.uint8))
        return RecognitionInput(tensor)

    def bucket(self, item: RecognitionInput) -> int:
        """The padded width; one for all where each line is run alone."""
        return 0 if self._parallel else _width(item)

    def infer(self, items: Sequence[RecognitionInput]) -> list[BestPath]:
        """Per line the two likeliest classes, int64 (T, 2), and their probabilities, float32 (T, 2), 0…1."""
        if isinstance(self.session, ParallelSession):
            return self._run_each(self.session, items)
        lines_per_run = max(1, MAX_COLUMNS // _width(items[0]))
        starts = range(0, len(items), lines_per_run)
        return [path for start in starts for path in self._run(items[start : start + lines_per_run])]

    def decode(self, path: BestPath) -> tuple[str, float]:
        """Text and score, 0…1, of one of `infer`'s outputs; for the CPU pool."""
        return ctc.decode(*path, self.alphabet, self.usual)

    @property
    def _parallel(self) -> bool:
        return isinstance(self.session, ParallelSession)

    def _run(self, items: Sequence[RecognitionInput]) -> Iterator[BestPath]:
        batch = np.stack([item.tensor for item in items])
        return _best_paths(self.session.run({self.session.inputs[0].name: batch}))

    def _run_each(self, session: ParallelSession, items: Sequence[RecognitionInput]) -> list[BestPath]:
        """The longest first: those that end last end about together."""
        order = sorted(range(len(items)), key=lambda index: -_width(items[index]))
        runs = session.run_parallel([{session.inputs[0].name: items[index].tensor[None]} for index in order])
        paths = {index: next(_best_paths(run)) for index, run in zip(order, runs, strict=True)}
        return [paths[index] for index in range(len(items))]


def load_recognizer(path: Path, open_session: OpenSession) -> TextRecognizer:
    """Load a PP-OCR recogniser (``.onnx``).

    The alphabet comes from the graph's metadata key ``character``, else from a ``charset.txt``
    beside the file, one character per line.

    Raises:
        Unavailable: there is no alphabet, or it does not belong to the graph.
    """
    try:
        session = open_session(edit_process.with_best_path(path))
        noted = session.metadata.get(CLASSES)
        classes = int(noted) if noted else None
    except ValueError as error:
        _log.info("%s is run as it is: %s", path, error)
        session = open_session(path)
        classes = session.outputs[0].shape[-1]
    try:
        alphabet = ctc.complete_alphabet(_characters(path, session), classes)
    except (OSError, ValueError) as error:
        raise Unavailable(
            tr("{path} cannot be used for text recognition: {reason}", path=path, reason=error)
        ) from error
    return TextRecognizer(session, alphabet)


def padded_width(width: int) -> int:
    """The bucket of a line `width` px wide at 48 px height: the next of 64, 128 … 512, 576 … 1024,
    1152 … 2048, 2304 … 8192."""
    step = max(WIDTH_STEP, (1 << (width - 1).bit_length()) // 16)
    return -(-width // step) * step


def finely_padded_width(width: int) -> int:
    """What a line `width` px wide at 48 px height is padded to that is run alone: the next multiple of 32, at least
    64."""
    return max(WIDTH_STEP, -(-width // FINE_WIDTH_STEP) * FINE_WIDTH_STEP)


def _width(item: RecognitionInput) -> int:
    return int(item.tensor.shape[2])


def _best_paths(outputs: Sequence[NDArray[Any]]) -> Iterator[BestPath]:
    """The best path of each line of a batch, of a graph's outputs in either form."""
    indices, probabilities = _likeliest(outputs[0]) if len(outputs) == 1 else outputs
    if indices.ndim == 2:  # the likeliest class only
        indices, probabilities = indices[:, :, None], probabilities[:, :, None]
    return zip(indices.astype(np.int64, copy=False), probabilities, strict=True)


def _likeliest(probabilities: NDArray[np.float32]) -> list[NDArray[Any]]:
    """The two likeliest of all classes, (N, T, C) → indices and probabilities (N, T, 2), the likelier first."""
    two = np.argpartition(probabilities, -2, axis=2)[:, :, -2:]
    values = np.take_along_axis(probabilities, two, axis=2)
    order = np.argsort(-values, axis=2, kind="stable")
    return [np.take_along_axis(two, order, axis=2), np.take_along_axis(values, order, axis=2)]


def _characters(path: Path, session: Session) -> list[str]:
    if "character" in session.metadata:
        return session.metadata["character"].splitlines()
    return path.with_name("charset.txt").read_text(encoding="utf-8").splitlines()
