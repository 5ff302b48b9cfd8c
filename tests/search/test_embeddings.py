import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from search_libraries import digest

from immich_ml_cn.search.embeddings import Embeddings, append, compact, map_records, record, void_damaged

DIMENSION = 24
MANY = 1_000_000
Vectors = NDArray[np.float32]


def unit(count: int, seed: int = 0, dimension: int = DIMENSION) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    unit_vectors: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit_vectors


def entries(vectors: Vectors, first: int = 0) -> list[tuple[bytes, Vectors]]:
    return [(digest(first + number), vector) for number, vector in enumerate(vectors)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clip__model.24.f16"


def read(path: Path, limit: int = MANY, threads: int = 1) -> Embeddings:
    return Embeddings(map_records(path, DIMENSION), limit, threads)


def test_what_is_appended_is_read(path: Path) -> None:
    vectors = unit(300)
    append(path, DIMENSION, entries(vectors[:100]))
    append(path, DIMENSION, entries(vectors[100:], first=100))
    photos = read(path)
    assert (len(photos), photos.count, photos.dimension) == (300, 300, DIMENSION)
    rows = photos.find([digest(number) for number in (299, 0, 150)])
    assert rows.tolist() == [299, 0, 150]
    np.testing.assert_array_equal(photos.rows(rows), vectors[rows].astype(np.float16).astype(np.float32))
    assert photos.find([digest(300), bytes(16)]).tolist() == [-1, -1]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_photo_takes_little_more_than_its_numbers() -> None:
    assert record(512).itemsize == 1044


def test_no_file_is_no_photo(path: Path) -> None:
    photos = read(path)
    assert (len(photos), photos.count) == (0, 0)
    assert photos.find([digest(0)]).tolist() == [-1]
    assert photos.scores(np.ones((2, DIMENSION))).shape == (2, 0)
    assert photos.sample(10).shape == (0, DIMENSION)
    assert not path.exists()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dimension", [24, 512, 1536])
def test_scores_are_those_of_the_numbers_in_float16(tmp_path: Path, dimension: int, threads: int) -> None:
    """The bits are moved, not converted: every value of a float16 has to come out, the smallest as well."""
    vectors = unit(1501, dimension=dimension)
    vectors[0] = np.linspace(-1, 1, dimension)
    vectors[1] = np.geomspace(6e-8, 1e-3, dimension)
    vectors[2] = -vectors[1]
    path = tmp_path / "file"
    append(path, dimension, entries(vectors))
    photos = Embeddings(map_records(path, dimension), MANY, threads)
    directions = unit(3, seed=1, dimension=dimension).astype(np.float64)
    expected = vectors.astype(np.float16).astype(np.float64) @ directions.T
    np.testing.assert_allclose(photos.scores(directions), expected.T, atol=2e-6)
    np.testing.assert_allclose(photos.scores(directions[:1])[0, 1:3], expected[1:3, 0], rtol=1e-4)


def test_a_photo_seen_again_counts_once_with_its_last_embedding(path: Path) -> None:
    vectors = unit(5)
    append(path, DIMENSION, entries(vectors))
    append(path, DIMENSION, [(digest(2), vectors[4])])
    photos = read(path)
    assert (len(photos), photos.count, photos.hidden.tolist()) == (6, 5, [2])
    assert photos.find([digest(2)]).tolist() == [5]


def test_what_was_seen_longest_ago_does_not_count_above_the_limit(path: Path) -> None:
    append(path, DIMENSION, entries(unit(10)))
    append(path, DIMENSION, entries(unit(1)))
    photos = read(path, limit=3)
    assert photos.count == 3
    assert photos.find([digest(number) for number in (0, 1, 8, 9)]).tolist() == [10, -1, 8, 9]
    assert len(photos.sample(2)) == 2


def test_a_compacted_file_has_the_live_photos(path: Path) -> None:
    vectors = unit(1000)
    append(path, DIMENSION, entries(vectors))
    assert not compact(path, DIMENSION, MANY)
    before = read(path)
    append(path, DIMENSION, entries(vectors[:400] * -1))
    assert compact(path, DIMENSION, 900)
    photos = read(path)
    assert (len(photos), photos.count) == (900, 900)
    assert photos.find([digest(number) for number in (0, 399, 400, 499, 500, 999)]).tolist() == [
        500,
        899,
        -1,
        -1,
        0,
        499,
    ]
    np.testing.assert_array_equal(photos.rows(np.array([500])), -before.rows(np.array([0])))
    np.testing.assert_array_equal(before.rows(np.array([999])), photos.rows(np.array([499])))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_cut_off_in_the_middle_goes_on_behind_its_last_whole_photo(path: Path) -> None:
    vectors = unit(4)
    append(path, DIMENSION, entries(vectors[:3]))
    os.truncate(path, path.stat().st_size - 7)
    assert len(read(path)) == 2
    append(path, DIMENSION, entries(vectors[3:], first=3))
    photos = read(path)
    assert photos.find([digest(number) for number in range(4)]).tolist() == [0, 1, -1, 2]


def test_spoiled_photos_at_the_end_are_void(path: Path) -> None:
    append(path, DIMENSION, entries(unit(5)))
    size = record(DIMENSION).itemsize
    with path.open("r+b") as file:
        file.seek(3 * size + 30)
        file.write(bytes(10))
    open_before = read(path)
    assert void_damaged(path, DIMENSION) == 1
    assert void_damaged(path, DIMENSION) == 0
    photos = read(path)
    assert (photos.count, photos.hidden.tolist()) == (4, [3])
    assert len(open_before.rows(np.arange(5))) == 5


def test_a_full_disk_takes_no_whole_photo_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may have it mapped: to look at it would end their process."""
    append(path, DIMENSION, entries(unit(3)))
    size = path.stat().st_size
    write = os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if offset > size:
            raise OSError(28, "No space left on device")
        return write(file, data[:100], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            append(path, DIMENSION, entries(unit(2), first=3))
    mapped = read(path)
    assert mapped.count == 3 + 100 // record(DIMENSION).itemsize
    append(path, DIMENSION, entries(unit(2), first=3))
    assert len(mapped.rows(np.arange(len(mapped)))) == len(mapped)
    assert read(path).count == 5
