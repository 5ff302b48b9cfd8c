"""Remembering what each fetched file was, so that it can be checked years later without a network."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from immich_ml_cn.messages import tr
from immich_ml_cn.sources import Source

from .failure import DiskFailed, writing

_NAME = ".checksums.json"


class State(StrEnum):
    """What a check of a file found."""

    GOOD = "good"
    MISSING = "missing"
    CHANGED = "changed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file of a model.

    Attributes:
        path: relative to the model's folder.
        state: ``unknown`` for a file that we did not fetch, e.g. of an Immich volume (Immich rewrites some of its own).
    """

    path: PurePosixPath
    state: State


def record(folder: Path, files: Mapping[str, tuple[int, str]]) -> None:
    """Add files to the record of a model's folder.

    Args:
        files: path relative to the folder → (bytes, sha256).

    Raises:
        DiskFailed: the folder cannot be written.
    """
    _write(folder, {**_read(folder), **{path: {"size": size, "sha256": sha} for path, (size, sha) in files.items()}})


def forget(folder: Path, paths: Iterable[str]) -> None:
    """Take files that were deleted off the record.

    Raises:
        DiskFailed: the folder cannot be written.
    """
    gone = set(paths)
    _write(folder, {path: entry for path, entry in _read(folder).items() if path not in gone})


def recorded(folder: Path) -> tuple[str, ...]:
    """The files of a model that were fetched or made, relative to its folder."""
    return tuple(_read(folder))


def recorded_sha256(folder: Path, path: PurePosixPath) -> str | None:
    """The sha256 of a file when it was fetched first, None where it never was."""
    sha256: str | None = _read(folder).get(str(path), {}).get("sha256")
    return sha256


def check_files(sources: Sequence[Source], folder: Path) -> tuple[FileCheck, ...]:
    """Read every file of a model and compare it with what was fetched; takes about a second per gigabyte.

    Raises:
        DiskFailed: the folder may not be read.
    """
    known = _read(folder)
    required = {str(path) for source in sources[:1] for path in source.required}
    try:
        return tuple(
            FileCheck(PurePosixPath(path), _state(folder / path, known.get(path)))
            for path in sorted(required | set(known))
        )
    except OSError as error:
        raise DiskFailed(tr("cannot read {path} ({reason})", path=folder, reason=error.strerror)) from error


def _state(path: Path, known: Mapping[str, Any] | None) -> State:
    if not path.is_file():
        return State.MISSING
    if known is None:
        return State.UNKNOWN
    if path.stat().st_size != known.get("size"):
        return State.CHANGED
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return State.GOOD if digest == known.get("sha256") else State.CHANGED


def _write(folder: Path, known: Mapping[str, Any]) -> None:
    new = folder / f"{_NAME}.new"
    with writing(folder / _NAME):
        new.write_text(json.dumps(known, indent=1, sort_keys=True))
        new.replace(folder / _NAME)


def _read(folder: Path) -> dict[str, Any]:
    """The record; {} where there is none or it is damaged."""
    try:
        known = json.loads((folder / _NAME).read_text())
    except (OSError, ValueError):
        return {}
    return {path: entry for path, entry in known.items() if isinstance(entry, dict)} if isinstance(known, dict) else {}
