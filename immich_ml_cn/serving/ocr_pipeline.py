"""The text of one picture: detection, the orientation of its lines, recognition.

The picture is searched for boxes, again at a smaller scale where there are few, and again turned upright where a steep
page leaves doubts. `models.ocr.page` decides which way round each line is read.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.session import Model
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.models.images import Picture
from immich_ml_cn.models.results import NO_BOXES, ReadText, TextBoxes

from .cpu_pool import CpuPool
from .plan import OcrPlan, TextReader
from .spec import Leases, Loaded
from .tasks import OcrTask

if TYPE_CHECKING:
    from immich_ml_cn.models.ocr import DetectionInput, TextDetector
    from immich_ml_cn.models.ocr.page import Readings
    from immich_ml_cn.models.ocr.turned import Turn

ItemT = TypeVar("ItemT")
OutputT_co = TypeVar("OutputT_co", covariant=True)
OutputT = TypeVar("OutputT")

LINES_AT_ONCE: Final = 128
"""Text lines of one request that are prepared together: bounds memory on very dense pages."""


class LineModel(Model[ItemT, OutputT_co], Protocol[ItemT, OutputT_co]):
    """A model of single lines of text."""

    def prepare(self, line: NDArray[np.uint8]) -> ItemT:
        """Make a line, uint8 (height, width, 3), RGB, ready for the model."""
        ...


class OcrPipeline:
    """Runs the three models of text recognition."""

    def __init__(self, pool: CpuPool, metrics: Metrics) -> None:
        """
        Args:
            pool: where images are worked on.
            metrics: where the time of the parts is counted.
        """
        self._pool = pool
        self._metrics = metrics

    async def run(self, plan: OcrPlan, models: Leases, picture: Picture) -> TextBoxes | ReadText:
        """Where the text is, and what it says where the plan has a reader.

        Raises:
            ServiceError: a model failed.
        """
        detector = models[plan.detector]
        item = await self._pool.run(detector.model.prepare, picture, plan.task.max_resolution)
        probabilities = await detector.batcher.submit(item)
        with self._metrics.time("postprocess", detector.name):
            found = await self._pool.run(detector.model.boxes, item, probabilities, plan.task.min_detection_score)
        if plan.reader is None:
            return found
        large = await self._large_characters(detector, item, len(found), probabilities, plan.task)
        if len(found) + len(large) == 0:
            return ReadText(found, (), ())
        min_score = plan.task.min_recognition_score
        read = await self._read(plan.reader, models, item.image, found, large, min_score)
        turn = await self._pool.run(detector.model.second_look, item, found, read)
        if turn is None:
            return read
        found = await self._turned_boxes(detector, item, turn, plan.task)
        again = await self._read(plan.reader, models, item.image, found, large, min_score)
        return again if again.is_better_than(read) else read

    async def _turned_boxes(
        self, detector: "Loaded[TextDetector]", item: "DetectionInput", turn: "Turn", task: OcrTask
    ) -> TextBoxes:
        """What the detector finds in the same picture turned, in the picture as it is."""
        turned = await self._pool.run(detector.model.prepare_turned, item, turn)
        probabilities = await detector.batcher.submit(turned)
        with self._metrics.time("postprocess", detector.name):
            return await self._pool.run(
                detector.model.turned_boxes, item, probabilities, task.min_detection_score, turn
            )

    async def _large_characters(
        self,
        detector: "Loaded[TextDetector]",
        item: "DetectionInput",
        count: int,
        probabilities: NDArray[np.float32],
        task: OcrTask,
    ) -> TextBoxes:
        """Those that the detector has missed; it looks again only where it has found little."""
        if not await self._pool.run(detector.model.may_miss_large, count, probabilities):
            return NO_BOXES
        smaller = await self._pool.run(detector.model.prepare_smaller, item)
        probabilities = await detector.batcher.submit(smaller)
        with self._metrics.time("postprocess", detector.name):
            return await self._pool.run(detector.model.large_boxes, smaller, probabilities, task.min_detection_score)

    async def _read(
        self,
        reader: TextReader,
        models: Leases,
        image: NDArray[np.uint8],
        found: TextBoxes,
        large: TextBoxes,
        min_score: float,
    ) -> ReadText:
        """Read every box; what is no text or below `min_score` is left out."""
        orientation, recognizer = models[reader.orientation], models[reader.recognizer]
        lines = await self._pool.each(partial(_cut_line, image), [*found.boxes, *large.boxes])
        probabilities = await self._run_lines(orientation, lines)
        page = await self._pool.run(_read_page, found, large, lines, probabilities, min_score)
        wanted = await self._pool.run(_next_lines, page, None)
        while not isinstance(wanted, ReadText):
            paths = await self._run_lines(recognizer, wanted)
            with self._metrics.time("postprocess", recognizer.name):
                readings = await self._pool.each(recognizer.model.decode, paths)
                wanted = await self._pool.run(_next_lines, page, readings)
        return wanted

    async def _run_lines(
        self, loaded: Loaded[LineModel[ItemT, OutputT]], lines: Sequence[NDArray[np.uint8]]
    ) -> list[OutputT]:
        """Prepare and run any number of lines, a bounded number of tensors at a time; the outputs in order."""
        outputs: list[OutputT] = []
        for start in range(0, len(lines), LINES_AT_ONCE):
            items = await self._pool.each(loaded.model.prepare, lines[start : start + LINES_AT_ONCE])
            outputs += await loaded.batcher.submit_all(items)
        return outputs


def _cut_line(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    from immich_ml_cn.models.ocr.crops import crop_line  # with OpenCV, which the start of the server does without

    return crop_line(image, box)


def _read_page(
    found: TextBoxes, large: TextBoxes, lines: list[NDArray[np.uint8]], probabilities: list[float], min_score: float
) -> "Readings":
    from immich_ml_cn.models.ocr.page import read_page

    return read_page(found, large, lines, probabilities, min_score)


def _next_lines(page: "Readings", readings: list[tuple[str, float]] | None) -> list[NDArray[np.uint8]] | ReadText:
    from immich_ml_cn.models.ocr.page import step

    return step(page, readings)
