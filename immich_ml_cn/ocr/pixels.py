"""A picture as the OCR models see it: opaque, 8 bits, BGR."""

import cv2
import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.images import Picture

# ITU-R BT.601, in RGB order.
_LUMA = np.array([0.299, 0.587, 0.114])


def opaque_bgr(picture: Picture) -> NDArray[np.uint8]:
    """The pixels as uint8 (height, width, 3), BGR, 0…255.

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
    return np.asarray(cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR), np.uint8)


def _lay_over(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = rgba[:, :, 3]
    if alpha.min() == 255:
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGR), np.uint8)
    visible = rgba[alpha > 0][:, :3]
    dark = visible.size == 0 or float(np.mean(visible @ _LUMA)) < 128
    background = np.float32(255 if dark else 0)
    opacity = (alpha.astype(np.float32) / 255)[:, :, None]
    rgb = rgba[:, :, :3].astype(np.float32) * opacity + background * (1 - opacity)
    return np.ascontiguousarray(rgb.astype(np.uint8)[:, :, ::-1])


def to_tensor(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (H, W, 3) → float32 (3, H, W), x / 127.5 - 1, range -1…1, channels in the same order."""
    return np.asarray(cv2.dnn.blobFromImage(image, 1 / 127.5, mean=(127.5,) * 3)[0], np.float32)
