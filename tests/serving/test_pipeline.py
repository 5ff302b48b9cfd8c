"""One request from decoding to the answer, with models that are a few lines long."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import pytest
from picture_files import encoded
from PIL import Image
from serving_fakes import settle, until

from immich_ml_cn.errors import BadImage, BadRequest, InferenceFailed, TooLarge, Unavailable, UnknownModel
from immich_ml_cn.models import images
from immich_ml_cn.models.results import Answer, EmbeddedFaces, Faces, ReadText, TextBoxes
from immich_ml_cn.serving.catalogue import Catalogue
from immich_ml_cn.serving.cpu_pool import ByteBudget, CpuPool
from immich_ml_cn.serving.image_decoder import ImageDecoder
from immich_ml_cn.serving.ocr_pipeline import LINES_AT_ONCE
from immich_ml_cn.serving.pipeline import Pipeline
from immich_ml_cn.serving.plan import (
    DECODED_BYTES_PER_PIXEL,
    FacePlan,
    OcrPlan,
    Plan,
    TextReader,
    TextualPlan,
    VisualPlan,
)
from immich_ml_cn.serving.registry import Registry
from immich_ml_cn.serving.spec import Leases, ModelSpec
from immich_ml_cn.serving.tasks import ClipTextual, ClipVisual, FaceTask, OcrTask, Tasks

T = TypeVar("T")

WIDTH, HEIGHT = 400, 300
PNG = encoded(Image.new("RGB", (WIDTH, HEIGHT), "white"))

CLIP_BYTES = WIDTH * HEIGHT * (DECODED_BYTES_PER_PIXEL + VisualPlan.bytes_per_pixel)
"""Of the picture, while CLIP looks at it."""

VISUAL, TEXTUAL = ClipVisual("m"), ClipTextual("m", "zh-CN")
FACES = FaceTask("d", "r", 0.6)
OCR = OcrTask("d", "r", 0.4, 512, 0.5)


def boxes_of(count: int) -> Any:
    """`count` text boxes from top to bottom."""
    tops = np.linspace(0, HEIGHT - 12, count)
    corners = [[(10, top), (200, top), (200, top + 10), (10, top + 10)] for top in tops]
    return np.array(corners, dtype=np.float32).reshape(-1, 4, 2)


@dataclass
class Item:
    """A prepared tensor; the text detector's also holds the picture as an array."""

    image: Any = field(default_factory=lambda: np.full((HEIGHT, WIDTH, 3), 255, np.uint8))


@dataclass
class Encoded:
    """What a CLIP tower gives."""

    vector: Any
    features: Any = None


class Model:
    """Stands in for every kind of model: notes what it is given, answers what it was told to."""

    min_side = HEIGHT // 4

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name

    def prepare(self, *arguments: Any) -> Any:
        self.world.calls.append((f"{self.name}.prepare", arguments[1:]))
        self.world.pictures.update(
            {id(argument): argument for argument in arguments if isinstance(argument, images.Picture)}
        )
        if self.name == "face_recognizer":
            return list(range(len(arguments[1])))
        return Item()

    def tokenize(self, text: str, language: str | None, normalize: bool) -> Any:
        self.world.calls.append(("tokenize", (text, language, normalize)))
        return text

    def faces(self, item: Any, raw: Any, min_score: float) -> Faces:
        self.world.calls.append(("faces", (min_score,)))
        count = self.world.face_count
        return Faces(np.zeros((count, 4), np.float32), np.ones(count, np.float32), np.zeros((count, 5, 2), np.float32))

    def boxes(self, item: Any, raw: Any, min_score: float) -> TextBoxes:
        self.world.calls.append(("boxes", (min_score,)))
        count = len(self.world.lines) - self.world.large
        return TextBoxes(boxes_of(count), np.arange(count, dtype=np.float32))

    def may_miss_large(self, count: int, raw: Any) -> bool:
        return self.world.large

    def prepare_smaller(self, item: Any) -> Any:
        return item

    def second_look(self, item: Any, found: TextBoxes, read: ReadText) -> Any:
        return self.world.turn

    def prepare_turned(self, item: Any, turn: Any) -> Any:
        return item

    def turned_boxes(self, item: Any, raw: Any, min_score: float, turn: Any) -> TextBoxes:
        self.world.calls.append(("turned_boxes", (min_score, turn)))
        return self.boxes(item, raw, min_score)

    def large_boxes(self, item: Any, raw: Any, min_score: float) -> TextBoxes:
        self.world.calls.append(("large_boxes", (min_score,)))
        return TextBoxes(np.array([[(220, 10), (390, 10), (390, 190), (220, 190)]], np.float32), np.ones(1, np.float32))

    def decode(self, index: int) -> tuple[str, float]:
        """Any line that is read once more says nothing."""
        return self.world.lines[index] if index < len(self.world.lines) else ("", 0.0)


