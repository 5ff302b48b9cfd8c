"""One request: decode once, run its tasks concurrently, collect.

An image goes ``measure → decode`` once; then each task prepares its tensors on the CPU pool, submits them to its
model's batcher, and finishes what comes back on the CPU pool. Options are arguments all the way: a loaded model has no
state.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.errors import BadRequest, ServiceError, TooLarge, Unavailable, UnknownModel
from immich_ml_cn.messages import tr
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.models import pixel_memory
from immich_ml_cn.models.images import Picture
from immich_ml_cn.models.results import Answer, EmbeddedFaces, Faces

from .catalogue import Catalogue
from .concurrency import first_failure
from .cpu_pool import ByteBudget, CpuPool
from .image_decoder import ImageDecoder
from .last_hour import LastHour
from .ocr_pipeline import OcrPipeline
from .plan import DECODED_BYTES_PER_PIXEL, FacePlan, Plan, TextualPlan, VisualPlan
from .registry import Registry
from .spec import AnyModel, Leases, ModelSpec
from .tasks import Tasks

if TYPE_CHECKING:
    from immich_ml_cn.models.clip import Embedding as ClipEmbedding

Models: TypeAlias = dict[str, ModelSpec[AnyModel] | None]
"""By the label of the task that they answer; None where it is not of the catalogue."""

CLIENT_LEFT: Final = 499
"""nginx's status for a client that closed the connection; it is counted, nobody receives it."""


class Predictor(Protocol):
    """Answers requests: a `Pipeline`, or what stands before one."""

    async def serves(self, tasks: Tasks) -> bool:
        """Whether every model that the tasks name is one that can be served here."""
        ...

    async def predict(self, tasks: Tasks, image: bytes | None, text: str | None) -> Answer:
        """Run all tasks of one request; an image wins over a text.

        Raises:
            ServiceError: the failure of the first task that failed.
        """
        ...


