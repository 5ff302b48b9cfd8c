"""The vectors, ranked by a real PostgreSQL with pgvector. Without it, `test_steering` ranks by NumPy alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import postgres
import pytest
from postgres import Photos, Postgres
from search_libraries import Kind, made_up
from test_steering import COUNTS, Indexed

pytestmark = pytest.mark.skipif(postgres.MISSING, reason=postgres.WHY)

IMMICHS_EF = 40
"""pgvector's default, which Immich leaves."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres.running() as started:
        yield started


class Library:
    """A library in our index and in PostgreSQL."""

    def __init__(self, server: Postgres, folder: Path, count: int, dimension: int) -> None:
        self.index = Indexed(count, dimension)
        self.photos = Photos(server, f"photos_{count}_{dimension}", self.index.library.vectors, folder)

    def shares(self, kind: Kind, count: int, *, ef: int | None = None, draws: int = 2) -> list[float]:
        """Of `count` matches, how many stand before every other photo, in several draws."""
        shares = []
        for seed in range(draws):
            matches = self.index.library.with_text(kind, count, np.random.default_rng(seed))
            first = self.photos.first(self.index.steer(matches).vector, count, ef=ef)
            shares.append(len(set(first) & set(matches.tolist())) / count)
        return shares


@pytest.fixture(scope="module")
def usual(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """30,000 photos under a model of 512 dimensions."""
    return Library(server, tmp_path_factory.mktemp("usual"), 30_000, 512)


@pytest.fixture(scope="module")
def small(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """3,000 photos, with an approximate index."""
    library = Library(server, tmp_path_factory.mktemp("small"), 3000, 512)
    library.photos.build_index()
    return library


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("count", COUNTS)
def test_every_match_stands_before_every_other_photo(usual: Library, kind: Kind, count: int) -> None:
    assert set(usual.shares(kind, count)) == {1.0}


@pytest.mark.parametrize("dimension", [768, 1024])
def test_as_many_as_a_sixteenth_of_the_dimensions(server: Postgres, tmp_path: Path, dimension: int) -> None:
    library = Library(server, tmp_path, 4000, dimension)
    for kind in Kind:
        assert library.shares(kind, dimension // 16, draws=1) == [1.0]


def test_an_approximate_index_finds_ten_matches_of_a_burst(small: Library) -> None:
    assert set(small.shares(Kind.BURST, 10, ef=IMMICHS_EF)) == {1.0}


def test_an_approximate_index_finds_most_of_ten_matches_of_a_topic(small: Library) -> None:
    """Those far from the others it may not reach: it walks from photo to photo, and keeps 40 in sight."""
    assert np.mean(small.shares(Kind.TOPIC, 5, ef=IMMICHS_EF, draws=10)) >= 0.9
    assert np.mean(small.shares(Kind.TOPIC, 10, ef=IMMICHS_EF, draws=10)) >= 0.7


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("count", [1, 5, 10])
def test_an_approximate_index_that_looks_further_finds_every_match(small: Library, kind: Kind, count: int) -> None:
    assert set(small.shares(kind, count, ef=1000)) == {1.0}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_approximate_index_of_30000_photos(usual: Library) -> None:
    """Means of ten draws: 0.95 for bursts, 0.74 for topics, and 0.94 for random ones where it looks further."""
    usual.photos.build_index()
    assert set(usual.shares(Kind.BURST, 5, ef=IMMICHS_EF, draws=10)) == {1.0}
    assert np.mean(usual.shares(Kind.BURST, 10, ef=IMMICHS_EF, draws=10)) >= 0.9, "graphs of this size lose some"
    assert np.mean(usual.shares(Kind.TOPIC, 10, ef=IMMICHS_EF, draws=10)) >= 0.65
    for kind in Kind:
        for count in (1, 5, 10):
            least = 0.88 if kind is Kind.RANDOM else 1.0
            assert np.mean(usual.shares(kind, count, ef=1000, draws=10)) >= least, (kind, count)


def test_the_library_in_postgres_is_the_made_up_one(small: Library) -> None:
    vectors = made_up(3000, 512).vectors
    expected = np.argsort(-(vectors @ vectors[7]))[:20].tolist()
    assert small.photos.first(vectors[7], 20) == expected