class Batcher:
    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.served = 0

    async def submit(self, item: Any) -> Any:
        return (await self.submit_all([item]))[0]

    async def submit_all(self, items: Sequence[Any]) -> list[Any]:
        self.world.batches.append((self.name, len(items)))
        if self.name in self.world.failing:
            raise self.world.failing[self.name]
        if self.name in self.world.hanging:
            self.world.reached.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        start, self.served = self.served, self.served + len(items)
        if self.name == "text_orientation":
            return [self.world.upside_down] * len(items)
        if self.name == "text_recognizer":
            return list(range(start, self.served))
        vectors = [np.full(4, number, np.float32) for number in range(len(items))]
        return [Encoded(vector) for vector in vectors] if self.name in ("visual", "textual") else vectors


@dataclass
class Lent:
    model: Model
    batcher: Batcher
    name: str


@dataclass
class World:
    """Catalogue and registry in one, and what went on in them."""

    waiting = 0

    face_count: int = 3
    lines: list[tuple[str, float]] = field(default_factory=lambda: [("one", 0.9), ("two", 0.8), ("three", 0.7)])
    upside_down: float = 0.0
    large: bool = False
    turn: str | None = None
    dimension: int | None = None
    failing: dict[str, Exception] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    loading: set[str] = field(default_factory=set)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    batches: list[tuple[str, int]] = field(default_factory=list)
    leased: list[str] = field(default_factory=list)
    held: int = 0
    pictures: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reached = asyncio.Event()
        self.loaded = asyncio.Event()

    def plan(self, tasks: Tasks) -> Plan:
        def spec(name: str) -> ModelSpec[Any]:
            return ModelSpec(name, "bulk", 4, cast(Any, None), dimension=self.dimension)

        if tasks.visual and tasks.visual.model == "unknown":
            raise UnknownModel("unknown")
        faces, ocr = tasks.faces, tasks.ocr
        embedded = spec("face_recognizer") if faces and faces.recognition else None
        reader = TextReader(spec("text_orientation"), spec("text_recognizer")) if ocr and ocr.recognition else None
        return Plan(
            visual=VisualPlan(tasks.visual, spec("visual")) if tasks.visual else None,
            textual=TextualPlan(tasks.textual, spec("textual")) if tasks.textual else None,
            faces=FacePlan(faces, spec("face_detector"), embedded) if faces else None,
            ocr=OcrPlan(ocr, spec("text_detector"), reader) if ocr else None,
        )

    @asynccontextmanager
    async def lease_all(self, specs: Iterable[ModelSpec[Any]]) -> AsyncIterator[Leases]:
        async with AsyncExitStack() as stack:
            lent = {spec.key: await stack.enter_async_context(self.lease(spec)) for spec in specs}
            yield Leases(cast(Any, lent))

    def name_of(self, spec: ModelSpec[Any]) -> str:
        return spec.key

    @asynccontextmanager
    async def lease(self, spec: ModelSpec[Any]) -> AsyncIterator[Lent]:
        self.leased.append(spec.key)
        if spec.key in self.loading:
            self.reached.set()
            await self.loaded.wait()
        self.held += 1
        try:
            yield Lent(Model(self, spec.key), Batcher(self, spec.key), spec.key)
        finally:
            self.held -= 1


class Setup:
    """A pipeline in a world."""

    def __init__(
        self, world: World, *, budget: int = 1 << 30, max_pixels: int = 1 << 30, scaled_decoding: bool = False
    ) -> None:
        self.world = world
        self.pool, self.text_pool = CpuPool(2, nice=0), CpuPool(1, nice=0)
        self.budget = ByteBudget(budget)
        self.decoder = ImageDecoder(self.pool, max_pixels)
        self.pipeline = Pipeline(
            cast(Catalogue, world),
            cast(Registry, world),
            pool=self.pool,
            text_pool=self.text_pool,
            budget=self.budget,
            decoder=self.decoder,
            scaled_decoding=scaled_decoding,
        )

    def close(self) -> None:
        self.decoder.close()
        self.pool.close()
        self.text_pool.close()


