"""Around the pipeline: what is kept, what is answered from the index, and what passes through."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from immich_ml_cn.errors import BadImage
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.models.results import Answer, ReadText, TextBoxes
from immich_ml_cn.search.text_search import NO_WORDS, TextSearch
from immich_ml_cn.serving.catalogue import Catalogue
from immich_ml_cn.serving.cpu_pool import CpuPool
from immich_ml_cn.serving.tasks import ClipTextual, ClipVisual, OcrTask, Tasks
from immich_ml_cn.settings import Settings
from immich_ml_cn.store.downloader import Downloader

pytestmark = pytest.mark.anyio

DIMENSION = 512
NAME = "ViT-B-32__openai"
MODEL = "clip/chinese-clip-vit-base-patch16"
VISUAL, OCR, TEXTUAL = Tasks(visual=ClipVisual(NAME)), Tasks(ocr=OcrTask("d", "r")), Tasks(textual=ClipTextual(NAME))
BOTH = Tasks(visual=ClipVisual(NAME), ocr=OcrTask("d", "r"))


def embedding(seed: int) -> NDArray[np.float32]:
    """Within a cone, as CLIP's are."""
    values = np.random.default_rng(seed).normal(size=DIMENSION) + np.random.default_rng(10**6).normal(size=DIMENSION)
    unit: NDArray[np.float32] = (values / np.linalg.norm(values)).astype(np.float32)
    return unit


