"""Checking models long after they were fetched, without a network."""

from pathlib import Path, PurePosixPath

import pytest
from hub_server import Page, running

from immich_ml_cn.sources import BASES, Kind, Preference, RemoteFile, Source
from immich_ml_cn.store.fetch import FetchOptions, State, check_files, fetch_model

PATHS = [PurePosixPath(name) for name in ("detection/model.onnx", "recognition/model.onnx")]
SOURCES = (Source(Kind.MODELSCOPE, tuple(RemoteFile(p, f"{BASES[Kind.MODELSCOPE]}/{p}") for p in PATHS)),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that was fetched."""
    with running() as site:
        for path in PATHS:
            site.add(f"/{path}", Page(str(path).encode() * 100))
        fetch_model(SOURCES, tmp_path, FetchOptions(Preference(bases={Kind.MODELSCOPE: site.base})))
    return tmp_path


def states(folder: Path) -> list[State]:
    checks = check_files(SOURCES, folder)
    assert [check.path for check in checks] == PATHS
    return [check.state for check in checks]


def test_what_was_fetched_is_good(folder: Path) -> None:
    assert states(folder) == [State.GOOD, State.GOOD]


def test_a_flipped_bit_a_lost_end_and_a_lost_file_are_found(folder: Path) -> None:
    data = bytearray((folder / PATHS[0]).read_bytes())
    data[7] ^= 1
    (folder / PATHS[0]).write_bytes(data)
    (folder / PATHS[1]).write_bytes(b"short")
    assert states(folder) == [State.CHANGED, State.CHANGED]

    (folder / PATHS[1]).unlink()
    assert states(folder) == [State.CHANGED, State.MISSING]


def test_files_of_an_immich_volume_are_not_judged(tmp_path: Path) -> None:
    (tmp_path / PATHS[0]).parent.mkdir()
    (tmp_path / PATHS[0]).write_bytes(b"Immich's")

    assert states(tmp_path) == [State.UNKNOWN, State.MISSING]


@pytest.mark.parametrize("damage", ["{", "[]", '{"detection/model.onnx": 3}', "null"])
def test_a_damaged_record_is_no_record(folder: Path, damage: str) -> None:
    (folder / ".checksums.json").write_text(damage)

    assert states(folder) == [State.UNKNOWN, State.UNKNOWN]


def test_a_file_fetched_anew_joins_the_record(folder: Path) -> None:
    (folder / PATHS[1]).unlink()
    with running() as site:
        site.add(f"/{PATHS[1]}", Page(b"new"))
        fetch_model(SOURCES, folder, FetchOptions(Preference(bases={Kind.MODELSCOPE: site.base})))

    assert states(folder) == [State.GOOD, State.GOOD]
