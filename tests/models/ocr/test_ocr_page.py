"""How the lines of a page are read, with a recogniser that is told what it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from immich_ml_cn.models.ocr.crops import crop_line
from immich_ml_cn.models.ocr.page import read_page, step
from immich_ml_cn.models.results import ReadText, TextBoxes

Reading = tuple[str, float]
UPRIGHT, ON_ITS_LEFT, UPSIDE_DOWN = 0, 1, 2
NOISE: Reading = ("~", 0.2)


@dataclass
class Recogniser:
    """Knows a line by the colour at its box's top-left corner, and its turn by where that corner is.

    Attributes:
        texts: of each line, by how many quarters counter-clockwise its box is turned; all else is noise.
        read: what it was asked, in order.
        stacked: what it reads in four characters side by side; no line has that form here.
    """

    texts: Sequence[Mapping[int, Reading]]
    stacked: Reading = NOISE
    read: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, crop: NDArray[np.uint8]) -> Reading:
        if crop.shape[1] == 4 * crop.shape[0]:
            return self.stacked
        corners = [crop[y, x] for y, x in ((0, 0), (-1, 0), (-1, -1), (0, -1))]
        for turn, corner in enumerate(corners):
            if corner[0] == 255:
                self.read.append((int(corner[1]), turn))
                return self.texts[int(corner[1])].get(turn, NOISE)
        raise AssertionError("not one of the lines")


def play(
    boxes: NDArray[np.float32],
    probabilities: Sequence[float],
    recogniser: Recogniser,
    min_score: float = 0.5,
    *,
    large_count: int = 0,
) -> ReadText:
    image = np.zeros((1000, 1000, 3), np.uint8)
    for number, box in enumerate(boxes):
        x, y = box[0].astype(int)
        image[y, x] = 255, number, 0
    scores = np.linspace(0.5, 1, len(boxes), dtype=np.float32)
    count = len(boxes) - large_count
    found, large = TextBoxes(boxes[:count], scores[:count]), TextBoxes(boxes[count:], scores[count:])
    crops = [crop_line(image, box) for box in boxes]
    page = read_page(found, large, crops, probabilities, min_score)
    wanted = step(page)
    while not isinstance(wanted, ReadText):
        wanted = step(page, [recogniser(crop) for crop in wanted])
    return wanted


def rows(count: int, width: int = 300) -> NDArray[np.float32]:
    return boxes(*((50, 50 + 60 * row, width, 40) for row in range(count)))


def boxes(*rects: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """From (left, top, width, height)."""
    return np.array([[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in rects], np.float32)


def first_corners(answer: ReadText) -> list[list[float]]:
    corners: list[list[float]] = answer.lines.boxes[:, 0].tolist()
    return corners


def test_lines_that_agree_are_read_once() -> None:
    recogniser = Recogniser([{UPRIGHT: (f"line {row}", 0.99)} for row in range(5)])
    answer = play(rows(5), [0.01, 0.3, 0.05, 0.6, 0.02], recogniser)
    assert recogniser.read == [(row, UPRIGHT) for row in range(5)]
    assert answer.texts == tuple(f"line {row}" for row in range(5))
    assert answer.scores == (0.99,) * 5
    np.testing.assert_array_equal(answer.lines.boxes, rows(5))


def test_a_line_against_its_page_is_read_both_ways_and_stays_when_in_doubt() -> None:
    lines = [{UPRIGHT: (text, 0.999)} for text in ("97", "98", "99")]
    lines[1] = {UPRIGHT: ("98", 0.99998), UPSIDE_DOWN: ("86", 0.99999)}
    recogniser = Recogniser(lines)
    assert play(rows(3), [0.01, 0.99, 0.02], recogniser).texts == ("97", "98", "99")
    assert sorted(recogniser.read) == [(0, 0), (1, 0), (1, 2), (2, 0)]


def test_a_line_against_its_page_is_turned_when_it_is_read_clearly_better() -> None:
    lines: list[dict[int, Reading]] = [{UPRIGHT: (text, 0.99)} for text in ("above", "", "below")]
    lines[1] = {UPSIDE_DOWN: ("turned", 0.98), UPRIGHT: ("p", 0.5)}
    answer = play(rows(3), [0.01, 0.99, 0.01], Recogniser(lines))
    assert answer.texts == ("above", "turned", "below")
    # The turned line begins at the lower right corner of its box.
    assert first_corners(answer) == [[50, 50], [350, 150], [50, 170]]


@pytest.mark.parametrize(("score", "expected"), [(0.99, "9909"), (0.9, "9909"), (0.5, "6066")])
def test_a_lone_line_is_turned_only_when_it_is_read_clearly_better(score: float, expected: str) -> None:
    recogniser = Recogniser([{UPRIGHT: ("9909", score), UPSIDE_DOWN: ("6066", 0.94)}])
    assert play(rows(1), [0.99], recogniser).texts == (expected,)


def test_a_page_upside_down_is_read_from_its_own_top() -> None:
    recogniser = Recogniser([{UPSIDE_DOWN: (f"line {row}", 0.99)} for row in range(6)])
    answer = play(rows(6), [0.99, 0.95, 0.5, 0.99, 0.3, 0.97], recogniser)
    assert answer.texts == tuple(f"line {row}" for row in reversed(range(6)))
    assert first_corners(answer)[0] == [350, 390]
    assert len(recogniser.read) == 6 + 3


def test_a_page_that_only_seems_upside_down_is_read_as_it_is() -> None:
    lines: list[dict[int, Reading]] = [{UPRIGHT: (text, 0.999), UPSIDE_DOWN: (text, 0.999)} for text in ("88", "69")]
    lines += [{UPRIGHT: ("shop", 0.9)}] * 3
    answer = play(rows(5), [0.99, 0.98, 0.4, 0.3, 0.6], Recogniser(lines))
    assert answer.texts == ("88", "69", "shop", "shop", "shop")
    np.testing.assert_array_equal(answer.lines.boxes, rows(5))


def test_a_line_against_a_page_upside_down_goes_with_its_page_when_in_doubt() -> None:
    lines: list[dict[int, Reading]] = [{UPSIDE_DOWN: (f"line {row}", 0.99)} for row in range(5)]
    lines[2] = {UPSIDE_DOWN: ("98", 0.9999), UPRIGHT: ("86", 0.99999)}
    lines[3] = {UPSIDE_DOWN: ("?", 0.3), UPRIGHT: ("upright", 0.99)}
    answer = play(rows(5), [0.99, 0.99, 0.01, 0.01, 0.99], Recogniser(lines))
    assert answer.texts == ("line 4", "upright", "98", "line 1", "line 0")


VERTICAL = boxes((500, 50, 40, 400), (400, 50, 40, 400))


def test_vertical_writing_begins_at_the_top_left_of_its_column() -> None:
    lines = [{ON_ITS_LEFT: ("春风又绿江南岸", 0.99)}, {ON_ITS_LEFT: ("明月何时照我还", 0.98)}]
    answer = play(VERTICAL, [0.01, 0.01], Recogniser(lines, stacked=("春风又", 0.9)))
    assert answer.texts == ("春风又绿江南岸", "明月何时照我还")
    assert first_corners(answer) == [[500, 50], [400, 50]]


@pytest.mark.parametrize("stacked", [NOISE, ("又", 0.9), ("江山", 0.9)])
def test_a_page_on_its_side_begins_at_its_own_top_left(stacked: Reading) -> None:
    lines = [{ON_ITS_LEFT: ("春风又绿江南岸", 0.99)}, {ON_ITS_LEFT: ("明月何时照我还", 0.98)}]
    answer = play(VERTICAL, [0.01, 0.01], Recogniser(lines, stacked=stacked))
    assert first_corners(answer) == [[540, 50], [440, 50]]


def test_latin_text_on_its_side_is_no_vertical_writing() -> None:
    recogniser = Recogniser([{ON_ITS_LEFT: ("The quick", 0.99)}, {ON_ITS_LEFT: ("brown fox", 0.98)}])
    answer = play(VERTICAL, [0.01, 0.01], recogniser)
    assert first_corners(answer) == [[540, 50], [440, 50]]
    assert len(recogniser.read) == 2


def test_lone_characters_of_a_page_on_its_side_lie_as_the_page_does() -> None:
    page = np.concatenate([VERTICAL, boxes((400, 500, 40, 44))])
    lines = [{ON_ITS_LEFT: ("The quick", 0.99)}, {ON_ITS_LEFT: ("brown", 0.98)}, {ON_ITS_LEFT: ("42", 0.99)}]
    assert play(page, [0.01, 0.01, 0.4], Recogniser(lines)).texts == ("The quick", "brown", "42")


def test_short_words_of_a_page_on_its_side_lie_as_the_page_does() -> None:
    """None is so long that it surely stands: two characters that are as wide as high, and words of three."""
    page = boxes((500, 50, 40, 56), (500, 200, 40, 90), (400, 50, 40, 90), (400, 200, 40, 90))
    lines = [{ON_ITS_LEFT: (word, 0.99)} for word in ("橙汁", "89.20", "纯牛奶", "50.00")]
    answer = play(page, [0.9, 0.01, 0.01, 0.01], Recogniser(lines))
    assert answer.texts == ("橙汁", "89.20", "纯牛奶", "50.00")
    assert first_corners(answer)[0] == [540, 50]


def test_a_narrow_character_among_horizontal_lines_stands_upright() -> None:
    page = boxes((50, 50, 300, 40), (400, 50, 20, 40))
    lines = [{UPRIGHT: ("Gate", 0.99)}, {UPRIGHT: ("1", 0.99), ON_ITS_LEFT: ("一", 0.98)}]
    answer = play(page, [0.01, 0.01], Recogniser(lines))
    assert answer.texts == ("Gate", "1")
    assert first_corners(answer) == [[50, 50], [400, 50]]


@pytest.mark.parametrize(("again", "expected"), [(0.99, 0.99), (0.85, 0.7)])
def test_a_doubtful_line_is_read_again_with_a_margin(again: float, expected: float) -> None:
    """With its margin, the coloured corner is no longer one pixel, and lies where it lay."""
    scores = iter([0.7, again])

    class Doubting(Recogniser):
        def __call__(self, crop: NDArray[np.uint8]) -> Reading:
            return "64", next(scores)

    answer = play(rows(1), [0.3], Doubting([]))
    assert (answer.texts, answer.scores) == (("64",), (expected,))


@pytest.mark.parametrize(
    ("large", "expected"), [("沪C·00644", ("沪C·00644",)), ("C00644", ("沪C·0", "00644")), ("7", ("沪C·0", "00644"))]
)
def test_pieces_of_a_large_line_give_way_to_the_whole(large: str, expected: tuple[str, ...]) -> None:
    page = boxes((100, 100, 300, 120), (350, 100, 400, 120), (90, 90, 700, 140))
    lines = [{UPRIGHT: reading} for reading in (("沪C·0", 0.97), ("00644", 0.9999), (large, 0.95))]
    assert play(page, [0.01] * 3, Recogniser(lines), large_count=1).texts == expected


@pytest.mark.parametrize(("frame", "expected"), [((0, 0, 900, 800), [310, 210]), ((300, 200, 300, 400), [300, 200])])
def test_a_frame_around_a_large_character_gives_way_to_it(
    frame: tuple[int, int, int, int], expected: list[float]
) -> None:
    page = boxes(frame, (310, 210, 280, 380))
    answer = play(page, [0.01] * 2, Recogniser([{UPRIGHT: ("4", 0.97)}] * 2), large_count=1)
    assert (answer.texts, first_corners(answer)) == (("4",), [expected])


def test_symbols_and_unsure_lines_are_left_out() -> None:
    lines = [{UPRIGHT: reading} for reading in (("★", 0.99), ("text", 0.99), ("unsure", 0.49), ("  ", 0.9))]
    answer = play(rows(4), [0.01] * 4, Recogniser(lines))
    assert answer.texts == ("text",)
    assert answer.lines.scores.tolist() == pytest.approx([0.5 + 0.5 / 3])


def test_nothing_but_symbols_is_no_text() -> None:
    answer = play(rows(1), [0.01], Recogniser([{UPRIGHT: ("★", 0.99)}]))
    assert (answer.texts, answer.lines.boxes.shape) == ((), (0, 4, 2))