def run_scene(scene: Callable[[Setup], Coroutine[Any, Any, T]], world: World | None = None, **how: Any) -> T:
    """Play a scene; nothing may be held at its end."""

    async def play() -> T:
        setup = Setup(world or World(), **how)
        try:
            return await scene(setup)
        finally:
            setup.close()
            assert setup.world.held == 0
            assert repr(setup.budget).startswith("<ByteBudget [0 of ")

    return asyncio.run(play())


def predict(
    tasks: Tasks, image: bytes | None = PNG, text: str | None = None, world: World | None = None, **how: Any
) -> Answer:
    return run_scene(lambda setup: setup.pipeline.predict(tasks, image, text), world, **how)


# --- what is answered ---


def test_three_tasks_on_one_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = images.decode

    def counting(data: bytes, max_pixels: int, min_side: int | None) -> images.Picture:
        decoded.append(1)
        return decode(data, max_pixels, min_side)

    monkeypatch.setattr(images, "decode", counting)
    world = World()
    answer = predict(Tasks(VISUAL, None, FACES, OCR), world=world)
    assert decoded == [1]
    assert len(world.pictures) == 1
    assert answer.size == (WIDTH, HEIGHT)
    assert answer.clip is not None
    assert isinstance(answer.faces, EmbeddedFaces)
    assert isinstance(answer.ocr, ReadText)