class FakePipeline:
    """Answers a photo `b"7:line/line"` with the embedding of seed 7 and its lines, and a text with that of its hash."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []
        self.inside: Callable[[], None] = lambda: None

    async def serves(self, tasks: Tasks) -> bool:
        return True

    async def predict(self, tasks: Tasks, image: bytes | None, text: str | None) -> Answer:
        self.inside()
        if image is None:
            self.texts.append(text)
            return Answer(clip=embedding(sum(map(ord, text or ""))))
        if image == b"broken":
            raise BadImage("the image cannot be decoded")
        number, _, written = image.decode().partition(":")
        lines = tuple(filter(None, written.split("/")))
        found = TextBoxes(np.zeros((len(lines), 4, 2), np.float32), np.ones(len(lines), np.float32))
        return Answer(
            clip=embedding(int(number)) if tasks.visual else None,
            ocr=ReadText(found, lines, (1.0,) * len(lines)) if tasks.ocr else None,
            size=(1, 1),
        )


class Made:
    """Text search on a fake pipeline."""

    def __init__(self, cache: Path, *, plain_queries: bool = False) -> None:
        settings = Settings(cache_folder=cache)
        self.pipeline = FakePipeline()
        self.metrics = Metrics()
        self._downloader = Downloader(settings)
        self._pool = CpuPool(1)
        self.search = TextSearch(
            self.pipeline,
            Catalogue(settings, self._downloader, on_gpu=False),
            cache=cache,
            max_photos=10_000,
            plain_queries=plain_queries,
            pool=self._pool,
            metrics=self.metrics,
            time_limit_s=60,
        )

    async def see(self, *photos: str, tasks: Tasks = BOTH) -> None:
        for photo in photos:
            await self.search.predict(tasks, photo.encode(), None)

    async def first(self, text: str, count: int, *, among: int = 60) -> list[int]:
        """The photos that an answer ranks first."""
        answer = await self.search.predict(TEXTUAL, None, text)
        assert answer.clip is not None
        scores = np.stack([embedding(seed) for seed in range(among)]) @ answer.clip
        return [int(number) for number in np.argsort(-scores)[:count]]

    async def close(self) -> None:
        await self.search.close()
        self._downloader.close()
        self._pool.close()


@asynccontextmanager
async def made(cache: Path, **options: Any) -> AsyncIterator[Made]:
    started = Made(cache, **options)
    try:
        yield started
    finally:
        await started.close()


async def filled(cache: Path, *photos: str) -> None:
    """See 60 photos, and these among them, and write them."""
    own = {int(photo.partition(":")[0]) for photo in photos}
    async with made(cache) as before:
        await before.see(*(f"{number}:" for number in range(60) if number not in own), *photos)


async def test_photos_with_the_text_come_first(tmp_path: Path) -> None:
    await filled(tmp_path, "5:电子发票", "7:發/票", "9:other", "11:发票 发票")
    async with made(tmp_path) as now:
        assert set(await now.first("ocr:发票", 3)) == {5, 7, 11}
        assert await now.first("OCR：other", 1) == [9]
        assert now.pipeline.texts == []
        status = await now.search.status()
        assert status["lastSearch"]["matches"] == status["lastSearch"]["placed"] == 1
        assert (status["mode"], status["photos"], status["texts"]) == ("prefix", {MODEL: 60}, 4)
        labels = {"task": "clip/textual", "model": f"{MODEL}/textual", "status": "200"}
        assert now.metrics.registry.get_sample_value("immich_ml_requests_total", labels) == 2
        assert {gauge.name for gauge in await now.search.gauges()} >= {"search_photos", "search_texts", "search_bytes"}


async def test_both_jobs_may_see_a_photo_at_different_times(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with made(tmp_path) as before:
        await before.see("7:发票", tasks=OCR)
    async with made(tmp_path) as now:
        await now.first("ocr:发票", 1)
        assert now.pipeline.texts == ["发票"], "without an embedding there is nothing to rank by"
        await now.see("7:发票", tasks=VISUAL)
    async with made(tmp_path) as then:
        assert await then.first("ocr:发票", 1) == [7]


async def test_without_a_match_the_words_alone_go_to_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await filled(tmp_path, "5:电子发票")
    async with made(tmp_path) as now:
        expected = await now.first("报销", 60)
        assert await now.first("ocr:报销", 60) == expected
        await now.first('红色 OCR：報銷 "单 据" -发票', 1)
        await now.first("ocr:", 1)
        assert now.pipeline.texts == ["报销", "报销", "红色 报销 单据", NO_WORDS]
    assert len([record for record in caplog.records if "no photo has the text" in record.message]) == 3


async def test_meaning_orders_the_photos_with_the_text(tmp_path: Path) -> None:
    await filled(tmp_path, *(f"{number}:发票" for number in (5, 7, 11, 20)))
    scores = {number: float(embedding(number) @ embedding(sum(map(ord, "红色")))) for number in (5, 7, 11, 20)}
    expected = sorted(scores, key=lambda number: -scores[number])
    async with made(tmp_path) as now:
        for query in ("ocr:发票 clip:红色", "红色 ocr:发票", "ocr:发票 画面：红色", "ocr:发票 红色"):
            assert await now.first(query, 4) == expected
        assert set(now.pipeline.texts) == {"红色"}


async def test_what_stands_in_a_photo_is_not_taken_for_meaning(tmp_path: Path) -> None:
    await filled(tmp_path, "5:发票", "7:红色 发票", "11:发票")
    async with made(tmp_path) as now:
        assert await now.first("ocr:发票 红色", 1) == [7]
        assert now.pipeline.texts == []


async def test_a_plain_query_passes_through(tmp_path: Path) -> None:
    await filled(tmp_path, "5:发票")
    async with made(tmp_path) as now:
        answer = await now.search.predict(TEXTUAL, None, "发票")
        np.testing.assert_array_equal(answer.clip, embedding(sum(map(ord, "发票"))))


async def test_hybrid_puts_photos_with_exactly_the_words_in_front_of_clips_best(tmp_path: Path) -> None:
    await filled(tmp_path, "5:发票 2024", "7:发粟 invoice", "11:作废")
    async with made(tmp_path) as prefix:
        own = await prefix.first("发票 2024", 60)
    async with made(tmp_path, plain_queries=True) as now:
        ranked = await now.first("发票 2024", 60)
        assert ranked[0] == 5
        assert ranked[1:] != sorted(ranked[1:])
        assert np.corrcoef([own.index(number) for number in ranked[1:]], range(59))[0, 1] > 0.5
        for passed in ("票", "a photo of an invoice", "没有的"):
            answer = await now.search.predict(TEXTUAL, None, passed)
            np.testing.assert_array_equal(answer.clip, embedding(sum(map(ord, passed))))
        assert (await now.search.status())["mode"] == "hybrid"


@pytest.mark.parametrize("asked", [VISUAL, OCR, BOTH])
async def test_what_the_pipeline_answers_for_a_picture_is_the_answer(tmp_path: Path, asked: Tasks) -> None:
    async with made(tmp_path) as now:
        answer = await now.search.predict(asked, b"3:a/b", "ignored")
        expected = await now.pipeline.predict(asked, b"3:a/b", None)
        np.testing.assert_array_equal(answer.clip, expected.clip)
        assert (answer.size, answer.ocr is None) == (expected.size, expected.ocr is None)


async def test_a_failure_stays_as_it_is_and_nothing_is_kept(tmp_path: Path) -> None:
    async with made(tmp_path) as now:
        with pytest.raises(BadImage):
            await now.search.predict(BOTH, b"broken", None)
    assert not (tmp_path / "search").exists()


async def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    async with made(tmp_path) as now:
        await now.search.predict(TEXTUAL, None, "发票")
        assert (await now.search.status(), await now.search.gauges()) == (
            {"mode": "prefix", "photos": {}, "texts": 0, "bytes": 0},
            [],
        )
        assert await now.search.serves(TEXTUAL)
    assert not (tmp_path / "search").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("search")]


async def test_an_unreadable_index_leaves_the_words_to_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await filled(tmp_path, "5:发票")
    (tmp_path / "search" / "texts.db").write_bytes(b"nonsense" * 1000)
    async with made(tmp_path) as now:
        await now.first("ocr:发票", 1)
        assert now.pipeline.texts == ["发票"]
        assert (await now.search.status())["texts"] == 0
    assert "cannot be read" in caplog.text


async def test_a_search_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(tmp_path, "5:发票")
    started, go_on = threading.Event(), threading.Event()

    def slow(*args: object, **kwargs: object) -> None:
        started.set()
        go_on.wait(10)
        raise OSError("slow")

    monkeypatch.setattr("immich_ml_cn.search.searcher.Searcher.find", slow)
    async with made(tmp_path) as now:
        searching = asyncio.create_task(now.search.predict(TEXTUAL, None, "ocr:发票"))
        await asyncio.to_thread(started.wait, 10)
        await now.search.predict(TEXTUAL, None, "海边")
        await now.see("61:x")
        assert not searching.done()
        go_on.set()
        await searching
        assert now.pipeline.texts == ["海边", "发票"]
