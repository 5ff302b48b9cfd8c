"""A picture as the OCR models see it: opaque, 8 bits; RGB until it becomes a tensor, which is BGR."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from immich_ml_cn.models.images import Picture
from immich_ml_cn.models.pixel_memory import allocated, bands

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
        return _lay_over(image)
    if image.mode.startswith("I;16"):
        return _high_bytes(image)
    return picture.rgb


def _high_bytes(image: Image.Image) -> NDArray[np.uint8]:
    rgb = _empty(image)
    for top, band in bands(image):
        rgb[top : top + band.height] = (np.asarray(band) >> 8)[:, :, None]
    return rgb


def _empty(image: Image.Image) -> NDArray[np.uint8]:
    return allocated(image.height * image.width * 3).reshape(image.height, image.width, 3)


def _lay_over(image: Image.Image) -> NDArray[np.uint8]:
    """In bands: as a whole it would take ten times the memory of the picture."""
    background = np.float32(255 if _is_dark(image) else 0)
    rgb = _empty(image)
    for top, band in bands(image):
        rgba = np.asarray(band.convert("RGBA"))
        opacity = (rgba[:, :, 3].astype(np.float32) / 255)[:, :, None]
        rgb[top : top + band.height] = rgba[:, :, :3].astype(np.float32) * opacity + background * (1 - opacity)
    return rgb


def _is_dark(image: Image.Image) -> bool:
    """Whether what is visible is dark on average, or nothing is."""
    luma, count = 0.0, 0
    for _, band in bands(image):
        rgba = np.asarray(band.convert("RGBA"))
        visible = rgba[rgba[:, :, 3] > 0][:, :3]
        luma, count = luma + float(visible.sum(axis=0, dtype=np.int64) @ _LUMA), count + len(visible)
    return luma < 128 * count or count == 0


def to_tensor(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (H, W, 3), RGB → float32 (3, H, W), BGR, x / 127.5 - 1, range -1…1."""
    return np.asarray(cv2.dnn.blobFromImage(image, 1 / 127.5, mean=(127.5,) * 3, swapRB=True)[0], np.float32)
