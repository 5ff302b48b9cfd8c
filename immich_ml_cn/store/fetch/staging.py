"""The folder, in a model's, in which files arrive before they get their names."""

import hashlib
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from immich_ml_cn.messages import tr

from .failure import DiskFailed, writing

_NAME: Final = ".partial"


class Staging:
    """What of a model has arrived, whole or in part; the model's folder must be locked."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: of the model.
        """
        self._folder = folder
        self._staging = folder / _NAME

    def part(self, path: PurePosixPath, identity: str) -> Path:
        """A name for the arriving bytes: another version of a file, or of another source, is never glued to it."""
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return self._staging / f"{_prefix(path)}.{digest}.part"

    def require_space(self, model: str, size: int) -> None:
        """Make the folder for `size` bytes, of which those that have arrived already are a part.

        Args:
            model: its name, for people.

        Raises:
            DiskFailed: they do not fit, or the folder cannot be made.
        """
        with writing(self._staging):
            self._staging.mkdir(parents=True, exist_ok=True)
            needed = size - sum(file.stat().st_size for file in self._staging.iterdir())
            free = shutil.disk_usage(self._staging).free
        if needed > free:
            raise DiskFailed(
                tr(
                    "{model} needs {needed:.0f} MB more in {folder}, where only {free:.0f} MB are free; free some "
                    "space, nothing was deleted",
                    model=model,
                    needed=needed / 1e6,
                    folder=self._folder,
                    free=free / 1e6,
                )
            )

    def clean(self, paths: Iterable[PurePosixPath]) -> None:
        """Remove what has arrived of these files, of any version and source; others may still be wanted.

        Raises:
            DiskFailed: it cannot be removed.
        """
        prefixes = set(map(_prefix, paths))
        with writing(self._staging):
            for file in self._staging.iterdir() if self._staging.is_dir() else ():
                if file.stem.rpartition(".")[0] in prefixes:
                    file.unlink()
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Remove the folder unless something is in it."""
        with suppress(OSError):  # not empty, or not there
            self._staging.rmdir()


def _prefix(path: PurePosixPath) -> str:
    return "-".join(path.parts)
