"""Aligned faces → embeddings, with ArcFace (Deng et al. 2019, "ArcFace: Additive Angular Margin Loss")."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.graphs import edit_process
from immich_ml_cn.engines.graphs.edits import NORMALISES_INPUT
from immich_ml_cn.engines.session import OpenSession, Session
from immich_ml_cn.errors import InferenceFailed, Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.models.images import Picture

from .alignment import CROP_SIZE, align
from .tensors import levels, planes

_log = logging.getLogger(__name__)
# Relative to the embedding's largest number: a wrong batch is off by all of it, other kernels by 1e-5, TF32 by 1e-3.
_PROBE_TOLERANCE = 0.02


@dataclass(frozen=True)
class FaceRecognizer:
    """A loaded ArcFace graph.

    Attributes:
        session: the graph: float32 (batch, 3, 112, 112) → float32 (batch, dimension).
        normalises_input: the graph takes levels 0…255 and normalises them itself.
        batched: the graph was seen to give a batch the embeddings of its items.
    """

    session: Session
    normalises_input: bool
    batched: bool

    def __repr__(self) -> str:
        return f"<FaceRecognizer batched={self.batched}>"

    def prepare(self, picture: Picture, landmarks: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Cut out a picture's faces, each turned upright.

        Args:
            picture: the decoded image.
            landmarks: float32 (n, 5, 2), x, y in its pixels, as `FaceDetector.faces` gives them.

        Returns:
            n crops, float32 (3, 112, 112), RGB, -1…1 (0…255 where the graph normalises).
        """
        table = levels(0.0, 1.0) if self.normalises_input else levels(127.5, 127.5)
        return [planes(align(picture.rgb, points), table) for points in landmarks]

    def bucket(self, item: NDArray[np.float32]) -> Hashable:
        """All crops are of one shape and share batches."""
        return item.shape

    def infer(self, items: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Embed crops.

        Returns:
            One float32 (dimension,) per crop, ArcFace's raw output: its length is not 1. The packs' dimension is 512.

        Raises:
            InferenceFailed: the graph answered with another number of embeddings than it got crops, or with numbers
                that are not finite.
        """
        if self.batched and len(items) > 1:
            return list(_embed(self.session, np.stack(items)))
        return [_embed(self.session, item[np.newaxis])[0] for item in items]


def load_recognizer(path: Path, open_session: OpenSession) -> FaceRecognizer:
    """Load an ArcFace graph of a pack (``w600k_r50``, ``w600k_mbf``, ``glintr100``).

    The graph is opened with a batch axis edited in: most declare batches of one. A batch of two then has to give what
    its items give one by one, else the file is opened as it is. Runs the session: call it where the session may run.

    Raises:
        Unavailable: the file is no face recogniser this server can run.
        OSError: it cannot be read.
    """
    session = _open_batched(path, open_session)
    if session is not None:
        return FaceRecognizer(session, session.metadata[NORMALISES_INPUT] == str(True), batched=True)
    session = open_session(path)
    _check_signature(path, session)
    facts = edit_process.inspect(path)
    batched = not facts.fixed_batch and _supports_batches(session)
    return FaceRecognizer(session, facts.normalises_input, batched)


def _open_batched(path: Path, open_session: OpenSession) -> Session | None:
    try:
        session = open_session(edit_process.with_batch_axis(path))
        _check_signature(path, session)
        return session if _supports_batches(session) else None
    except (Unavailable, OSError):
        raise
    except Exception as error:  # engines have exceptions of their own for a graph they refuse
        _log.warning("%s cannot be given a batch axis (%s): faces run one at a time", path, error)
        return None


def _check_signature(path: Path, session: Session) -> None:
    shapes = [info.shape for info in session.inputs]
    dtypes = {info.dtype for info in (*session.inputs, *session.outputs)}
    fits = len(shapes) == 1 and len(shapes[0]) == 4
    if fits:
        wanted = (3, CROP_SIZE, CROP_SIZE)
        fits = all(size in (None, want) for size, want in zip(shapes[0][1:], wanted, strict=True))
    if not fits or len(session.outputs) != 1 or dtypes != {"float32"}:
        raise Unavailable(
            tr(
                "{path} is no face recogniser this server can run: it needs one float32 input [N, 3, 112, 112] and "
                "one float32 output, not {inputs} and {outputs}",
                path=path,
                inputs=list(session.inputs),
                outputs=list(session.outputs),
            )
        )


def _supports_batches(session: Session) -> bool:
    """True if an item gets the same embedding in a batch of two as in a batch of one."""
    pair = np.zeros((2, 3, CROP_SIZE, CROP_SIZE), dtype=np.float32)
    pair[1] = np.linspace(-1, 1, CROP_SIZE, dtype=np.float32)
    single = _embed(session, pair[1:])[0]
    try:
        batched = _embed(session, pair)[1]
    except Exception as error:
        _log.warning("the face recogniser refuses batches (%s): faces run one at a time", error)
        return False
    return bool(np.abs(batched - single).max() <= _PROBE_TOLERANCE * np.abs(single).max())


def _embed(session: Session, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    embeddings: NDArray[np.float32] = session.run({session.inputs[0].name: batch})[0]
    if embeddings.ndim != 2 or len(embeddings) != len(batch):
        raise InferenceFailed(f"the face recogniser gave an answer of shape {embeddings.shape} for {len(batch)} faces")
    if not np.isfinite(embeddings).all():
        raise InferenceFailed("the face recogniser gave an embedding that is not finite")
    return embeddings
