"""PNG files without metadata show the same picture."""

import io

import corpus
import numpy as np
import pytest
from picture_files import encoded, gradient, png_chunk
from PIL import Image

from immich_ml_cn.errors import BadImage
from immich_ml_cn.models import png
from immich_ml_cn.models.images import decode
from immich_ml_cn.models.pieces import joined

LIMIT = 1 << 28


@pytest.mark.parametrize("mode", corpus.FORMATS["PNG"])
def test_the_picture_is_the_same(mode: str) -> None:
    image = gradient(mode)
    transparent = {"transparency": 0} if mode in ("1", "L", "P") else {}
    data = encoded(image, "PNG", **transparent)
    ours, theirs = (Image.open(io.BytesIO(file)) for file in (joined(png.split(data)[0]).read(), data))
    assert ours.mode == theirs.mode
    assert ours.info.get("transparency") == theirs.info.get("transparency")
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("default_image", [False, True])
def test_of_an_animation_the_first_picture_counts(default_image: bool) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=default_image)
    assert decode(data, LIMIT).rgb[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_a_long_comment_or_profile_does_not_keep_a_picture_from_being_read(kind: str) -> None:
    """Pillow refuses more than 1 MB."""
    data = corpus.png_with(corpus.long_metadata(2_000_000)[kind])
    with pytest.raises(ValueError, match="Decompressed data too large"):
        Image.open(io.BytesIO(data)).load()
    assert np.array_equal(decode(data, LIMIT).rgb, np.asarray(gradient()))


def test_exif_is_kept_beside_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(gradient(), "PNG", exif=exif)
    pieces, found = png.split(data)
    assert found == exif.tobytes()[6:]
    assert b"eXIf" not in joined(pieces).read()
    assert decode(data, LIMIT).orientation == 8


def test_more_chunks_than_any_encoder_writes_are_refused() -> None:
    with pytest.raises(BadImage, match="more than 100000 chunks"):
        png.split(corpus.png_with(png_chunk(b"teSt", b"") * 100_000))


@pytest.mark.parametrize("cut", range(8, 120, 3))
def test_a_cut_file_is_read_to_its_end(cut: int) -> None:
    data = encoded(gradient())[:cut]
    assert data.startswith(joined(png.split(data)[0]).read())
