"""Chinese-CLIP from its official checkpoints: found or fetched, converted, and deleted again."""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Final

from immich_ml_cn import sources
from immich_ml_cn.settings import Settings

from . import fetch
from .conversion.architecture import ARCHITECTURES
from .conversion.convert import Request
from .conversion.graph import Precision
from .conversion.process import RefusedCheckpoint, convert_in_child
from .fetch.checksums import forget, recorded
from .fetch.failure import writing
from .fetch.lock import locked
from .fetch.monitor import TransferMonitor
from .fetch.staging import Staging

logger = logging.getLogger(__name__)

VOCABULARY: Final = Path(__file__).parents[1] / "models" / "clip" / "vocab.txt"
"""Of every Chinese-CLIP: a copy lies beside each text tower, so that its folder says all that there is to know."""


class CheckpointConverter:
    """Makes the graphs of Chinese-CLIPs; safe from several threads."""

    def __init__(
        self,
        settings: Settings,
        options: fetch.FetchOptions,
        host_health: fetch.HostHealth,
        cancelled: threading.Event,
    ) -> None:
        """
        Args:
            cancelled: set it to stop what is under way.
        """
        self._settings = settings
        self._options = options
        self._host_health = host_health
        self._cancelled = cancelled
        self._refused: dict[str, RefusedCheckpoint] = {}

    def convert(
        self,
        model: str,
        folder: Path,
        precisions: tuple[Precision, ...],
        progress: fetch.Progress,
        is_here: Callable[[], bool],
    ) -> None:
        """Find or fetch the checkpoint of a model and make its graphs, unless they are here once it is our turn.

        Args:
            folder: absolute path of the model's folder.
            is_here: whether what is wanted has been made, by another thread or process.

        Raises:
            Unavailable: there is no checkpoint and none can be had, or it cannot be converted.
        """
        if (refused := self._refused.get(model)) is not None:
            raise refused
        checkpoint = self.find(model, folder)
        if checkpoint is None and not is_here():
            self._fetch(model, folder, progress, is_here)
            checkpoint = self.find(model, folder)
        with self._locked(folder):
            if checkpoint is None or is_here():
                return
            request = Request(checkpoint, folder, ARCHITECTURES[model], precisions, VOCABULARY)
            self._convert(model, request, progress)

    def find(self, model: str, folder: Path) -> Path | None:
        """A checkpoint that is here: in ``CLIP_DOWNLOAD_ROOT``, in the model's folder or in ``<cache>/checkpoints``."""
        names = sources.checkpoint_names(model)
        root = self._settings.clip_download_root
        candidates = [root / names[0]] if root is not None else []
        candidates += [folder / name for name in names]
        candidates += [self._settings.cache_folder / "checkpoints" / model / name for name in names]
        return next((candidate.absolute() for candidate in candidates if candidate.is_file()), None)

    def discard_partial(self, model: str, folder: Path) -> None:
        """Remove what has arrived of a model's checkpoint: its graphs came another way.

        Raises:
            DiskFailed: it cannot be removed.
        """
        with self._locked(folder):
            Staging(folder).clean(map(PurePosixPath, sources.checkpoint_names(model)))

    def _locked(self, folder: Path) -> AbstractContextManager[None]:
        return locked(folder, TransferMonitor(self._options, fetch.NullProgress(), self._cancelled))

    def _fetch(self, model: str, folder: Path, progress: fetch.Progress, is_here: Callable[[], bool]) -> None:
        report = fetch.fetch_model(
            sources.checkpoint_sources(model),
            folder,
            self._options,
            progress,
            self._cancelled,
            host_health=self._host_health,
            name=f"clip/{model}",
            is_here=is_here,
        )
        if report.source is not None:
            size, seconds = report.bytes / 1e6, report.seconds
            logger.info("fetched the checkpoint of %s from %s: %.0f MB in %.0f s", model, report.source, size, seconds)

    def _convert(self, model: str, request: Request, progress: fetch.Progress) -> None:
        logger.info("converting %s for %s", request.checkpoint, model)
        try:
            made = convert_in_child(request, f"clip/{model}", progress, self._cancelled)
        except RefusedCheckpoint as refused:
            if self._is_fetched(request):
                # Asking the same source again would only bring the same bytes again.
                self._refused[model] = refused
                self._delete(request)
            raise
        logger.info("converted %s: %s", model, ", ".join(map(str, made)))
        if self._is_fetched(request) and not self._settings.keep_checkpoints:
            self._delete(request)

    def _is_fetched(self, request: Request) -> bool:
        """Whether a checkpoint was brought by us; others belong to whoever placed them."""
        checkpoint = request.checkpoint
        return checkpoint.parent == request.folder and checkpoint.name in recorded(request.folder)

    def _delete(self, request: Request) -> None:
        with writing(request.checkpoint):
            request.checkpoint.unlink()
        forget(request.folder, (request.checkpoint.name,))
