"""Pictures → faces, with SCRFD (Guo et al. 2021, "Sample and Computation Redistribution for Efficient Face Detection").

RetinaFace graphs of the same signature work too. Both predict, for every anchor of a grid of cells, a score, a box's
four sides and five landmarks, as distances in units of the grid's stride.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.session import OpenSession, Session, TensorInfo
from immich_ml_cn.errors import BadImage, InferenceFailed, Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.models.images import Picture
from immich_ml_cn.models.results import Faces

from .tensors import levels, planes

_DEFAULT_SIZE = (640, 640)
_OVERLAP = 0.4
_COLUMNS = (1, 4, 10)
# Number of outputs → strides and anchors per cell, for graphs that predict landmarks.
_GRIDS: dict[int, tuple[tuple[int, ...], int]] = {
    9: ((8, 16, 32), 2),
    15: ((8, 16, 32, 64, 128), 1),
}

RawDetection: TypeAlias = tuple[NDArray[np.float32], ...]
"""The graph's answer for one picture: (anchors, 1) scores per stride, (anchors, 4) boxes, (anchors, 10) landmarks."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectionInput:
    """A picture made ready for the detector.

    Attributes:
        tensor: float32 (3, height, width), RGB, (level - 127.5) / 128; the picture lies top left, the rest is
            black.
        scale: pixels of the tensor per pixel of the picture.
    """

    tensor: NDArray[np.float32]
    scale: float


@dataclass(frozen=True)
class FaceDetector:
    """A loaded SCRFD or RetinaFace graph.

    Attributes:
        session: the graph.
        size: width and height of its input in pixels.
        strides: pixels per cell of each grid.
        anchors: predictions per cell.
        batched: the graph takes several pictures at once and keeps their answers apart.
    """

    session: Session
    size: tuple[int, int]
    strides: tuple[int, ...]
    anchors: int
    batched: bool

    def __repr__(self) -> str:
        width, height = self.size
        return f"<FaceDetector {width}x{height} strides={self.strides} batched={self.batched}>"

    def prepare(self, picture: Picture) -> DetectionInput:
        """Scale a picture to fit the detector's input (bilinear, aspect ratio kept) and pad it right and below.

        Raises:
            BadImage: the picture has no pixels.
        """
        if picture.width < 1 or picture.height < 1:
            raise BadImage(tr("Image has zero width or height"))
        size, scale = _fitted(picture.width, picture.height, self.size)
        resized = cast(NDArray[np.uint8], cv2.resize(picture.rgb, size, interpolation=cv2.INTER_LINEAR))
        table = levels(127.5, 128.0)
        width, height = self.size
        tensor = np.full((3, height, width), table[0], dtype=np.float32)
        tensor[:, : size[1], : size[0]] = planes(resized, table)
        return DetectionInput(tensor, scale)

    def bucket(self, item: DetectionInput) -> Hashable:
        """All inputs are of one shape and share batches."""
        return item.tensor.shape

    def infer(self, items: Sequence[DetectionInput]) -> list[RawDetection]:
        """Run the graph; one by one unless it declares a batch axis on its input and on every output.

        Raises:
            InferenceFailed: the graph's answer has not the shape of its grids.
        """
        if self.batched and len(items) > 1:
            return self._run(np.stack([item.tensor for item in items]))
        return [self._run(item.tensor[np.newaxis])[0] for item in items]

    def faces(self, item: DetectionInput, raw: RawDetection, min_score: float) -> Faces:
        """Read the faces out of the graph's answer.

        Of boxes that overlap by more than 0.4 (intersection over union) the best remains.

        Args:
            item: what `prepare` gave for the picture.
            raw: what `infer` gave for it.
            min_score: lowest score that counts as a face, 0…1.

        Returns:
            The faces in pixels of the picture, best first; arrays of no rows when there are none.
        """
        scores, boxes, landmarks = self._candidates(raw, min_score)
        boxes, landmarks = boxes / np.float32(item.scale), landmarks / np.float32(item.scale)
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(landmarks).all(axis=(1, 2))
        scores, boxes, landmarks = scores[finite], boxes[finite], landmarks[finite]
        kept = suppress(boxes, scores, _OVERLAP)
        return Faces(boxes[kept], scores[kept], landmarks[kept])

    def _run(self, batch: NDArray[np.float32]) -> list[RawDetection]:
        outputs = self.session.run({self.session.inputs[0].name: batch})
        # Graphs without a batch axis answer (anchors, columns) for their one picture.
        stacked = [output[np.newaxis] if output.ndim == 2 else output for output in outputs]
        shapes = [(len(batch), *shape) for shape in self._shapes()]
        if [output.shape for output in stacked] != shapes:
            raise InferenceFailed(f"the face detector gave {[output.shape for output in outputs]} instead of {shapes}")
        return [tuple(output[index] for output in stacked) for index in range(len(batch))]

    def _shapes(self) -> list[tuple[int, int]]:
        """Anchors and columns of each of the graph's outputs for one picture."""
        width, height = self.size
        return [
            ((width // stride) * (height // stride) * self.anchors, columns)
            for columns in _COLUMNS
            for stride in self.strides
        ]

    def _candidates(
        self, raw: RawDetection, min_score: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Scores (n,), boxes (n, 4) and landmarks (n, 5, 2) of at least `min_score`, in pixels of the input."""
        count = len(self.strides)
        grids = zip(self.strides, raw[:count], raw[count : 2 * count], raw[2 * count :], strict=True)
        found = []
        for stride, scores, sides, offsets in grids:
            chosen = np.flatnonzero(scores[:, 0] >= min_score)
            rows, columns = np.divmod(chosen // self.anchors, self.size[0] // stride)
            centres = np.stack((columns, rows), axis=1).astype(np.float32) * stride
            reach = sides[chosen] * stride
            boxes = np.hstack((centres - reach[:, :2], centres + reach[:, 2:]))
            points = centres[:, np.newaxis] + (offsets[chosen] * stride).reshape(-1, 5, 2)
            found.append((scores[chosen, 0], boxes, points))
        scores, boxes, points = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, boxes, points


def load_detector(path: Path, open_session: OpenSession) -> FaceDetector:
    """Load an SCRFD or RetinaFace graph of a pack (``det_10g``, ``det_2.5g``, ``det_500m``, ``scrfd_10g_bnkps``).

    The number of outputs tells the grids: 9 for strides 8, 16, 32 with two anchors per cell, 15 for strides 8 to 128
    with one. The input is 640 x 640 unless the graph declares another size.

    Raises:
        Unavailable: the file is no face detector this server can run, e.g. one without landmarks (6 or 10 outputs).
    """
    session = open_session(path)
    _check_signature(path, session)
    strides, anchors = _GRIDS[len(session.outputs)]
    height, width = session.inputs[0].shape[2:]
    size = (width, height) if width and height else _DEFAULT_SIZE
    return FaceDetector(session, size, strides, anchors, _declares_batch(session))


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], overlap: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression.

    A box is dropped when its intersection over union with a better one that was kept exceeds `overlap`. Of equal scores
    the first is the better. Sides count both border pixels (x2 - x1 + 1), as in insightface.

    Args:
        boxes: float32 (n, 4): x1, y1, x2, y2 in pixels.
        scores: float32 (n,).
        overlap: 0…1.

    Returns:
        Indices of the kept boxes, best first.
    """
    left, top, right, bottom = boxes.T
    areas = (right - left + 1) * (bottom - top + 1)
    rest = np.argsort(-scores, kind="stable")
    kept = []
    while rest.size:
        best, rest = rest[0], rest[1:]
        kept.append(best)
        width = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest]) + 1
        height = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest]) + 1
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = rest[shared / (areas[best] + areas[rest] - shared) <= overlap]
    return np.array(kept, dtype=np.intp)


