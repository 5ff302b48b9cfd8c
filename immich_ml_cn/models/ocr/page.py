"""All lines of one picture: which way round each is read, where its text begins, and what of it is an answer.

`read_page` decides, and asks for readings as it needs them; whoever drives it runs the recogniser. No weak model
decides alone. The classifier takes an upright ``98`` for an ``86`` upside down, and says so with 0.99. So the lines of
a page vote, a page is turned only where its longest lines are then read clearly better, and so is a line against its
page.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.models.results import ReadText, TextBoxes

from . import vertical
from .crops import box_sizes, is_vertical, with_margin
from .ctc import is_text
from .large import parts_of
from .reading_order import reading_order

Crop: TypeAlias = NDArray[np.uint8]
"""A picture of one line, uint8 (h, w, 3), RGB."""

Reading: TypeAlias = tuple[str, float]
"""A line's text and score, 0…1."""

Readings: TypeAlias = Generator[list[Crop], list[Reading], ReadText]
Asking: TypeAlias = Generator[list[Crop], list[Reading], None]

SURE: Final = 0.9
"""Probability above which the classifier's word on a line is a vote, and below whose complement; score of a line from
which it needs no second look."""

UNSURE: Final = 0.5
"""Probability of what has no vote."""

CLEARLY: Final = 0.05
"""How much better a line must be read the other way round, of 1."""

PROBES: Final = 3
"""Lines of a page that seems upside down that are read both ways."""

FEW_LINES: Final = 3
"""Horizontal lines up to which one of them tells the direction of writing; of more, two have to agree."""

DOUBTFUL: Final = 0.6
"""A line read with a score from here to `SURE` is read again with a margin: its characters may be cut at an edge, or
the recogniser be at a loss for what comes after the last one. Below it, there is mostly nothing to read."""

NARROW_RATIO: Final = 2.5
"""A box up to this many times as high as wide may hold one upright character, a 1 or a 7."""


def read_page(
    found: TextBoxes, large: TextBoxes, crops: Sequence[Crop], probabilities: Sequence[float], min_score: float
) -> Readings:
    """Read the lines of one picture.

    Args:
        found: where the lines are, corners top-left first in the directions of the page.
        large: large characters that were found besides; where they lie over lines, those may be parts of them.
        crops: of each line and then of each large character, see `crops.crop_line`.
        probabilities: of each likewise, 0…1, that its crop is upside down.
        min_score: of a line's reading, below which it is left out.

    Yields:
        Pictures to read; their readings, in the same order, are to be sent.

    Returns:
        What was read, in reading order; the corners of a line begin where its text does, at the top left of its first
        character.
    """
    boxes = TextBoxes(np.concatenate([found.boxes, large.boxes]), np.concatenate([found.scores, large.scores]))
    page = Page(boxes.boxes, crops, np.array(probabilities, np.float64), len(large))
    yield from page.read_lines()
    yield from page.turn_lines()
    yield from page.find_direction()
    yield from page.read_again()
    return page.result(boxes, min_score)


def step(page: Readings, readings: list[Reading] | None = None) -> list[Crop] | ReadText:
    """Send a page what it asked for, at first nothing; what it asks for next, or its result."""
    try:
        return page.send(readings)  # type: ignore[arg-type]  # None starts a generator
    except StopIteration as end:
        result: ReadText = end.value
        return result


