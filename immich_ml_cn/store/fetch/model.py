"""Fetches one model into its folder, from the first source that delivers all of its files."""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import listing, tr
from immich_ml_cn.sources import Archive, HubSnapshot, Kind, Source

from .by_hand import steps
from .checksums import record, recorded_sha256
from .failure import DiskFailed, SourceFailed, writing
from .host_health import HostHealth, host_of
from .lock import locked
from .monitor import TransferMonitor
from .options import FetchOptions
from .partial_file import Fetched
from .progress import NullProgress, Progress
from .source_download import SourceDownload
from .staging import Staging

_logger = logging.getLogger(__name__)

Verify: TypeAlias = Callable[[PurePosixPath, Path], None]
"""Looks into a file, given where it belongs in the model's folder and where it is now; raises `SourceFailed`."""

_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What a fetch did.

    Attributes:
        source: the host that delivered, None when everything was there already.
        files: absolute paths of what was installed.
        bytes: sum of their sizes.
        seconds: from the call to the end, waiting for another process included.
    """

    source: str | None
    files: tuple[Path, ...]
    bytes: int
    seconds: float


def missing_files(sources: Sequence[Source], folder: Path) -> tuple[PurePosixPath, ...]:
    """The files a model still needs, () when any of its sources has been fetched completely.

    Raises:
        DiskFailed: the folder may not be read.
    """
    try:
        lacks = [tuple(path for path in source.required if not (folder / path).is_file()) for source in sources]
    except OSError as error:
        reason = error.strerror
        raise DiskFailed(
            tr("cannot read {path} ({reason}); check who owns the cache folder", path=folder, reason=reason)
        ) from error
    return min(lacks, key=len, default=())


def fetch_model(
    sources: Sequence[Source],
    folder: Path,
    options: FetchOptions,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
    *,
    host_health: HostHealth | None = None,
    verify: Verify | None = None,
    name: str | None = None,
    is_here: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> FetchReport:
    """Bring all files of a model into its folder. Blocks: call it on a worker thread.

    Files that are there are neither replaced nor fetched again, and nothing is written when all are. The others
    appear by atomic rename once all of them are here, graphs at the very end.

    Args:
        sources: from `sources_for`; the first that delivers is enough.
        folder: absolute path of the model's folder.
        cancelled: set it to stop; what has arrived is kept for the next time.
        host_health: share one per process, so that a blocked host is waited for only once.
        verify: looks into the files of a third party before they get their names.
        name: of the model, for people; by default the folder's.
        is_here: asked once it is our turn: whether what the files are for has been made of them meanwhile.
        clock: monotonic seconds.

    Raises:
        Unavailable: one sentence: offline, no source, why each source failed, or what the disk refused.
    """
    started = clock()
    name = name or f"{folder.parent.name}/{folder.name}"
    if sources and not missing_files(sources, folder):
        return FetchReport(None, (), 0, clock() - started)
    if options.offline or not sources:
        raise Unavailable(_cannot(name, sources, folder, options))
    monitor = TransferMonitor(options, progress or NullProgress(), cancelled or threading.Event(), clock=clock)
    with locked(folder, monitor):
        if not missing_files(sources, folder) or is_here():
            return FetchReport(None, (), 0, clock() - started)
        fetch = _Fetch(name, folder, options, monitor, host_health or HostHealth(), verify, clock)
        return fetch.run(sources, started)


def _cannot(name: str, sources: Sequence[Source], folder: Path, options: FetchOptions) -> str:
    if not sources:
        return tr("nobody offers {model} ready-made; export it and place it in {folder}", model=name, folder=folder)
    files = steps(sources, folder, missing_files(sources, folder))
    return tr("{model} is not here and fetching is switched off; place {files}", model=name, files=files)


class _Fetch:
    """One model while it is fetched under its lock."""

    def __init__(
        self,
        name: str,
        folder: Path,
        options: FetchOptions,
        monitor: TransferMonitor,
        host_health: HostHealth,
        verify: Verify | None,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._folder = folder
        self._staging = Staging(folder)
        self._options = options
        self._monitor = monitor
        self._host_health = host_health
        self._verify = verify
        self._clock = clock

    def run(self, sources: Sequence[Source], started: float) -> FetchReport:
        """Try the sources in order, then a public mirror where nobody has chosen."""
        failures: list[tuple[str, SourceFailed]] = []
        report = self._first_to_deliver(self._host_health.order(sources, self._options), failures, started)
        if report is None and (mirrored := self._turn_to_mirror(sources)):
            report = self._first_to_deliver(mirrored, failures, started)
        if report is None:
            self._remove_empty_folders()
            raise self._unavailable(sources, failures)
        return report

    def _first_to_deliver(
        self, sources: Sequence[Source], failures: list[tuple[str, SourceFailed]], started: float
    ) -> FetchReport | None:
        unreached: set[str] = set()
        for source in sources:
            host = host_of(source.kind, self._options)
            if host in unreached:
                continue
            if failures:
                _logger.info("%s: %s %s; trying %s", self._name, *failures[-1], host)
            try:
                downloaded = self._download_from(host, source)
            except SourceFailed as failure:
                if not failure.answered:
                    self._host_health.record(host, False)
                if not failure.reached:
                    unreached.add(host)
                if failure.retry_after is not None:
                    self._host_health.back_off(host, failure.retry_after)
                failures.append((host, failure))
                continue
            if self._host_health.record(host, True):
                _logger.info("%s answers: fetching from there", host)
            installed = self._install(downloaded)
            self._staging.clean({path for each in sources for path in _arriving(each)} | downloaded.keys())
            size = sum(file.size for file in downloaded.values())
            return FetchReport(host, installed, size, self._clock() - started)
        return None

    def _turn_to_mirror(self, sources: Sequence[Source]) -> list[Source]:
        """Switch to the public mirror; the sources that it has, first those whose checksums we know ourselves."""
        options = self._options.last_resort()
        mirrored = [source for source in sources if source.kind is Kind.HUGGINGFACE]
        if options is None or not mirrored:
            return []
        self._options = options
        host = host_of(Kind.HUGGINGFACE, options)
        _logger.warning("%s: no source answers, so a public mirror is asked: %s", self._name, host)
        return sorted(mirrored, key=lambda source: isinstance(source.content, HubSnapshot))

    def _unavailable(self, sources: Sequence[Source], failures: list[tuple[str, SourceFailed]]) -> Unavailable:
        waits = [self._host_health.seconds_left(host) or _RETRY_S for host, _ in failures]
        reasons = {(host, str(failure)): tr("{host} {reason}", host=host, reason=failure) for host, failure in failures}
        return Unavailable(
            tr(
                "cannot fetch {model}: {reasons}; set MACHINE_LEARNING_MODEL_SOURCE to another source or a mirror, "
                "or place {files}",
                model=self._name,
                reasons=listing("; ", reasons.values()),
                files=steps(sources, self._folder, missing_files(sources, self._folder)),
            ),
            retry_after=min(waits, default=_RETRY_S),
        )

    def _download_from(self, host: str, source: Source) -> dict[PurePosixPath, Fetched]:
        """All missing files of a source, unless its host asked not to be asked yet."""
        if seconds := self._host_health.seconds_left(host):
            raise SourceFailed(tr("asked us to wait, for {seconds} s more", seconds=seconds))
        downloaded = SourceDownload(self._name, self._folder, self._staging, self._options, self._monitor).run(source)
        if source.third_party:
            try:
                self._check_third_party(host, downloaded)
            except BaseException:
                for file in downloaded.values():
                    file.path.unlink(missing_ok=True)
                raise
        return downloaded

    def _check_third_party(self, host: str, downloaded: Mapping[PurePosixPath, Fetched]) -> None:
        """Trust on first use: a file must equal the one that was fetched first, and pass `verify`.

        Raises:
            SourceFailed: it is not.
        """
        for path, file in downloaded.items():
            known = recorded_sha256(self._folder, path)
            if known not in (None, file.sha256):
                raise SourceFailed(
                    tr(
                        "offers another {path} than at the first fetch: its sha256 is {sha256}, not {known}",
                        path=path,
                        sha256=file.sha256,
                        known=known,
                    )
                )
            if self._verify is not None:
                self._verify(path, file.path)
            _logger.info(
                "%s/%s comes from a third party, %s, and nobody else knows its checksum: %d bytes, sha256 %s, are "
                "recorded and compared from now on",
                self._name,
                path,
                host,
                file.size,
                file.sha256,
            )

    def _install(self, downloaded: dict[PurePosixPath, Fetched]) -> tuple[Path, ...]:
        """Give the files their names, graphs last: where the graph is, its companions are."""
        record(self._folder, {str(path): (file.size, file.sha256) for path, file in downloaded.items()})
        installed = []
        for path in sorted(downloaded, key=lambda path: path.suffix == ".onnx"):
            target = self._folder / path
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    downloaded[path].path.replace(target)
                    installed.append(target)
                _sync(target.parent)
        return tuple(installed)

    def _remove_empty_folders(self) -> None:
        """Leave no trace of a fetch that brought nothing: an empty folder would pass for a model."""
        self._staging.remove_if_empty()
        with suppress(OSError):  # not empty, or not there
            self._folder.rmdir()


def _arriving(source: Source) -> tuple[PurePosixPath, ...]:
    """The files that may lie in the staging folder because of a source."""
    archive = (source.content.file,) if isinstance(source.content, Archive) else ()
    return (*source.required, *archive)


def _sync(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