class Pipeline:
    """Answers requests with the catalogue's models."""

    def __init__(
        self,
        catalogue: Catalogue,
        registry: Registry,
        *,
        pool: CpuPool,
        text_pool: CpuPool,
        budget: ByteBudget,
        decoder: ImageDecoder,
        scaled_decoding: bool = False,
        metrics: Metrics | None = None,
        answered: Callable[[Tasks], None] | None = None,
    ) -> None:
        """
        Args:
            catalogue: model names → specs.
            registry: specs → loaded models.
            pool: where images are worked on.
            text_pool: where texts are: they must not queue behind images, a person is waiting.
            budget: bounds the decoded images in memory.
            decoder: decodes the images.
            scaled_decoding: decode an image that only CLIP looks at no larger than it needs.
            metrics: where requests and the time of their parts are counted.
            answered: called with each request's tasks once they are answered.
        """
        self._catalogue = catalogue
        self._registry = registry
        self._pool = pool
        self._text_pool = text_pool
        self._budget = budget
        self._decoder = decoder
        self._scaled_decoding = scaled_decoding
        self._metrics = metrics or Metrics()
        self._answered = answered
        self._ocr = OcrPipeline(pool, self._metrics)
        self.last_hour = LastHour()

    async def serves(self, tasks: Tasks) -> bool:
        """Whether every model that the tasks name is one that can be served here."""
        try:
            await self._text_pool.run(self._catalogue.plan, tasks)
        except UnknownModel:
            return False
        return True

    async def predict(
        self,
        tasks: Tasks,
        image: bytes | None,
        text: str | None,
        *,
        upright: bool = False,
        max_side: int | None = None,
    ) -> Answer:
        """Run all tasks of one request; an image wins over a text, as Immich has it.

        Args:
            upright: turn the image as its EXIF orientation says; Immich does not.
            max_side: width and height in pixels above which the image is refused before it is decoded.

        Raises:
            ServiceError: the failure of the first task that failed.
        """
        with self._counted(dict.fromkeys(tasks.labels)) as models:
            plan = await self._text_pool.run(self._catalogue.plan, tasks)
            models.update(plan.models())
            if image is None:
                answer = await self._answer_text(plan, text)
            else:
                answer = await self._answer_image(plan, image, upright=upright, max_side=max_side)
                self.last_hour.count_photo(self._registry.waiting)
            if self._answered is not None:
                self._answered(tasks)
            return answer

    @contextmanager
    def _counted(self, models: Models) -> Iterator[Models]:
        """Count a request's tasks by how the request ends, under the name of the model that answers.

        Args:
            models: by the task's label; None where it is not of the catalogue, so that clients cannot make up any name.
        """
        status = 500
        try:
            yield models
            status = 200
        except ServiceError as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            raise
        finally:
            for task, model in models.items():
                name = "unknown" if model is None else self._registry.name_of(model)
                self._metrics.count_request(task, name, status)

    async def _answer_text(self, plan: Plan, text: str | None) -> Answer:
        if not text:
            raise BadRequest("Either image or text must be provided")
        if plan.textual is None or plan.visual or plan.faces or plan.ocr:
            raise BadRequest("the request has a text, but a task that needs an image")
        embedding = await self._textual(plan.textual, text)
        return Answer(clip=embedding.vector, features=embedding.features)

    async def _answer_image(self, plan: Plan, data: bytes, *, upright: bool, max_side: int | None) -> Answer:
        if plan.textual is not None:
            raise BadRequest("clip.textual needs a text, but the request has an image")
        with self._metrics.time("measure"):
            width, height = await self._decoder.measure(data)
        if max_side is not None and max(width, height) > max_side:
            raise TooLarge(
                tr(
                    "the image has {width} x {height} pixels, more than {limit} wide or high",
                    width=width,
                    height=height,
                    limit=max_side,
                )
            )
        # The models first: a picture is not to be held in memory while its model is still being downloaded.
        async with (
            self._registry.lease_all(plan.specs()) as models,
            self._budget.reserve(width * height * (plan.bytes_per_pixel + (DECODED_BYTES_PER_PIXEL if upright else 0))),
        ):
            with self._metrics.time("decode"):
                min_side = self._min_side(plan, models)
                held = [await self._decoder.decode(data, (width, height), min_side, upright=upright)]
            try:
                return await self._answer_picture(plan, models, held[0])
            finally:
                if pixel_memory.is_large(width, height):
                    await self._pool.run(held.clear)  # giving so much memory back takes a tenth of a second

    async def _answer_picture(self, plan: Plan, models: Leases, picture: Picture) -> Answer:
        with first_failure():
            async with asyncio.TaskGroup() as group:
                visual = group.create_task(self._visual(plan.visual, models, picture)) if plan.visual else None
                faces = group.create_task(self._faces(plan.faces, models, picture)) if plan.faces else None
                ocr = group.create_task(self._ocr.run(plan.ocr, models, picture)) if plan.ocr else None
        embedding = visual.result() if visual else None
        return Answer(
            clip=embedding.vector if embedding else None,
            faces=faces.result() if faces else None,
            ocr=ocr.result() if ocr else None,
            size=picture.size,
            features=embedding.features if embedding else None,
        )

    def _min_side(self, plan: Plan, models: Leases) -> int | None:
        """Pixels of the image's shorter side that are enough for the tasks, None where every pixel counts."""
        if not self._scaled_decoding or plan.visual is None or plan.faces or plan.ocr:
            return None
        return models[plan.visual.encoder].model.min_side

    async def _textual(self, plan: TextualPlan, text: str) -> "ClipEmbedding":
        async with self._registry.lease(plan.encoder) as encoder:
            task = plan.task
            tokens = await self._text_pool.run(encoder.model.tokenize, text, task.language, task.normalize)
            embedding = await encoder.batcher.submit(tokens)
        _check_dimension(embedding.vector, plan.encoder)
        return embedding

    async def _visual(self, plan: VisualPlan, models: Leases, picture: Picture) -> "ClipEmbedding":
        encoder = models[plan.encoder]
        item = await self._pool.run(encoder.model.prepare, picture)
        embedding = await encoder.batcher.submit(item)
        _check_dimension(embedding.vector, plan.encoder)
        return embedding

    async def _faces(self, plan: FacePlan, models: Leases, picture: Picture) -> Faces | EmbeddedFaces:
        detector = models[plan.detector]
        item = await self._pool.run(detector.model.prepare, picture)
        raw = await detector.batcher.submit(item)
        with self._metrics.time("postprocess", detector.name):
            faces = await self._pool.run(detector.model.faces, item, raw, plan.task.min_score)
        if plan.recognizer is None:
            return faces
        if len(faces) == 0:
            return EmbeddedFaces(faces, ())
        recognizer = models[plan.recognizer]
        crops = await self._pool.run(recognizer.model.prepare, picture, faces.landmarks)
        embeddings = await recognizer.batcher.submit_all(crops)
        for embedding in embeddings:
            _check_dimension(embedding, plan.recognizer)
        return EmbeddedFaces(faces, tuple(embeddings))


def _check_dimension(vector: NDArray[np.float32], spec: ModelSpec[AnyModel]) -> None:
    """Immich's database takes no other dimension than the listed name's: refuse rather than answer."""
    if spec.dimension is not None and len(vector) != spec.dimension:
        raise Unavailable(
            tr(
                "Immich expects {expected} numbers under this name, but {model} gives {given}",
                expected=spec.dimension,
                model=spec.key,
                given=len(vector),
            )
        )
