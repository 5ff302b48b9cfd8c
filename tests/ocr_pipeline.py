"""The product's own pipeline on the bundled OCR models, without lanes or a server."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray
from ocr_session import classifier, detector, recognizer
from PIL import Image

from immich_ml_cn.models.ocr import TextDetector, TextOrientation, TextRecognizer
from immich_ml_cn.models.results import ReadText
from immich_ml_cn.serving.catalogue import Catalogue
from immich_ml_cn.serving.cpu_pool import ByteBudget, CpuPool
from immich_ml_cn.serving.image_decoder import ImageDecoder
from immich_ml_cn.serving.pipeline import Pipeline
from immich_ml_cn.serving.plan import OcrPlan, Plan, TextReader
from immich_ml_cn.serving.registry import Registry
from immich_ml_cn.serving.spec import Leases, Loaded, ModelSpec
from immich_ml_cn.serving.tasks import OcrTask, Tasks

MIN_SCORE = 0.5


class LineModel(Protocol):
    """What all three models have."""

    @property
    def bucket(self) -> Callable[[Any], Hashable]: ...

    @property
    def infer(self) -> Callable[[Sequence[Any]], list[Any]]: ...


@dataclass
class Batcher:
    """Runs what it is given at once, one bucket after the other.

    Attributes:
        count: of the items that were run.
    """

    model: LineModel
    count: int = 0

    async def submit(self, item: Any) -> Any:
        return (await self.submit_all([item]))[0]

    async def submit_all(self, items: Sequence[Any]) -> list[Any]:
        self.count += len(items)
        outputs: dict[int, Any] = {}
        for bucket in {self.model.bucket(item) for item in items}:
            chosen = [index for index, item in enumerate(items) if self.model.bucket(item) == bucket]
            outputs.update(zip(chosen, self.model.infer([items[index] for index in chosen]), strict=True))
        return [outputs[index] for index in range(len(items))]


@dataclass
class Lent:
    model: Any
    batcher: Batcher
    name: str


class OcrModels:
    """Catalogue and registry in one.

    Attributes:
        waiting: nobody does.
    """

    waiting = 0

    def __init__(self, detector: TextDetector, orientation: TextOrientation, recognizer: TextRecognizer) -> None:
        models: dict[str, Any] = {"detector": detector, "orientation": orientation, "recognizer": recognizer}
        self.lent = {name: Lent(model, Batcher(model), name) for name, model in models.items()}

    @classmethod
    def bundled(cls, *, parallel: bool = False) -> Self:
        """On bare sessions.

        Args:
            parallel: lines are run side by side, as on a CPU, and not in batches.
        """
        return cls(detector(), classifier(parallel=parallel), recognizer(parallel=parallel))

    def plan(self, tasks: Tasks) -> Plan:
        assert tasks.ocr is not None
        detector, *reader = (ModelSpec[Any](name, "bulk", 4, cast(Any, None)) for name in self.lent)
        return Plan(ocr=OcrPlan(tasks.ocr, detector, TextReader(*reader)))

    def name_of(self, spec: ModelSpec[Any]) -> str:
        return spec.key

    @asynccontextmanager
    async def lease_all(self, specs: Iterable[ModelSpec[Any]]) -> AsyncIterator[Leases]:
        yield Leases({spec.key: cast(Loaded[Any], self.lent[spec.key]) for spec in specs})


def read_picture(
    picture: bytes | Image.Image | NDArray[np.uint8],
    *,
    min_score: float = MIN_SCORE,
    max_resolution: int = 736,
    models: OcrModels | None = None,
) -> ReadText:
    """What the server answers for one picture, its boxes in pixels.

    Args:
        picture: a file, or what is to be sent as PNG.
        min_score: of the text's recognition.
    """
    return asyncio.run(
        _read(picture, OcrTask("d", "r", MIN_SCORE, max_resolution, min_score), models or OcrModels.bundled())
    )


async def _read(picture: bytes | Image.Image | NDArray[np.uint8], task: OcrTask, models: OcrModels) -> ReadText:
    pool = CpuPool(1, nice=0)
    decoder = ImageDecoder(pool, 1 << 30)
    pipeline = Pipeline(
        cast(Catalogue, models),
        cast(Registry, models),
        pool=pool,
        text_pool=pool,
        budget=ByteBudget(1 << 30),
        decoder=decoder,
    )
    try:
        answer = await pipeline.predict(Tasks(ocr=task), _encoded(picture), None)
    finally:
        decoder.close()
        pool.close()
    assert isinstance(answer.ocr, ReadText)
    return answer.ocr


def _encoded(picture: bytes | Image.Image | NDArray[np.uint8]) -> bytes:
    if isinstance(picture, bytes):
        return picture
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
