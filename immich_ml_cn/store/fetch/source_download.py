"""The files of one source on their way into the staging folder of a model."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from immich_ml_cn.sources import Archive, HubSnapshot, Member, RemoteFile, Source

from .archive import unpack
from .failure import SourceFailed, WrongBytes
from .hub import hub_client, list_files
from .monitor import TransferMonitor
from .options import FetchOptions
from .partial_file import Expected, Fetched, PartialFile, find_complete
from .staging import Staging
from .transfer import Address, new_client, transfer

if TYPE_CHECKING:
    import httpx2

_logger = logging.getLogger(__name__)


class SourceDownload:
    """Downloads what a model's folder lacks from one source."""

    def __init__(
        self, name: str, folder: Path, staging: Staging, options: FetchOptions, monitor: TransferMonitor
    ) -> None:
        """
        Args:
            name: of the model, for people.
            folder: the model's; what is there is not downloaded.
            staging: where the files arrive.
        """
        self._name = name
        self._folder = folder
        self._staging = staging
        self._options = options
        self._monitor = monitor

    def run(self, source: Source) -> dict[PurePosixPath, Fetched]:
        """Download the missing files, whole and checked, into the staging folder.

        Raises:
            SourceFailed: the source does not deliver one of them.
            DiskFailed: they cannot be written, or do not fit.
        """
        match source.content:
            case HubSnapshot() as snapshot:
                return self._download_hub(snapshot)
            case Archive() as archive:
                return self._download_archive(source, archive)
            case files:
                return self._download_files(source, files)

    def _download_hub(self, snapshot: HubSnapshot) -> dict[PurePosixPath, Fetched]:
        files = [file for file in list_files(snapshot, self._options) if self._is_missing(file.path)]
        self._require_space(file.expected.size for file in files)
        return {file.path: self._download_file(hub_client(), file.path, file.address, file.expected) for file in files}

    def _download_files(self, source: Source, files: Sequence[RemoteFile]) -> dict[PurePosixPath, Fetched]:
        wanted = {file.path: file for file in files if self._is_missing(file.path)}
        expected = {path: Expected(file.size, file.sha256) for path, file in wanted.items()}
        self._require_space(file.size for file in wanted.values())
        with new_client() as client:
            return {
                path: self._download_file(client, path, self._at(source, file.url), expected[path])
                for path, file in wanted.items()
            }

    def _download_archive(self, source: Source, archive: Archive) -> dict[PurePosixPath, Fetched]:
        members = {member.path: member for member in archive.members if self._is_missing(member.path)}
        self._require_space((archive.size, *(member.size for member in members.values())))
        expected = Expected(archive.size, archive.sha256)
        with new_client() as client:
            fetched = self._download_file(client, archive.file, self._at(source, archive.url), expected)
        try:
            return {path: self._unpack(fetched.path, member) for path, member in members.items()}
        except SourceFailed:
            fetched.path.unlink(missing_ok=True)
            raise

    def _unpack(self, archive: Path, member: Member) -> Fetched:
        part = self._staging.part(member.path, member.sha256 or member.name)
        return unpack(archive, member, part, self._monitor)

    def _download_file(
        self, client: "httpx2.Client", path: PurePosixPath, address: Address, expected: Expected
    ) -> Fetched:
        path_of_part = self._staging.part(path, expected.identity or address.url)
        if (whole := find_complete(path_of_part, expected)) is not None:
            return whole
        with PartialFile(path_of_part, f"{self._name}/{path}", expected, self._monitor) as part:
            resumed = part.size > 0
            try:
                return transfer(client, address, part, self._options, self._monitor)
            except WrongBytes:
                if not resumed:
                    raise
        _logger.info("%s/%s: what was here from before was wrong; beginning again", self._name, path)
        return self._download_file(client, path, address, expected)

    def _at(self, source: Source, url: str) -> Address:
        return Address(self._options.address(source.kind, url))

    def _is_missing(self, path: PurePosixPath) -> bool:
        return not (self._folder / path).exists()

    def _require_space(self, sizes: Iterable[int | None]) -> None:
        """Raises DiskFailed when what is known to come does not fit."""
        self._staging.require_space(self._name, sum(size or 0 for size in sizes))
