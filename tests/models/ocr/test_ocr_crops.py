import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rapidocr.utils.process_img import get_rotate_crop_image

from immich_ml_cn.models.ocr.crops import crop_line, with_margin

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def slanted(width: float, height: float, angle: float) -> NDArray[np.float32]:
    box = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    return (box @ turn[:, :2].T + turn[:, 2] + [40, 40]).astype(np.float32)


@pytest.mark.parametrize("angle", [0, 0.5, 7, -20, 90])
@pytest.mark.parametrize("size", [(60, 20), (20, 29), (20, 30), (20, 60), (4, 9), (9, 4)])
def test_crops_are_rapidocrs(size: tuple[float, float], angle: float) -> None:
    box = slanted(*size, angle)
    np.testing.assert_array_equal(crop_line(IMAGE, box), get_rotate_crop_image(IMAGE, box.copy()))


def test_a_box_at_the_border() -> None:
    box = np.array([[100, 90], [159, 90], [159, 119], [100, 119]], np.float32)
    np.testing.assert_array_equal(crop_line(IMAGE, box), get_rotate_crop_image(IMAGE, box.copy()))


@pytest.mark.parametrize("angle", [0, 7, 90])
def test_a_picture_longer_than_opencv_can_warp(angle: float) -> None:
    box = slanted(60, 20, angle).round()
    panorama = np.zeros((120, 40_000, 3), np.uint8)
    panorama[:, 35_000:35_160] = IMAGE
    np.testing.assert_array_equal(crop_line(panorama, box + np.array([35_000, 0], np.float32)), crop_line(IMAGE, box))


def test_a_line_longer_than_opencv_can_warp() -> None:
    box = np.array([[0, 10], [39_000, 20], [39_000, 60], [0, 50]], np.float32)
    assert crop_line(np.zeros((120, 40_000, 3), np.uint8), box).shape == (20, 19_500, 3)


def test_a_vertical_line_is_turned_counter_clockwise() -> None:
    box = np.array([[10, 10], [30, 10], [30, 70], [10, 70]], np.float32)
    np.testing.assert_array_equal(crop_line(IMAGE, box), np.rot90(IMAGE[10:70, 10:30]))


def test_a_degenerate_box_is_one_pixel() -> None:
    box = np.full((4, 2), 50, np.float32)
    assert crop_line(IMAGE, box).shape == (1, 1, 3)


def test_a_margin_has_the_colours_of_the_edges() -> None:
    line = IMAGE[:48, :100]
    wider = with_margin(line)
    assert wider.shape == (60, 112, 3)
    np.testing.assert_array_equal(wider[6:-6, 6:-6], line)
    np.testing.assert_array_equal(wider[:6, 6:-6], np.repeat(line[:1], 6, axis=0))
    np.testing.assert_array_equal(wider[6:-6, -6:], np.repeat(line[:, -1:], 6, axis=1))
    assert with_margin(IMAGE[:1, :1]).shape == (3, 3, 3)
