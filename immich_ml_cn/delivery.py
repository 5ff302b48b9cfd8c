"""Bringing a model's missing files into the cache without holding up the event loop."""

import asyncio
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from . import fetch, sources
from .settings import Settings

logger = logging.getLogger(__name__)

FETCHES_AT_ONCE: Final = 3


class Delivery:
    """Fetches models on threads of its own, one fetch per half of a model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._options = fetch_options(settings)
        self._memory = fetch.Memory()
        self._cancelled = threading.Event()
        self._executor = ThreadPoolExecutor(FETCHES_AT_ONCE, thread_name_prefix="fetch")

    async def bring(self, task: str, model: str, kind: str) -> None:
        """Make sure that the files of one half of a model are in the cache.

        Raises:
            Unavailable: they are not and cannot be had; the message says what was tried and what to do.
        """
        await asyncio.get_running_loop().run_in_executor(self._executor, self._bring, task, model, kind)

    def close(self) -> None:
        """Stop what is being fetched; what has arrived is kept for the next time."""
        self._cancelled.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _bring(self, task: str, model: str, kind: str) -> None:
        revision = self._settings.model_revision
        folder = self._settings.cache_folder / sources.folder_for(task, model, kind, revision=revision)
        if (folder / kind / "model.onnx").is_file():
            return
        offered = sources.sources_for(
            task, model, kind, organization=self._settings.model_organization, revision=revision
        )
        report = fetch.fetch_model(
            offered,
            folder.absolute(),
            self._options,
            fetch.show_on(sys.stderr, logger),
            self._cancelled,
            memory=self._memory,
            name=f"{task}/{model}/{kind}",
        )
        if report.source is not None:
            logger.info(
                "fetched %s/%s/%s from %s: %.0f MB in %.0f s",
                task,
                model,
                kind,
                report.source,
                report.bytes / 1e6,
                report.seconds,
            )


def fetch_options(settings: Settings) -> fetch.FetchOptions:
    """How to fetch, from the settings."""
    return fetch.FetchOptions(
        preference=settings.model_source,
        hf_endpoint=settings.hf_endpoint or None,
        hf_token=settings.hf_token or None,
        offline=settings.hf_hub_offline,
    )