def _fitted(width: int, height: int, room: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """The size a picture is scaled to so that it fits in the room, and the scale."""
    # Sides rounded down and the scale taken from the height, as insightface does: its boxes are the reference.
    ratio = float(height) / width
    taller = ratio > room[1] / room[0]
    size = (int(room[1] / ratio), room[1]) if taller else (room[0], int(room[0] * ratio))
    if min(size) < 1:
        return (max(size[0], 1), max(size[1], 1)), max(size) / max(width, height)
    return size, size[1] / height


def _check_signature(path: Path, session: Session) -> None:
    trouble = _trouble(session)
    if trouble:
        raise Unavailable(tr("{path} is no face detector this server can run: {reason}", path=path, reason=trouble))


def _trouble(session: Session) -> str | None:
    """What keeps the graph from being a detector with landmarks, or None."""
    count = len(session.outputs)
    if count in (6, 10):
        return f"its {count} outputs have no landmarks, which aligning a face needs"
    if count not in _GRIDS:
        return f"it has {count} outputs instead of 9 or 15"
    if len(session.inputs) != 1 or not _is_image(session.inputs[0]):
        return f"it needs one float32 input [N, 3, height, width], not {list(session.inputs)}"
    strides, _ = _GRIDS[count]
    columns = [width for width in _COLUMNS for _ in strides]
    for info, wanted in zip(session.outputs, columns, strict=True):
        if info.dtype != "float32" or (info.shape and info.shape[-1] not in (None, wanted)):
            return f"output {info.name} is {info.dtype} {info.shape} where {wanted} float32 columns belong"
    return None


def _is_image(info: TensorInfo) -> bool:
    return (
        info.dtype == "float32" and len(info.shape) == 4 and info.shape[0] in (None, 1) and info.shape[1] in (None, 3)
    )


def _declares_batch(session: Session) -> bool:
    # A dynamic input alone is not enough: flattened outputs, (anchors, columns), mix the pictures of a batch, in an
    # order that differs from exporter to exporter.
    return session.inputs[0].shape[0] is None and all(
        len(info.shape) == 3 and info.shape[0] is None for info in session.outputs
    )