@pytest.mark.parametrize(
    ("tasks", "scaled_decoding", "decoded"),
    [
        (Tasks(visual=VISUAL), True, (WIDTH // 4, HEIGHT // 4)),
        (Tasks(visual=VISUAL), False, (WIDTH, HEIGHT)),
        (Tasks(visual=VISUAL, faces=FACES), True, (WIDTH, HEIGHT)),
        (Tasks(visual=VISUAL, ocr=OCR), True, (WIDTH, HEIGHT)),
        (Tasks(faces=FACES), True, (WIDTH, HEIGHT)),
    ],
)
def test_what_only_clip_looks_at_may_be_decoded_at_a_fraction(
    tasks: Tasks, scaled_decoding: bool, decoded: tuple[int, int]
) -> None:
    photo = encoded(Image.new("RGB", (WIDTH, HEIGHT), "white"), "JPEG")
    world = World()
    answer = predict(tasks, photo, world=world, scaled_decoding=scaled_decoding)
    assert {picture.image.size for picture in world.pictures.values()} == {decoded}
    assert answer.size == (WIDTH, HEIGHT)


def test_options_are_arguments_all_the_way() -> None:
    world = World()
    predict(Tasks(faces=FACES, ocr=OCR), world=world)
    calls = dict(world.calls)
    assert calls["faces"] == (0.6,)
    assert calls["boxes"] == (0.4,)
    assert calls["text_detector.prepare"] == (512,)


def test_a_text_is_tokenized_with_its_language_and_has_no_size() -> None:
    world = World()
    answer = predict(Tasks(textual=TEXTUAL), None, "猫", world=world)
    assert world.calls == [("tokenize", ("猫", "zh-CN", True))]
    assert answer.size is None
    assert answer.clip is not None


def test_detection_alone_is_raw_and_loads_nothing_else() -> None:
    world = World()
    answer = predict(Tasks(faces=FaceTask("d", None), ocr=OcrTask("d", None)), world=world)
    assert isinstance(answer.faces, Faces)
    assert isinstance(answer.ocr, TextBoxes)
    assert sorted(world.leased) == ["face_detector", "text_detector"]


def test_without_faces_and_lines_no_recognizer_runs() -> None:
    world = World(face_count=0, lines=[])
    answer = predict(Tasks(faces=FACES, ocr=OCR), world=world)
    assert isinstance(answer.faces, EmbeddedFaces)
    assert answer.faces.embeddings == ()
    assert isinstance(answer.ocr, ReadText)
    assert (answer.ocr.texts, answer.ocr.scores, answer.ocr.lines.boxes.shape) == ((), (), (0, 4, 2))
    assert sorted(name for name, _ in world.batches) == ["face_detector", "text_detector"]


def test_all_faces_go_in_one_submission() -> None:
    world = World(face_count=5)
    answer = predict(Tasks(faces=FACES), world=world)
    assert isinstance(answer.faces, EmbeddedFaces)
    assert [embedding[0] for embedding in answer.faces.embeddings] == [0, 1, 2, 3, 4]
    assert ("face_recognizer", 5) in world.batches


def test_lines_that_are_blank_or_unsure_are_left_out_with_their_boxes_and_scores() -> None:
    lines = [("one", 0.9), ("", 0.99), ("two", 0.49), ("  ", 0.9), ("three", 0.5)]
    answer = predict(Tasks(ocr=OCR), world=World(lines=lines))
    assert isinstance(answer.ocr, ReadText)
    assert answer.ocr.texts == ("one", "three")
    assert answer.ocr.scores == (0.9, 0.5)
    assert np.array_equal(answer.ocr.lines.boxes, boxes_of(5)[[0, 4]])
    assert answer.ocr.lines.scores.tolist() == [0, 4]


def test_a_page_that_stands_on_its_head_is_read_from_its_own_top() -> None:
    answer = predict(Tasks(ocr=OCR), world=World(upside_down=0.99))
    assert isinstance(answer.ocr, ReadText)
    assert answer.ocr.texts == ("three", "two", "one")
    assert answer.ocr.lines.scores.tolist() == [2, 1, 0]


def test_a_large_character_that_was_missed_is_looked_for_and_read() -> None:
    world = World(lines=[("one", 0.9), ("7", 0.99)], large=True)
    answer = predict(Tasks(ocr=OCR), world=world)
    assert isinstance(answer.ocr, ReadText)
    assert answer.ocr.texts == ("one", "7")
    assert ("text_detector", 1) in world.batches
    assert dict(world.calls)["large_boxes"] == (0.4,)


def test_a_page_on_its_side_is_searched_once_more_turned_upright() -> None:
    world = World(turn="a quarter")
    answer = predict(Tasks(ocr=OCR), world=world)
    assert isinstance(answer.ocr, ReadText)
    assert answer.ocr.texts == ("one", "two", "three")
    assert dict(world.calls)["turned_boxes"] == (0.4, "a quarter")
    assert [name for name, _ in world.batches].count("text_detector") == 2


def test_a_dense_page_is_prepared_a_bounded_number_of_lines_at_a_time() -> None:
    count = 2 * LINES_AT_ONCE + 5
    world = World(lines=[(str(number), 0.9) for number in range(count)])
    answer = predict(Tasks(ocr=OCR), world=world)
    assert isinstance(answer.ocr, ReadText)
    assert answer.ocr.texts == tuple(str(number) for number in range(count))
    sizes = [size for name, size in world.batches if name == "text_recognizer"]
    assert sizes == [LINES_AT_ONCE, LINES_AT_ONCE, 5]


# --- what is refused ---


@pytest.mark.parametrize("text", [None, ""])
@pytest.mark.parametrize("tasks", [Tasks(VISUAL), Tasks(textual=TEXTUAL), Tasks(faces=FACES), Tasks(ocr=OCR)])
def test_neither_image_nor_text(tasks: Tasks, text: str | None) -> None:
    with pytest.raises(BadRequest, match=r"^Either image or text must be provided$"):
        predict(tasks, None, text)


@pytest.mark.parametrize("tasks", [Tasks(VISUAL), Tasks(faces=FACES), Tasks(ocr=OCR), Tasks(VISUAL, TEXTUAL)])
def test_a_text_where_an_image_is_needed(tasks: Tasks) -> None:
    with pytest.raises(BadRequest, match="needs an image"):
        predict(tasks, None, "cat")


@pytest.mark.parametrize("text", [None, "cat"])
@pytest.mark.parametrize("tasks", [Tasks(textual=TEXTUAL), Tasks(VISUAL, TEXTUAL)])
def test_an_image_where_a_text_is_needed(tasks: Tasks, text: str | None) -> None:
    with pytest.raises(BadRequest, match="needs a text"):
        predict(tasks, PNG, text)


def test_an_image_wins_over_a_text() -> None:
    assert predict(Tasks(VISUAL), PNG, "cat").size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("image", [None, PNG, b"broken"])
def test_names_are_checked_first(image: bytes | None) -> None:
    with pytest.raises(UnknownModel):
        predict(Tasks(ClipVisual("unknown")), image)


@pytest.mark.parametrize("image", [b"", b"broken", PNG[:20]])
def test_what_is_no_image_loads_no_model(image: bytes) -> None:
    world = World()
    with pytest.raises(BadImage):
        predict(Tasks(VISUAL, None, FACES, OCR), image, world=world)
    assert world.leased == []


def test_an_image_that_is_cut_off_is_prepared_for_no_model() -> None:
    """Its header is whole, and the models are leased before it is decoded."""
    world = World()
    with pytest.raises(BadImage):
        predict(Tasks(VISUAL, None, FACES, OCR), PNG[:60], world=world)
    assert (world.calls, world.batches) == ([], [])


def test_an_image_over_the_limit_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(TooLarge):
        predict(Tasks(VISUAL), max_pixels=WIDTH * HEIGHT - 1)


@pytest.mark.parametrize("tasks", [Tasks(VISUAL), Tasks(textual=TEXTUAL)])
def test_another_dimension_than_the_name_promises_is_never_answered(tasks: Tasks) -> None:
    image, text = (None, "cat") if tasks.textual else (PNG, None)
    with pytest.raises(Unavailable, match=r"Immich expects 512 numbers under this name, but .* gives 4"):
        predict(tasks, image, text, world=World(dimension=512))
    assert predict(tasks, image, text, world=World(dimension=4)).clip is not None


# --- failure, cancellation, memory ---

STAGES = ("visual", "face_detector", "face_recognizer", "text_detector", "text_orientation", "text_recognizer")


@pytest.mark.parametrize("stage", STAGES)
def test_the_failure_of_one_task_ends_the_others_and_is_raised_as_itself(stage: str) -> None:
    """With everything given back: no lease, no memory. The others hang, and only their cancellation ends them."""
    same = (
        {"face_detector", "text_detector"}
        if stage in ("face_recognizer", "text_orientation", "text_recognizer")
        else set()
    )
    hanging = {"visual", "face_detector", "text_detector"} - {stage} - same
    world = World(failing={stage: InferenceFailed(f"{stage} failed")}, hanging=hanging)
    with pytest.raises(InferenceFailed, match=f"^{stage} failed$"):
        predict(Tasks(VISUAL, None, FACES, OCR), world=world)


@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_leaves_gives_everything_back(stage: str) -> None:
    async def scene(setup: Setup) -> None:
        asking = asyncio.create_task(setup.pipeline.predict(Tasks(VISUAL, None, FACES, OCR), PNG, None))
        await asyncio.wait_for(setup.world.reached.wait(), 10)
        assert setup.world.held > 0
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    run_scene(scene, World(hanging={stage}))


def test_decoded_images_stay_within_the_budget() -> None:
    """Room for two pictures: of four requests two are inside, and the others wait undecoded."""

    async def scene(setup: Setup) -> None:
        asking = [asyncio.create_task(setup.pipeline.predict(Tasks(VISUAL), PNG, None)) for _ in range(4)]
        await until(lambda: "2 waiting" in repr(setup.budget) and setup.world.batches == [("visual", 1)] * 2)
        await settle()
        assert setup.world.batches == [("visual", 1)] * 2
        asking[0].cancel()
        await until(lambda: len(setup.world.batches) == 3)
        assert "1 waiting" in repr(setup.budget)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    run_scene(scene, World(hanging={"visual"}), budget=2 * CLIP_BYTES)


@pytest.mark.parametrize("model", ["visual", "face_recognizer", "text_orientation"])
def test_a_picture_is_not_decoded_while_a_model_of_it_is_loading(model: str) -> None:
    """There is memory for one picture: it must not be held for a download, which may take minutes."""
    slow, ready = {
        "visual": (Tasks(VISUAL), Tasks(faces=FACES)),
        "face_recognizer": (Tasks(faces=FACES), Tasks(VISUAL)),
        "text_orientation": (Tasks(ocr=OCR), Tasks(VISUAL)),
    }[model]

    async def scene(setup: Setup) -> None:
        waiting = asyncio.create_task(setup.pipeline.predict(slow, PNG, None))
        await asyncio.wait_for(setup.world.reached.wait(), 10)
        answer = await asyncio.wait_for(setup.pipeline.predict(ready, PNG, None), 10)
        assert answer.size == (WIDTH, HEIGHT)
        assert not waiting.done()
        setup.world.loaded.set()
        assert (await asyncio.wait_for(waiting, 10)).size == (WIDTH, HEIGHT)

    run_scene(scene, World(loading={model}), budget=CLIP_BYTES)


def test_memory_is_held_until_the_thread_has_ended_though_the_client_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, end = threading.Event(), threading.Event()
    decode = images.decode

    def slow(data: bytes, max_pixels: int, min_side: int | None = None) -> images.Picture:
        begun.set()
        assert end.wait(10)
        return decode(data, max_pixels, min_side)

    monkeypatch.setattr(images, "decode", slow)

    async def scene(setup: Setup) -> None:
        asking = asyncio.create_task(setup.pipeline.predict(Tasks(VISUAL), PNG, None))
        assert await asyncio.to_thread(begun.wait, 10)
        asking.cancel()
        await settle()
        assert setup.budget.held == CLIP_BYTES
        end.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert setup.budget.held == 0

    run_scene(scene)
