"""Libraries of photos as CLIP embeds them, made up, and texts that stand in some of their photos."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Indices = NDArray[np.intp]


def digest(number: int) -> bytes:
    """A photo's digest of its own."""
    return (number + 1).to_bytes(8, "little") * 2


class Kind(StrEnum):
    """Which photos have a text in common."""

    RANDOM = "random"
    TOPIC = "topic"
    BURST = "burst"


@dataclass(frozen=True, eq=False)
class Library:
    """Embeddings float32 (N, d) of unit length, and the topic and event of each photo, int (N,)."""

    vectors: Vectors
    topics: Indices
    events: Indices

    def with_text(self, kind: Kind, count: int, random: np.random.Generator) -> Indices:
        """Photos that have a text in common: any; of one topic; half of the photos of a few events."""
        if kind is Kind.RANDOM:
            return random.choice(len(self.vectors), count, replace=False)
        if kind is Kind.TOPIC:
            sizes = np.bincount(self.topics)
            topic = random.choice(np.flatnonzero(sizes >= min(4 * count, sizes.max())))
            return random.choice(np.flatnonzero(self.topics == topic), count, replace=False)
        chosen: list[int] = []
        for event in random.permutation(int(self.events.max()) + 1):
            photos = random.permutation(np.flatnonzero(self.events == event))
            chosen += photos[: max(1, len(photos) // 2)].tolist()
            if len(chosen) >= count:
                break
        return np.array(chosen[:count], np.intp)


def made_up(count: int, dimension: int, seed: int = 0) -> Library:
    """A library with the traits of CLIP's: all within a cone, a few directions that matter most, topics of very unequal
    size, events of some 25 photos within them, and a third of the photos nearly the same as another of their event.
    """
    random = np.random.default_rng(seed)
    turned = np.linalg.qr(random.normal(size=(dimension, dimension)))[0].astype(np.float32)
    ranks = np.arange(1, dimension + 1)
    steep, flat = (np.sqrt(ranks**-power / np.sum(ranks**-power)).astype(np.float32) for power in (0.9, 0.45))

    def spread(rows: int, deviations: NDArray[np.float32], share: float) -> Vectors:
        return random.standard_normal((rows, dimension), dtype=np.float32) * deviations * np.float32(np.sqrt(share))

    topic_count, event_count = 200, max(1, count // 25)
    sizes = random.pareto(1.2, topic_count) + 0.2
    topic_of_event = random.choice(topic_count, event_count, p=sizes / sizes.sum())
    events = np.sort(random.integers(0, event_count, count))
    topics = topic_of_event[events]
    own = spread(count, flat, 0.13)
    twins = 1 + np.flatnonzero((random.random(count - 1) < 0.3) & (events[1:] == events[:-1]))
    own[twins] = own[twins - 1] + spread(len(twins), flat, 0.02)
    parts = spread(topic_count, steep, 0.2)[topics] + spread(event_count, steep, 0.17)[events] + own
    mean = random.standard_normal(dimension, dtype=np.float32)
    vectors = parts @ turned.T + mean / np.linalg.norm(mean) * np.float32(np.sqrt(0.5))
    order = random.permutation(count)
    vectors = vectors[order] / np.linalg.norm(vectors[order], axis=1, keepdims=True)
    return Library(vectors.astype(np.float32), topics[order], events[order])


def embedded_text(library: Library, topic: int, random: np.random.Generator) -> Vectors:
    """CLIP's embedding of a text about a topic: mostly in directions of its own, float32 (d,)."""
    centre = library.vectors[library.topics == topic].mean(0) - library.vectors.mean(0)
    own = random.standard_normal(library.vectors.shape[1])
    vector = 0.25 * centre / np.linalg.norm(centre) + 0.97 * own / np.linalg.norm(own)
    text: Vectors = (vector / np.linalg.norm(vector)).astype(np.float32)
    return text
