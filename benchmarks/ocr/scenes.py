"""Pictures whose text is known: receipts, signs, screenshots, book pages, tables and plates, at any angle, blurred,
noisy or in perspective, in six Chinese and two Latin fonts. The same seed draws the same pictures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from . import texts
from .drawing import CHINESE, LATIN, Picture, blurred, draw, extent, in_perspective, is_wide, jpeg, noisy, rotated
from .layouts import Layout

ANGLES = (0, 0, 0, 1, 358, 3, 356, 7, 352, 12, 345, 90, 94, 180, 177, 270, 266, 30, 318, 45, 135, 210, 240, 301)
EFFECTS = ("none", "blur", "noise", "perspective")
SHORT_SIDE = 1440
"""Of the pictures that Immich sends, in pixels."""


@dataclass(frozen=True)
class Scene:
    """A picture, and its text in reading order."""

    kind: str
    name: str
    text: str
    picture: bytes


def scenes(per_kind: int, seed: int = 0) -> Iterator[Scene]:
    """So many pictures of each kind."""
    for kind, make in _KINDS.items():
        for number in range(per_kind):
            random = np.random.default_rng([seed, len(kind), number, *kind.encode()])
            layout = make(random, number)
            angle, effect = ANGLES[number % len(ANGLES)], EFFECTS[number % len(EFFECTS)]
            text = "".join(item.text for item in layout.items)
            fonts = list(CHINESE) if is_wide(text) else [*CHINESE, *LATIN]
            face = fonts[number % len(fonts)]
            picture = _photographed(_drawn(layout, face, kind), angle, effect, random)
            yield Scene(kind, f"{number:02} {face}, {angle} degrees, {effect}", text, jpeg(picture))


def _drawn(layout: Layout, face: str, kind: str) -> Picture:
    size = extent(layout.items)
    ink, paper = ("#f2f2f2", "#1f3a6b") if kind in ("signs", "plates") else ("#202020", "#fbfaf5")
    return draw(
        layout.items, size, face, scale=SHORT_SIDE / min(size) if min(size) < SHORT_SIDE else 1, ink=ink, paper=paper
    )


def _photographed(picture: Picture, angle: float, effect: str, random: np.random.Generator) -> Picture:
    if effect == "perspective":
        picture = in_perspective(picture, 0.06, random)
    if angle:
        picture = rotated(picture, angle)
    picture = _as_sent(picture)
    if effect == "blur":
        return blurred(picture, 1.8)
    return noisy(picture, 18, random) if effect == "noise" else picture


def _as_sent(picture: Picture) -> Picture:
    import cv2

    ratio = SHORT_SIDE / min(picture.shape[:2])
    size = round(picture.shape[1] * ratio), round(picture.shape[0] * ratio)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _receipt(random: np.random.Generator, number: int) -> Layout:
    page = Layout("receipts", "")
    page.add(f"{texts.SHOPS[number % len(texts.SHOPS)]}购物小票", 100, 40, 34)
    goods = random.permutation(texts.GOODS)[: int(random.integers(5, 11))]
    for row, name in enumerate(goods):
        page.add(str(name), 40, 110 + 42 * row, 26)
        page.add(f"{random.integers(1, 99)}.{random.integers(0, 10)}0", 400, 110 + 42 * row, 26)
    page.add("合计", 40, 120 + 42 * len(goods), 30)
    page.add(f"{random.integers(100, 400)}.50", 390, 120 + 42 * len(goods), 30)
    return page


def _sign(random: np.random.Generator, number: int) -> Layout:
    page = Layout("signs", "")
    if number % 3 == 2:
        words = [str(word) for word in random.permutation(texts.ENGLISH_SIGNS)[: 1 + number % 4]]
    else:
        words = [str(word) for word in random.permutation(texts.SIGNS)[: 1 + number % 4]]
    page.lines(words, 120, 120, 90, 1.6)
    if number % 5 == 0:
        page.add(f"{random.integers(100, 999)}米", 120, 120 + 144 * len(words), 70)
    return page


def _screenshot(random: np.random.Generator, number: int) -> Layout:
    page = Layout("screenshots", "")
    page.add(f"{8 + number % 12:02}:{random.integers(10, 59)}", 40, 20, 24)
    for row in range(int(random.integers(6, 11))):
        message = texts.CHAT[(row + number) % len(texts.CHAT)]
        x = 60 if row % 2 == 0 else 680 - 28 * len(message)
        page.add(message, x, 90 + 90 * row, 28)
    return page


def _book(random: np.random.Generator, number: int) -> Layout:
    page = Layout("book pages", "")
    start = int(random.integers(0, 150))
    if number % 4 == 3:  # two columns
        page.lines(texts.chinese_lines(start, 9, 13), 50, 60, 28, 1.6)
        page.lines(texts.chinese_lines(start + 120, 9, 13), 500, 60, 28, 1.6)
    elif number % 4 == 2:
        page.lines(texts.english_lines(start % 60, 12, 44), 60, 60, 28, 1.6)
    elif number % 4 == 1:  # vertical
        for column in range(7):
            page.add(texts.chinese(start + 14 * column, 14), 560 - 76 * column, 60, 40, vertical=True)
    else:
        page.add(f"第{'一二三四五六七八九'[number % 9]}章", 260, 40, 40)
        page.lines(texts.chinese_lines(start, 11, 20), 50, 130, 28, 1.6)
    return page


def _table(random: np.random.Generator, number: int) -> Layout:
    page = Layout("tables", "")
    rows: list[tuple[str, ...]] = (
        [("车次", "始发站", "终点站", "开车")] if number % 2 else [("姓名", "语文", "数学", "英语")]
    )
    for row in range(int(random.integers(5, 9))):
        cities = random.permutation(texts.CITIES)
        if number % 2:
            rows.append(
                (f"G{random.integers(100, 999)}", str(cities[0]), str(cities[1]), f"{7 + row:02}:{10 + 5 * row}")
            )
        else:
            rows.append((texts.NAMES[row], *(str(mark) for mark in random.integers(60, 99, 3))))
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            page.add(cell, 50 + 190 * column, 60 + 52 * row, 30)
    return page


def _plate(random: np.random.Generator, number: int) -> Layout:
    page = Layout("plates", "")
    digits = "".join(str(digit) for digit in random.choice(list("0123456789"), 5))
    if number % 3 == 0:
        page.add(f"{'京沪粤浙川'[number % 5]}{'ABCDE'[number % 4]}·{digits}", 120, 120, 110)
    elif number % 3 == 1:
        page.add(f"No. {digits[:3]}", 120, 120, 110)
    else:
        page.add(f"人民路{digits[:3]}号", 120, 120, 110)
    return page


_KINDS: dict[str, Callable[[np.random.Generator, int], Layout]] = {
    "receipts": _receipt,
    "signs": _sign,
    "screenshots": _screenshot,
    "book pages": _book,
    "tables": _table,
    "plates": _plate,
}
