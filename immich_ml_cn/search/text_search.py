"""Text search in Immich's own search bar, around the pipeline.

What the pipeline answers for pictures is kept; a query for text is answered with a vector that ranks the photos with it
first. Everything else passes through untouched. The index is imported when it is first needed.
"""

import asyncio
import hashlib
import logging
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from immich_ml_cn.metrics import Gauge, Metrics
from immich_ml_cn.models.results import Answer, ReadText
from immich_ml_cn.serving.catalogue import Catalogue
from immich_ml_cn.serving.concurrency import first_failure
from immich_ml_cn.serving.cpu_pool import CpuPool
from immich_ml_cn.serving.pipeline import Predictor
from immich_ml_cn.serving.spec import AnyModel, ModelSpec
from immich_ml_cn.serving.tasks import ClipTextual, Tasks

from .query import Query, for_text, parse, plain

if TYPE_CHECKING:
    from .index import Index
    from .searcher import Found

logger = logging.getLogger(__name__)

DIGEST_BYTES: Final = 16
NO_WORDS: Final = " "
"""What CLIP is asked where a query is nothing but a prefix."""


@dataclass(frozen=True, slots=True)
class LastSearch:
    """How the last search for text went.

    Attributes:
        matches: photos with the text and an embedding.
        placed: of these, how many come first.
        seconds: that it took, without CLIP.
    """

    matches: int = 0
    placed: int = 0
    seconds: float = 0.0


