"""What it takes to load a model, and the model once it is loaded; both know the model's own type."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Never, TypeAlias, TypeVar, cast

from immich_ml_cn.engines.session import LaneKind, Model, OpenSession
from immich_ml_cn.errors import DamagedModel

from .batching import Batcher

AnyModel: TypeAlias = Model[Never, object]
"""A model of unknown type: it can be held, but not run."""

ModelT = TypeVar("ModelT", bound=AnyModel)
ModelT_co = TypeVar("ModelT_co", bound=AnyModel, covariant=True)
ItemT = TypeVar("ItemT")
OutputT = TypeVar("OutputT")


@dataclass(frozen=True)
class ModelSpec(Generic[ModelT_co]):
    """Everything it takes to load one model.

    Attributes:
        key: unique name for logs and the registry, e.g. ``clip/ViT-B-32__openai/visual``.
        lane: the kind of lane that runs it.
        max_batch: the most items of one batch.
        build: opens the graph and makes the model; runs on the lane's loader thread.
        fetch: downloads what `build` needs into the cache; raises `Unavailable` when that cannot be done.
        is_here: whether `fetch` has nothing to download; None where `build` needs nothing from the cache. Blocks.
        progress: how much of what `fetch` downloads has arrived, as an addition to a sentence; "" when nothing is being
            downloaded.
        quarantine: renames a damaged file, so that `fetch` downloads it again; False where it does not.
        fallback: answers while `fetch` fails; the model itself is tried again with growing pauses.
        warm_up: runs the model once after it was loaded before anybody asked.
        device: the one GPU that runs it, None for all.
        dimension: length that the embeddings must have, None where any will do.
        parallel: its items are many and small, and a CPU runs them in parallel rather than as one batch.
    """

    key: str
    lane: LaneKind
    max_batch: int
    build: Callable[[OpenSession], ModelT_co]
    fetch: Callable[[], Awaitable[None]] | None = None
    is_here: Callable[[], bool] | None = None
    progress: Callable[[], str] | None = None
    quarantine: Callable[[DamagedModel], bool] | None = None
    fallback: "ModelSpec[ModelT_co] | None" = None
    warm_up: "Callable[[Loaded[ModelT_co]], Awaitable[None]] | None" = None
    device: int | None = None
    dimension: int | None = None
    parallel: bool = False


@dataclass(frozen=True)
class Loaded(Generic[ModelT_co]):
    """A model that is ready: its pure functions, and the batcher that runs it.

    Attributes:
        name: key of the spec that was loaded: the fallback's where it stands in for the one that was asked for.
        bytes: size of the graphs it was loaded from, for all its replicas.
    """

    model: ModelT_co
    _batcher: Batcher[Never, object]
    name: str
    bytes: int = 0

    @property
    def batcher(self: "Loaded[Model[ItemT, OutputT]]") -> Batcher[ItemT, OutputT]:
        """Runs the model on items of its own type."""
        return cast("Batcher[ItemT, OutputT]", self._batcher)  # made of replicas of this model


class Leases:
    """Several models that are held in memory, by their specs."""

    def __init__(self, loaded: Mapping[str, Loaded[AnyModel]]) -> None:
        """
        Args:
            loaded: by the specs' keys.
        """
        self._loaded = loaded

    def __getitem__(self, spec: ModelSpec[ModelT]) -> Loaded[ModelT]:
        """The model of a spec, or its fallback.

        Raises:
            KeyError: it is not held.
        """
        return cast("Loaded[ModelT]", self._loaded[spec.key])  # a key belongs to one spec