class Page:
    """The lines of a page and their readings so far.

    A turn is by how many quarters counter-clockwise the picture of a box is turned: a vertical line is read at 1, lying
    on its side, and at 3 if it is upside down.

    Attributes:
        upside_down: whether the page is.
        turns: of each line, at which it is read.
        upright: of each line, at which its characters are upright: another one in vertical writing.
    """

    def __init__(
        self,
        boxes: NDArray[np.float32],
        crops: Sequence[Crop],
        probabilities: NDArray[np.float64],
        large_count: int,
    ) -> None:
        """
        Args:
            large_count: how many of them, at the end, are large characters; beside lines they have no vote.
        """
        self._crops = crops
        self._large_count = large_count
        self._probabilities = probabilities
        if large_count < len(crops):
            self._probabilities[len(crops) - large_count :] = UNSURE
        self._readings: dict[tuple[int, int], Reading] = {}
        widths, heights = box_sizes(boxes)
        self._areas = widths * heights
        self._stands = is_vertical(widths, heights)
        self._narrow = self._stands & (heights <= NARROW_RATIO * widths)
        self._lone = ~self._stands & ~is_vertical(heights, widths)
        self._lone[len(crops) - large_count :] = False
        self._lengths = np.maximum(widths, heights) / np.minimum(widths, heights)
        self._stands_as_a_whole = bool(2 * self._lengths[self._stands & ~self._narrow].sum() > self._lengths.sum())
        self.upside_down = False
        self.turns = self._stands.astype(int).tolist()
        self.upright = list(self.turns)

    def read_lines(self) -> Asking:
        """Read the page the way round that the classifier says, and see whether it is so: lines against their page, and
        the longest of a page that seems upside down, are read both ways."""
        seems_upside_down, probes = self._vote()
        self._turn(seems_upside_down)
        yield from self._ask([*enumerate(self.turns), *self._other_way([*self._against(), *probes])])
        if not seems_upside_down:
            return
        other_way = [self._score(*key) for key in self._other_way(probes)]
        if not _is_clearly_better(_mean([self._score(line) for line in probes]), _mean(other_way)):
            self._turn(False)
            yield from self._ask([*enumerate(self.turns), *self._other_way(self._against())])

    def turn_lines(self) -> Asking:
        """Turn single lines that are read better so than as their page is."""
        for key in self._other_way(self._against()):
            if _is_clearly_better(self._score(*key), self._score(key[0])):
                self.turns[key[0]] = key[1]
        narrow = [] if self._stands_as_a_whole else np.flatnonzero(self._narrow).tolist()
        upright = [(line, self.turns[line] - 1) for line in narrow]
        yield from self._ask(upright)
        for line, turn in upright:
            if self._score(line, turn) >= self._score(line):
                self.turns[line] = turn

    def find_direction(self) -> Asking:
        """See which lines are vertical writing, and read lone characters the way up that the others are."""
        self.upright = list(self.turns)
        standing = [line for line, turn in enumerate(self.turns) if turn % 2]
        lying = [line for line, turn in enumerate(self.turns) if turn % 2 == 0]
        yield from self._find_direction(standing)
        # Not of two characters: those that look alike on their backs, 田中, would tell the wrong thing.
        long = [line for line in lying if self._lengths[line] > NARROW_RATIO]
        few = self.upside_down or len(lying) <= FEW_LINES + self._large_count
        yield from self._find_direction(long, witnesses=1 if few else 2)
        yield from self._turn_lone(standing)

    def read_again(self) -> Asking:
        """Read doubtful lines again, and keep what leaves at most a third of the doubt."""
        doubtful = [key for key in enumerate(self.turns) if DOUBTFUL <= self._score(*key) < SURE]
        if doubtful:
            readings = yield [with_margin(self._picture(*key)) for key in doubtful]
            for key, reading in zip(doubtful, readings, strict=True):
                if 1 - reading[1] <= (1 - self._score(*key)) / 3:
                    self._readings[key] = reading

    def result(self, found: TextBoxes, min_score: float) -> ReadText:
        """What was read, in reading order."""
        readings = [self._readings[key] for key in enumerate(self.turns)]
        count = len(readings) - self._large_count
        lines = [line for line in range(count) if is_text(*readings[line], min_score)]
        for line in range(count, len(readings)):
            parts = parts_of(found.boxes[line], found.boxes, lines)
            framed = max((self._areas[part] for part in parts), default=0) > 2 * self._areas[line]
            is_sure = is_text(*readings[line], max(min_score, SURE))
            if is_sure and _says_more(readings[line], [readings[part] for part in parts], framed):
                lines = [*(other for other in lines if other not in parts), line]
        text = np.array(lines, np.intp)
        order = text[reading_order(found.boxes[text], self.upside_down, [readings[line][0] for line in text])]
        boxes = np.array([np.roll(found.boxes[line], -self.upright[line], axis=0) for line in order], np.float32)
        kept = TextBoxes(boxes.reshape(-1, 4, 2), found.scores[order])
        return ReadText(kept, tuple(readings[line][0] for line in order), tuple(readings[line][1] for line in order))

    def _vote(self) -> tuple[bool, list[int]]:
        """Whether the page seems upside down, and then the lines to see it by: the longest of those that say so."""
        sure = (self._probabilities > SURE) | (self._probabilities < 1 - SURE)
        votes = np.where(sure, np.sign(self._probabilities - 0.5), 0) if sure.any() else self._probabilities - 0.5
        claimed = np.flatnonzero(votes > 0)
        longest = claimed[np.argsort(-self._lengths[claimed], kind="stable")]
        return bool((votes * self._lengths).sum() > 0), longest[:PROBES].tolist()

    def _turn(self, upside_down: bool) -> None:
        self.upside_down = upside_down
        self.turns = (self._stands.astype(int) + 2 * upside_down).tolist()

    def _against(self) -> list[int]:
        """Lines of which the classifier is sure that they are not the way round that the page is."""
        probabilities = 1 - self._probabilities if self.upside_down else self._probabilities
        return np.flatnonzero(probabilities > SURE).tolist()

    def _other_way(self, lines: Iterable[int]) -> list[tuple[int, int]]:
        return [(line, (self.turns[line] + 2) % 4) for line in lines]

    def _find_direction(self, lines: Sequence[int], witnesses: int = 1) -> Asking:
        """See of lines that are vertical writing or not, all or none, by the one or more that were read best."""
        lines = [line for line in lines if vertical.may_be_vertical(self._readings[line, self.turns[line]][0])]
        clearest = sorted(lines, key=self._clearness, reverse=True)[:witnesses]
        for line in clearest:
            # The first of two is asked on every page of ideographs: it is to cost little.
            most = vertical.CHARACTERS if line == clearest[-1] else vertical.PROBE_CHARACTERS
            [reading] = yield [vertical.stacked(self._picture(line, self.turns[line]), most)]
            if not vertical.is_vertical(self._readings[line, self.turns[line]][0], *reading, most):
                return
        for line in lines:
            self.upright[line] = (self.turns[line] + 3) % 4

    def _turn_lone(self, standing: Sequence[int]) -> Asking:
        """Read lone characters the way up that standing lines are, all or none, where those are more than lying ones
        and they are read no worse so."""
        lone = np.flatnonzero(self._lone).tolist()
        # Narrow boxes count here: they have been read both ways.
        lying = self._lengths.sum() - self._lengths[[*standing, *lone]].sum()
        if not (lone and standing) or self._lengths[standing].sum() <= lying:
            return
        longest = max(standing, key=lambda line: float(self._lengths[line]))
        turned = [(line, self.upright[longest]) for line in lone]
        yield from self._ask(turned)
        if _mean([self._score(*key) for key in turned]) >= _mean([self._score(line) for line in lone]):
            for line, turn in turned:
                self.turns[line] = self.upright[line] = turn

    def _clearness(self, line: int) -> float:
        return self._score(line) * min(vertical.CHARACTERS, float(self._lengths[line]))

    def _ask(self, keys: Iterable[tuple[int, int]]) -> Asking:
        """Ask for the readings that are missing, by line and turn."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._readings]
        if missing:
            readings = yield [self._picture(*key) for key in missing]
            self._readings.update(zip(missing, readings, strict=True))

    def _picture(self, line: int, turn: int) -> Crop:
        return np.ascontiguousarray(np.rot90(self._crops[line], turn - int(self._stands[line])))

    def _score(self, line: int, turn: int | None = None) -> float:
        return self._readings[line, self.turns[line] if turn is None else turn][1]


def _says_more(large: Reading, parts: Sequence[Reading], framed: bool) -> bool:
    """Whether a large character is what was read there, and not the lines that lie inside its box.

    Where a line says the same, its box is the better one, for it stands as the text does, unless it is a frame around
    the character. Lines that the large reading contains are pieces of it, cut at a gap or with a character twice.
    """
    texts = [text for text, _ in parts]
    if texts == [large[0]]:
        return framed
    if len(texts) > 1 and all(text in large[0] for text in texts):
        return True
    return len(large[0]) >= sum(len(text) for text, _ in parts) and all(large[1] >= score for _, score in parts)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _is_clearly_better(score: float, other: float) -> bool:
    return score - other >= CLEARLY and 1 - score <= (1 - other) / 2
