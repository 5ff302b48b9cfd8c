"""CLIP's image tower: picture → embedding."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.session import OpenSession, Session, TensorInfo
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.models.images import Picture

from .tower import Embedding, Tower, refusal
from .transform import ImageTransform, read_transform


class VisualEncoder:
    """A loaded image tower, a `session.Model` of tensors (3, H, W) and embeddings."""

    def __init__(self, session: Session, transform: ImageTransform) -> None:
        """
        Raises:
            Unavailable: the graph is no image tower, or one for another picture size.
        """
        self.transform = transform
        self._image = _image_input(session, transform.size)
        self._tower = Tower(session)

    @property
    def min_side(self) -> int | None:
        """Pixels of a picture's shorter side that are enough for this model, None where every pixel counts."""
        return self.transform.min_side

    @property
    def dimension(self) -> int | None:
        """Length D of the embeddings, None where the graph leaves it open."""
        return self._tower.dimension

    def prepare(self, picture: Picture) -> NDArray[np.float32]:
        """Pure: the picture as float32 (3, H, W), RGB, normalised by the model's mean and std."""
        return self.transform(picture)

    def bucket(self, item: NDArray[np.float32]) -> Hashable:
        """All pictures have one size, so any may share a batch."""
        return item.shape

    def infer(self, items: Sequence[NDArray[np.float32]]) -> list[Embedding]:
        """Embed prepared pictures, in order.

        Raises:
            InferenceFailed: an embedding is zero or not finite.
        """
        return self._tower.encode({self._image: np.stack(items)})


def load_visual(
    folder: Path,
    model_file: Path,
    open_session: OpenSession,
    transform: ImageTransform | None = None,
    *,
    fast: bool = False,
) -> VisualEncoder:
    """Load an image tower.

    Args:
        folder: the model's folder in Immich's layout, ``<cache>/clip/<name>``.
        model_file: the graph to open, of whichever precision.
        open_session: opens it.
        transform: how pictures are prepared; by default what ``visual/preprocess_cfg.json`` says.
        fast: nearly so, see `ImageTransform.fast`.

    Raises:
        Unavailable: a file is missing or the graph is not understood.
    """
    if transform is None:
        transform = read_transform(folder / "visual" / "preprocess_cfg.json")
    return VisualEncoder(open_session(model_file), replace(transform, fast=fast))


def _image_input(session: Session, size: tuple[int, int]) -> str:
    """The name of the graph's one input, checked against the size of the pictures."""
    if len(session.inputs) != 1 or not _takes_images(session.inputs[0]):
        raise refusal(session, "image", "one input float32 [batch, 3, H, W]")
    (image,) = session.inputs
    for axis, side in zip(image.shape[2:], size, strict=True):
        if axis not in (None, side):
            raise Unavailable(
                tr(
                    "the CLIP image tower takes pictures of {taken} pixels, its configuration says {configured}",
                    taken=f"{image.shape[2]} x {image.shape[3]}",
                    configured=f"{size[0]} x {size[1]}",
                )
            )
    return image.name


def _takes_images(info: TensorInfo) -> bool:
    floats = info.dtype in ("float32", "float16")
    return floats and len(info.shape) == 4 and info.shape[1] in (None, 3)
