"""Alignment: scikit-image's transform and insightface's crop are the reference, to the bit."""

import numpy as np
import pytest
from face_models import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from immich_ml_cn.models.faces.alignment import _TEMPLATE, align, similarity

# Both deprecate what insightface calls.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

POINTS = arrays(np.float32, (5, 2), elements=st.floats(-2000, 5000, width=32))


def landmarks_about(x: float, y: float, size: float, angle: float = 0.0) -> NDArray[np.float32]:
    """Five landmarks of a face of about `size` pixels at (x, y), turned by `angle` degrees, a little uneven."""
    uneven = np.random.default_rng(3).normal(0, 1.5, (5, 2))
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (_TEMPLATE + uneven - 56) @ rotation.T * size / 112 + (x, y)
    return np.asarray(points, dtype=np.float32)


class TestSimilarity:
    @given(points=POINTS)
    @settings(max_examples=150, deadline=None)
    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_is_that_of_scikit_image(self, points: NDArray[np.float32]) -> None:
        from skimage.transform import SimilarityTransform

        reference = SimilarityTransform()
        reference.estimate(points, _TEMPLATE)
        ours = similarity(points, _TEMPLATE)
        if ours is None:
            assert not np.isfinite(reference.params).all()
        else:
            np.testing.assert_array_equal(ours, reference.params[:2])

    @given(angle=st.floats(-3.1, 3.1), scale=st.floats(0.01, 50), x=st.floats(-500, 500), y=st.floats(-500, 500))
    @settings(max_examples=80, deadline=None)
    def test_finds_the_transform_that_was_applied(self, angle: float, scale: float, x: float, y: float) -> None:
        source = _TEMPLATE.astype(np.float64)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = similarity(source, source @ turn.T + (x, y))
        assert matrix is not None
        np.testing.assert_allclose(matrix, np.column_stack((turn, (x, y))), rtol=1e-6, atol=1e-6 * (1 + scale))

    def test_a_mirrored_face_is_not_mirrored_back(self) -> None:
        matrix = similarity(_TEMPLATE * np.array([-1, 1], np.float32), _TEMPLATE)
        assert matrix is not None
        assert np.linalg.det(matrix[:, :2]) > 0

    @pytest.mark.parametrize("value", [0.0, 7.25, np.nan, np.inf, -np.inf, 3e38])
    def test_points_that_determine_none(self, value: float) -> None:
        assert similarity(np.full((5, 2), value, dtype=np.float32), _TEMPLATE) is None


class TestAlign:
    @pytest.mark.parametrize("name", ["astronaut", "coffee", "tall-rocket", "chelsea", "t1"])
    @pytest.mark.parametrize(
        ("x", "y", "size", "angle"),
        [(220, 120, 150, 0), (100, 100, 60, 35), (250, 150, 300, -120), (5, 5, 120, 10), (9000, 9000, 100, 0)],
    )
    def test_is_insightfaces_crop(self, name: str, x: float, y: float, size: float, angle: float) -> None:
        from insightface.utils.face_align import norm_crop

        pixels, landmarks = photo(name).rgb, landmarks_about(x, y, size, angle)
        ours = align(pixels, landmarks)
        assert ours.dtype == np.uint8
        assert ours.shape == (112, 112, 3)
        np.testing.assert_array_equal(ours, norm_crop(pixels, landmarks))

    @pytest.mark.parametrize("value", [0.0, 50.0, np.nan, np.inf, 3e38])
    def test_landmarks_that_are_no_face_give_a_black_crop(self, value: float) -> None:
        crop = align(photo("coffee").rgb, np.full((5, 2), value, dtype=np.float32))
        np.testing.assert_array_equal(crop, np.zeros((112, 112, 3), dtype=np.uint8))

    @given(points=POINTS)
    @settings(max_examples=60, deadline=None)
    def test_any_finite_landmarks_give_a_crop(self, points: NDArray[np.float32]) -> None:
        assert align(photo("chelsea").rgb, points).shape == (112, 112, 3)

    @pytest.mark.parametrize("turned", [False, True])
    def test_pictures_longer_than_opencv_can_address(self, turned: bool) -> None:
        part = photo("coffee").rgb
        far = 39_000
        huge = np.zeros((400, 40_000, 3), dtype=np.uint8)
        huge[:, far : far + 600] = part
        near_landmarks = landmarks_about(300, 200, 150, 20)
        far_landmarks = near_landmarks + np.array([far, 0], np.float32)
        if turned:
            part, huge = part.transpose(1, 0, 2), huge.transpose(1, 0, 2)
            near_landmarks, far_landmarks = near_landmarks[:, ::-1], far_landmarks[:, ::-1]
        near, away = align(part, near_landmarks), align(huge, far_landmarks)
        assert near.std() > 20
        # Half a thousandth of a pixel is what float32 has left at 39,000.
        assert np.abs(near.astype(int) - away.astype(int)).mean() < 0.5

    def test_beside_a_picture_longer_than_opencv_can_address(self) -> None:
        huge = np.full((4, 40_000, 3), 255, dtype=np.uint8)
        assert not align(huge, landmarks_about(20_000, 9_000, 100)).any()
        assert not align(huge, landmarks_about(20_000, 0, 90_000)).any()