class TextSearch:
    """Answers requests as the pipeline does, and those for text from the index."""

    def __init__(
        self,
        pipeline: Predictor,
        catalogue: Catalogue,
        *,
        cache: Path,
        max_photos: int,
        plain_queries: bool,
        pool: CpuPool,
        metrics: Metrics,
        threads: int = 1,
        time_limit_s: float = 1.0,
    ) -> None:
        """
        Args:
            pipeline: answers everything else.
            catalogue: knows which model a name means.
            cache: the folder in which the index has its own.
            max_photos: that are kept.
            plain_queries: whether those without a prefix search in texts, too.
            pool: where the digests of pictures are made.
            threads: that score photos.
            time_limit_s: seconds in which a query vector is sought; then the best so far is answered.
        """
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._cache = cache
        self._max_photos = max_photos
        self._plain_queries = plain_queries
        self._pool = pool
        self._metrics = metrics
        self._threads = threads
        self._time_limit_s = time_limit_s
        self._last = LastSearch()

    @cached_property
    def _index(self) -> "Index":
        from .index import Index

        return Index(self._cache, self._max_photos, threads=self._threads, time_limit_s=self._time_limit_s)

    @property
    def _is_open(self) -> bool:
        return "_index" in self.__dict__

    async def close(self) -> None:
        """Write what waits, and close the index."""
        if self._is_open:
            await self._index.close()

    async def serves(self, tasks: Tasks) -> bool:
        """Whether every model that the tasks name can be served."""
        return await self._pipeline.serves(tasks)

    async def predict(self, tasks: Tasks, image: bytes | None, text: str | None) -> Answer:
        """Run the tasks of a request.

        Raises:
            ServiceError: the failure of the first task that failed.
        """
        if image is not None:
            return await self._predict_image(tasks, image, text)
        if not text or tasks.textual is None or tasks.need_image:
            return await self._pipeline.predict(tasks, image, text)
        query = parse(text)
        if query is not None:
            return await self._search(tasks.textual, query)
        answer = await self._pipeline.predict(tasks, None, text)
        query = plain(text) if self._plain_queries else None
        return answer if query is None else await self._lift(tasks.textual, query, answer)

    async def _predict_image(self, tasks: Tasks, image: bytes, text: str | None) -> Answer:
        """Answer, and keep the embedding and the text."""
        reads = tasks.ocr is not None and tasks.ocr.recognition is not None
        if tasks.visual is None and not reads:
            return await self._pipeline.predict(tasks, image, text)
        with first_failure():
            async with asyncio.TaskGroup() as group:
                predicting = group.create_task(self._pipeline.predict(tasks, image, text))
                digesting = group.create_task(self._pool.run(_digest, image))
        answer = predicting.result()
        model = "" if tasks.visual is None else _model(self._catalogue.visual(tasks.visual.model))
        lines = answer.ocr.texts if isinstance(answer.ocr, ReadText) else None
        self._index.keep(digesting.result(), model, answer.clip, lines)
        return answer

    async def _search(self, task: ClipTextual, query: Query) -> Answer:
        """The vector for a query with a prefix; CLIP's for its words where no photo has the text."""
        spec = self._catalogue.textual(task.model)
        started = time.monotonic()
        found = await self._index.find(_model(spec), spec.dimension, query, misread=True)
        if found is None:
            logger.info("no photo has the text that was searched for; CLIP answers for its words")
            self._last = LastSearch(seconds=time.monotonic() - started)
            return await self._pipeline.predict(Tasks(textual=task), None, query.words or NO_WORDS)
        if found.query.meaning:
            found, clip_s = await self._in_order_of_meaning(task, found)
            started += clip_s
        else:
            self._metrics.count_request(task.label, spec.key, 200)
        steered = await self._index.steer(found)
        self._finished(LastSearch(len(found), steered.placed, time.monotonic() - started))
        return Answer(clip=steered.vector)

    async def _in_order_of_meaning(self, task: ClipTextual, found: "Found") -> "tuple[Found, float]":
        """The photos in the order that CLIP gives them, and the seconds that CLIP took."""
        started = time.monotonic()
        answer = await self._pipeline.predict(Tasks(textual=task), None, found.query.meaning)
        clip_s = time.monotonic() - started
        return found if answer.clip is None else await self._index.in_order_of(found, answer.clip), clip_s

    async def _lift(self, task: ClipTextual, query: Query, answer: Answer) -> Answer:
        """CLIP's answer, with the photos in front that have exactly the words of the query."""
        started = time.monotonic()
        spec = self._catalogue.textual(task.model)
        found = await self._index.find(_model(spec), spec.dimension, query, misread=False)
        if found is None or answer.clip is None:
            return answer
        lifted = await self._index.lift(found, answer.clip)
        self._finished(LastSearch(len(found), lifted.count if lifted else 0, time.monotonic() - started))
        return replace(answer, clip=lifted.vector, features=None) if lifted else answer

    def _finished(self, last: LastSearch) -> None:
        self._last = last
        self._metrics.observe("search", "", last.seconds)
        logger.info("text search: %d photos, %d of them first, %.0f ms", last.matches, last.placed, 1000 * last.seconds)

    async def look_up(self, text: str, limit: int) -> dict[str, Any]:
        """What a search for text finds, for people: ``ocr:`` may stand before it.

        Args:
            limit: photos that are described.
        """
        if not self._exists():
            return {"photos": 0, "total": 0, "milliseconds": 0.0, "matches": []}
        started = time.monotonic()
        matches = await self._index.matches(for_text(text))
        milliseconds = 1000 * (time.monotonic() - started)
        shown = [{"text": match.text, "tier": match.tier.name, "score": match.score} for match in matches[:limit]]
        photos = (await self._index.contents()).texts
        return {"photos": photos, "total": len(matches), "milliseconds": milliseconds, "matches": shown}

    async def status(self) -> dict[str, Any]:
        """What is kept and how the last search went, for people and scripts."""
        mode = "hybrid" if self._plain_queries else "prefix"
        if not self._exists():
            return {"mode": mode, "photos": {}, "texts": 0, "bytes": 0}
        contents = await self._index.contents()
        return {
            "mode": mode,
            "photos": dict(contents.photos),
            "texts": contents.texts,
            "bytes": contents.size,
            "lost": self._index.writer.lost,
            "failure": self._index.writer.failure,
            "lastSearch": asdict(self._last),
        }

    async def gauges(self) -> list[Gauge]:
        """The numbers for Prometheus; none as long as nothing is kept."""
        if not self._exists():
            return []
        contents = await self._index.contents()
        return [
            Gauge("search_photos", "Photos whose embedding is kept.", dict(contents.photos), "model"),
            Gauge("search_texts", "Photos whose text is kept.", {"": contents.texts}),
            Gauge("search_bytes", "Bytes on disk of what is kept.", {"": contents.size}),
            Gauge("search_lost", "Photos that could not be kept.", {"": self._index.writer.lost}),
            Gauge("search_last_matches", "Photos that the last search for text found.", {"": self._last.matches}),
            Gauge("search_last_seconds", "Seconds that it took.", {"": self._last.seconds}),
        ]

    def _exists(self) -> bool:
        return self._is_open or (self._cache / "search").is_dir()


def _digest(image: bytes) -> bytes:
    """What a photo is known by: Immich sends the same bytes for CLIP and for OCR."""
    return hashlib.blake2b(image, digest_size=DIGEST_BYTES).digest()


def _model(spec: ModelSpec[AnyModel]) -> str:
    """The model that a tower belongs to, such as ``clip/chinese-clip-vit-base-patch16``."""
    return spec.key.rpartition("/")[0]
