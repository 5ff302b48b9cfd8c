"""A picture as the OCR models see it: opaque, 8 bits; RGB until it becomes a tensor, which is BGR."""

import cv2
import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.models.images import Picture

# ITU-R BT.601, in RGB order.
_LUMA = np.array([0.299, 0.587, 0.114])


def opaque_rgb(picture: Picture) -> NDArray[np.uint8]:
    """The pixels as uint8 (height, width, 3), RGB, 0…255.

    Text drawn on transparency would vanish if alpha were dropped, so it is laid over white or
    black, whichever contrasts with what is visible (RapidOCR's rule for RGBA; its rule for grey
    with alpha is replaced by the same one).
    """
    image = picture.image
    if image.has_transparency_data:
        return _lay_over(np.asarray(image.convert("RGBA")))
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return picture.rgb


def _lay_over(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = rgba[:, :, 3]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[:, :, :3])
    visible = rgba[alpha > 0][:, :3]
    dark = visible.size == 0 or float(np.mean(visible @ _LUMA)) < 128
    background = np.float32(255 if dark else 0)
    opacity = (alpha.astype(np.float32) / 255)[:, :, None]
    rgb = rgba[:, :, :3].astype(np.float32) * opacity + background * (1 - opacity)
    return rgb.astype(np.uint8)


def to_tensor(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (H, W, 3), RGB → float32 (3, H, W), BGR, x / 127.5 - 1, range -1…1."""
    return np.asarray(cv2.dnn.blobFromImage(image, 1 / 127.5, mean=(127.5,) * 3, swapRB=True)[0], np.float32)
