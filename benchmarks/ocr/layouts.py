"""Pages whose reading order is known: columns, books, leaflets, tables, receipts, forms, chats, posters, signs,
vertical pages, and vertical titles beside horizontal text."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import texts

VERTICAL_PITCH = 1.15
"""From one character to the next in vertical writing, in font sizes."""


@dataclass(frozen=True, slots=True)
class Item:
    """One line of text.

    Attributes:
        x: of its left edge in pixels.
        y: of its upper edge.
        size: of the font in pixels.
        vertical: its characters stand one below the other.
    """

    text: str
    x: float
    y: float
    size: float
    vertical: bool = False

    @property
    def length(self) -> float:
        """About how long it is in pixels."""
        wide = sum(unicodedata.east_asian_width(character) in "WF" for character in self.text)
        pitch = VERTICAL_PITCH if self.vertical else 1.0
        return self.size * (pitch * wide + 0.55 * (len(self.text) - wide))


@dataclass
class Layout:
    """A page.

    Attributes:
        items: in reading order.
    """

    kind: str
    name: str
    items: list[Item] = field(default_factory=list)

    def add(self, text: str, x: float, y: float, size: float = 28, vertical: bool = False) -> None:
        self.items.append(Item(text, x, y, size, vertical))

    def lines(self, lines: Sequence[str], x: float, y: float, size: float = 28, pitch: float = 1.5) -> float:
        """One below the other; where the next would stand."""
        for line in lines:
            self.add(line, x, y, size)
            y += pitch * size
        return y

    def boxes(self) -> NDArray[np.float32]:
        """About where a detector finds the lines, (N, 4, 2), corners from top-left clockwise."""
        found = []
        for item in self.items:
            width, height = (item.size, item.length) if item.vertical else (item.length, item.size)
            margin = 0.2 * item.size
            left, top, right, bottom = (
                item.x - margin,
                item.y - margin,
                item.x + width + margin,
                item.y + height + margin,
            )
            found.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        return np.array(found, np.float32).reshape(-1, 4, 2)


Maker = Callable[[], Layout]
_MAKERS: list[Maker] = []


def layouts() -> list[Layout]:
    """All of them."""
    return [make() for make in _MAKERS]


def _page(kind: str) -> Callable[[Callable[[Layout], None]], Callable[[Layout], None]]:
    def register(draw: Callable[[Layout], None]) -> Callable[[Layout], None]:
        def make() -> Layout:
            layout = Layout(kind, draw.__name__)
            draw(layout)
            return layout

        _MAKERS.append(make)
        return draw

    return register


# --- columns ---


@_page("columns")
def two_chinese_columns_at_the_same_heights(page: Layout) -> None:
    page.lines(texts.chinese_lines(0, 6, 12), 60, 60)
    page.lines(texts.chinese_lines(90, 6, 12), 460, 60)


@_page("columns")
def two_chinese_columns_staggered(page: Layout) -> None:
    page.lines(texts.chinese_lines(10, 8, 11), 60, 60)
    page.lines(texts.chinese_lines(120, 7, 11), 420, 82)


@_page("columns")
def two_columns_below_a_title(page: Layout) -> None:
    page.add("乡村生活四季随笔", 180, 40, 56)
    page.lines(texts.chinese_lines(30, 9, 12), 60, 150)
    page.lines(texts.chinese_lines(150, 9, 12), 440, 150)


@_page("columns")
def two_columns_between_a_title_and_a_footer(page: Layout) -> None:
    page.add("The Harbour Gazette, Monday Edition", 120, 30, 48)
    page.lines(texts.english_lines(0, 10, 30), 60, 130, 24)
    page.lines(texts.english_lines(60, 10, 30), 560, 130, 24)
    page.add("Printed in the old mill beside the river. All rights reserved.", 160, 560, 24)


@_page("columns")
def two_english_columns_of_unequal_length(page: Layout) -> None:
    page.lines(texts.english_lines(10, 14, 34), 50, 50, 24)
    page.lines(texts.english_lines(90, 7, 34), 580, 50, 24)


@_page("columns")
def the_right_column_begins_lower(page: Layout) -> None:
    page.lines(texts.chinese_lines(5, 12, 13), 50, 50, 26)
    page.lines(texts.chinese_lines(170, 6, 13), 470, 300, 26)


@_page("columns")
def three_chinese_columns(page: Layout) -> None:
    for column in range(3):
        page.lines(texts.chinese_lines(70 * column, 8, 9), 50 + 330 * column, 50, 26)


@_page("columns")
def three_english_columns_with_headings(page: Layout) -> None:
    for column, heading in enumerate(("Local news", "Weather today", "Trains and ships")):
        page.add(heading, 50 + 400 * column, 40, 34)
        page.lines(texts.english_lines(50 * column, 8, 28), 50 + 400 * column, 110 + 9 * column, 22)


@_page("columns")
def a_narrow_gutter(page: Layout) -> None:
    page.lines(texts.chinese_lines(40, 10, 14), 40, 40, 24)
    page.lines(texts.chinese_lines(200, 10, 14), 40 + 14 * 24 + 34, 40, 24)


@_page("columns")
def a_heading_amid_two_columns(page: Layout) -> None:
    page.lines(texts.chinese_lines(0, 5, 12), 60, 50)
    page.lines(texts.chinese_lines(80, 5, 12), 460, 50)
    page.add("下半年的故事从这里开始讲起", 190, 300, 44)
    page.lines(texts.chinese_lines(160, 5, 12), 60, 390)
    page.lines(texts.chinese_lines(240, 5, 12), 460, 390)


@_page("columns")
def two_paragraphs_in_each_column(page: Layout) -> None:
    for column in range(2):
        y = page.lines(texts.chinese_lines(90 * column, 4, 13), 50 + 440 * column, 50)
        page.lines(texts.chinese_lines(90 * column + 200, 4, 13), 50 + 440 * column, y + 14)


@_page("columns")
def text_above_two_columns(page: Layout) -> None:
    y = page.lines(texts.english_lines(0, 3, 70), 50, 40, 24)
    page.lines(texts.english_lines(40, 8, 31), 50, y + 40, 24)
    page.lines(texts.english_lines(110, 8, 31), 560, y + 40, 24)


@_page("columns")
def two_ragged_columns_in_english_at_the_same_heights(page: Layout) -> None:
    page.lines(texts.english_lines(3, 9, 24), 60, 60, 26, 1.45)
    page.lines(texts.english_lines(70, 9, 24), 520, 60, 26, 1.45)


@_page("columns")
def three_narrow_columns_in_english_below_their_headings(page: Layout) -> None:
    for column, heading in enumerate(("Garden", "Rivers", "Roads")):
        page.add(heading, 60 + 420 * column, 40, 40)
        page.lines(texts.english_lines(40 * column, 7, 22), 60 + 420 * column, 120, 28)


@_page("columns")
def a_short_line_begins_the_first_of_two_columns(page: Layout) -> None:
    page.add("乡村生活四季随笔", 300, 40, 60)
    page.add("本报讯", 60, 170, 36)
    page.lines(texts.chinese_lines(5, 10, 13), 60, 235, 36)
    page.lines(texts.chinese_lines(145, 11, 13), 640, 181, 36)


# --- books ---


@_page("books")
def an_open_book(page: Layout) -> None:
    page.lines(texts.chinese_lines(0, 14, 16), 60, 60, 26, 1.7)
    page.lines(texts.chinese_lines(190, 14, 16), 640, 66, 26, 1.7)


@_page("books")
def an_open_book_with_page_numbers(page: Layout) -> None:
    page.lines(texts.english_lines(0, 13, 36), 60, 60, 24, 1.6)
    page.add("24", 280, 600, 24)
    page.lines(texts.english_lines(100, 13, 36), 660, 60, 24, 1.6)
    page.add("25", 880, 600, 24)


@_page("books")
def an_open_book_with_page_numbers_far_below(page: Layout) -> None:
    for number, x in ((12, 80), (13, 620)):
        page.lines(texts.chinese_lines(150 * (number - 12), 10, 9), x, 80, 40, 1.7)
        page.add(str(number), x + 170, 840, 30)


@_page("books")
def a_chapter_begins_on_the_right_page(page: Layout) -> None:
    page.lines(texts.chinese_lines(20, 12, 15), 60, 60, 26, 1.7)
    page.add("第二章归途", 720, 100, 48)
    page.lines(texts.chinese_lines(220, 7, 15), 620, 280, 26, 1.7)


@_page("books")
def one_page(page: Layout) -> None:
    page.add("第一章", 260, 40, 44)
    page.lines(texts.chinese_lines(60, 12, 20), 60, 130)


# --- leaflets ---


@_page("leaflets")
def three_panels(page: Layout) -> None:
    for panel, title in enumerate(("开放时间", "交通指南", "参观须知")):
        x = 60 + 420 * panel
        page.add(title, x + 60, 50, 40)
        page.lines(texts.chinese_lines(100 * panel, 7, 11), x, 140 + 13 * panel, 26, 1.6)


@_page("leaflets")
def three_panels_of_ragged_lines(page: Layout) -> None:
    for panel in range(3):
        lines = [texts.chinese(40 * panel + 15 * number, 7 + (number * 3 + panel) % 5) for number in range(8)]
        page.lines(lines, 50 + 400 * panel, 60 + 19 * panel, 26, 1.6)


@_page("leaflets")
def two_panels_in_english(page: Layout) -> None:
    page.add("How to find us", 60, 40, 36)
    page.lines(texts.english_lines(5, 9, 30), 60, 120, 24)
    page.add("What to bring", 600, 58, 36)
    page.lines(texts.english_lines(75, 8, 30), 600, 138, 24)


@_page("leaflets")
def three_panels_of_numbered_items(page: Layout) -> None:
    for panel, title in enumerate(("服务项目", "办理流程", "注意事项")):
        page.add(title, 60 + 400 * panel, 40, 44)
        items = [f"{n + 1}. {texts.chinese(70 * panel + 11 * n, 6 + (n + panel) % 4)}" for n in range(7)]
        page.lines(items, 60 + 400 * panel, 120, 28, 1.7)


@_page("leaflets")
def questions_in_two_columns(page: Layout) -> None:
    for column in range(2):
        items = [f"{n + 1 + 6 * column}、{texts.chinese(70 * column + 13 * n, 7 + (n * 3) % 5)}" for n in range(6)]
        page.lines(items, 60 + 500 * column, 60, 30, 1.6)


# --- tables: row by row ---


def _table(
    page: Layout, rows: Sequence[Sequence[str]], xs: Sequence[float], size: float = 26, pitch: float = 1.8
) -> None:
    for number, row in enumerate(rows):
        for cell, x in zip(row, xs, strict=True):
            page.add(cell, x, 60 + number * pitch * size, size)


@_page("tables")
def a_timetable(page: Layout) -> None:
    rows = [("车次", "始发站", "终点站", "开车时间")]
    rows += [
        (f"G{100 + 7 * n}", city, texts.CITIES[(n + 3) % 10], f"{7 + n:02}:{5 * n + 10:02}")
        for n, city in enumerate(texts.CITIES[:8])
    ]
    _table(page, rows, (60, 240, 440, 640))


@_page("tables")
def a_price_list(page: Layout) -> None:
    _table(page, [(dish, f"¥{18 + 7 * n}.00") for n, dish in enumerate(texts.DISHES)], (60, 480), pitch=1.6)


@_page("tables")
def marks(page: Layout) -> None:
    rows = [("姓名", "语文", "数学", "英语", "总分")]
    rows += [(name, str(81 + n), str(95 - n), str(78 + 2 * n), str(254 + 2 * n)) for n, name in enumerate(texts.NAMES)]
    _table(page, rows, (60, 220, 340, 460, 580), pitch=1.6)


@_page("tables")
def addresses(page: Layout) -> None:
    rows = [
        (name, f"1380013{8000 + 137 * n}", f"{texts.CITIES[n]}市{texts.SIGNS[n % 3]}{3 * n + 8}号")
        for n, name in enumerate(texts.NAMES)
    ]
    _table(page, rows, (60, 220, 460), pitch=1.6)


@_page("tables")
def two_long_columns_far_apart(page: Layout) -> None:
    rows = [(texts.chinese(40 * n, 9 + n % 3 * 3), texts.chinese(40 * n + 20, 6 + n % 4 * 3)) for n in range(6)]
    _table(page, rows, (60, 560), pitch=2.6)


@_page("tables")
def words_in_two_languages(page: Layout) -> None:
    pairs = ("apple", "苹果"), ("umbrella", "雨伞"), ("mountain", "高山"), ("river", "河流"), ("library", "图书馆")
    _table(page, [*pairs, ("bridge", "桥梁"), ("harbour", "港口")], (60, 400), pitch=1.6)


@_page("tables")
def close_rows_of_three_cells(page: Layout) -> None:
    rows = [(texts.GOODS[n], f"规格{500 + 50 * n}克一袋装", f"{3 + n}.{n}0元") for n in range(12)]
    _table(page, rows, (60, 240, 560), pitch=1.35)


@_page("tables")
def a_calendar_of_events(page: Layout) -> None:
    rows = [(f"{3 + n}月{2 * n + 5}日", f"{texts.chinese(25 * n, 5 + n % 4)}讲座") for n in range(7)]
    _table(page, rows, (60, 300), pitch=1.9)


@_page("tables")
def a_list_of_words(page: Layout) -> None:
    pairs = ("apple", "pomme"), ("umbrella", "parapluie"), ("tin opener", "ouvre-boîte"), ("light bulb", "ampoule")
    _table(page, [*pairs, ("bridge", "pont"), ("harbour", "port"), ("railway", "chemin de fer")], (60, 400), pitch=1.5)


@_page("tables")
def questions_numbered_across(page: Layout) -> None:
    rows = [
        [f"{2 * n + side + 1}. {texts.chinese(17 * n + 90 * side, 6 + n % 4)}" for side in (0, 1)] for n in range(6)
    ]
    _table(page, rows, (60, 460), pitch=1.6)


@_page("tables")
def a_numbered_list_with_two_long_cells(page: Layout) -> None:
    rows = [(f"{n + 1}. {texts.chinese(19 * n, 6 + n % 3)}", texts.chinese(90 + 13 * n, 5 + n % 5)) for n in range(7)]
    _table(page, rows, (60, 460), pitch=1.6)


# --- receipts: row by row ---


@_page("receipts")
def a_short_receipt(page: Layout) -> None:
    rows = [(item, f"{5 + 3 * n}.{n}0") for n, item in enumerate(texts.GOODS[:6])]
    _table(page, [*rows, ("合计", "140.70")], (60, 520), 30, 1.7)


@_page("receipts")
def a_receipt_with_quantities(page: Layout) -> None:
    page.add("福源超市购物小票", 140, 20, 36)
    for number, goods in enumerate(texts.GOODS[:10]):
        y = 100 + 42 * number
        page.add(goods, 50, y, 26)
        page.add(f"x{number + 1}", 300, y, 26)
        page.add(f"{4 + number}.50", 480, y, 26)
    page.add("谢谢惠顾欢迎下次光临", 120, 560, 28)


@_page("receipts")
def an_english_receipt(page: Layout) -> None:
    page.add("CORNER BAKERY", 130, 20, 34)
    rows = ("Sourdough loaf", "6.20"), ("Cinnamon roll", "3.40"), ("Flat white", "4.10"), ("Orange juice", "3.90")
    for number, (name, price) in enumerate([*rows, ("Subtotal", "17.60"), ("Tax 8%", "1.41"), ("TOTAL", "19.01")]):
        page.add(name, 50, 90 + 40 * number, 26)
        page.add(price, 440, 90 + 40 * number, 26)


@_page("receipts")
def names_over_two_lines(page: Layout) -> None:
    for number, goods in enumerate(texts.GOODS[:6]):
        y = 50 + 90 * number
        page.add(f"{goods}{texts.chinese(30 * number, 8)}", 50, y, 26)
        page.add(f"单价{number + 2}.00元", 50, y + 40, 24)
        page.add(f"{number + 2}.00", 460, y + 40, 24)


@_page("receipts")
def a_long_receipt(page: Layout) -> None:
    for number, goods in enumerate(texts.GOODS):
        page.add(goods, 40, 40 + 36 * number, 24)
        page.add(f"{1 + number}.{number % 10}5", 360, 40 + 36 * number, 24)


# --- forms ---


@_page("forms")
def labels_and_values(page: Layout) -> None:
    pairs = ("姓名", "张建国"), ("性别", "男"), ("出生日期", "1986年4月12日"), ("住址", "杭州市人民路18号")
    for number, (label, value) in enumerate([*pairs, ("联系电话", "13800138000"), ("邮箱", "jianguo@example.com")]):
        page.add(label, 60, 60 + 62 * number, 28)
        page.add(value, 280, 60 + 62 * number, 28)


@_page("forms")
def two_pairs_in_a_row(page: Layout) -> None:
    rows = ("姓名", "李文静", "工号", "20260117"), ("部门", "市场部", "职位", "经理"), ("城市", "成都", "学历", "本科")
    for number, row in enumerate(rows):
        for text, x in zip(row, (60, 180, 420, 540), strict=True):
            page.add(text, x, 60 + 60 * number, 28)


@_page("forms")
def a_label_for_each_long_value(page: Layout) -> None:
    for number, label in enumerate(("申请理由", "工作经历", "个人特长", "备注")):
        page.add(label, 60, 60 + 70 * number, 28)
        page.add(texts.chinese(45 * number, 18), 260, 60 + 70 * number, 28)


# --- chats ---


@_page("chats")
def short_messages(page: Layout) -> None:
    for number, message in enumerate(texts.CHAT):
        x = 60 if number % 2 == 0 else 640 - len(message) * 28
        page.add(message, x, 60 + 84 * number)


@_page("chats")
def messages_of_two_lines(page: Layout) -> None:
    y = 60.0
    for number in range(6):
        lines = [texts.chinese(60 * number, 13), texts.chinese(60 * number + 13, 7)]
        y = page.lines(lines, 60 if number % 2 == 0 else 420, y, 26, 1.4) + 50


@_page("chats")
def names_above_messages(page: Layout) -> None:
    for number in range(6):
        y = 50 + 130 * number
        page.add(texts.NAMES[number], 60, y, 22)
        page.add(texts.CHAT[number], 60, y + 40, 28)


# --- posters and signs ---


@_page("posters")
def centred_lines(page: Layout) -> None:
    lines = ("山间音乐会", 90), ("二〇二六年五月一日晚七点", 40), ("西湖露天剧场", 56), ("免费入场请提前到达", 36)
    y = 60.0
    for text, size in lines:
        page.add(text, 500 - len(text) * size / 2, y, size)
        y += 1.7 * size


@_page("posters")
def a_date_and_a_place_side_by_side(page: Layout) -> None:
    page.add("秋季图书节开幕", 100, 40, 80)
    page.add("11月22日", 100, 220, 44)
    page.add("市民中心广场", 560, 220, 44)
    page.add("咨询电话 010-8888-6666", 100, 340, 36)


@_page("posters")
def english_lines_of_many_sizes(page: Layout) -> None:
    page.add("GRAND OPENING", 80, 40, 96)
    page.add("Friday May 1st", 80, 190, 56)
    page.add("Half price on everything in the shop", 80, 300, 36)
    page.add("12 Harbour Street", 80, 380, 36)


@_page("signs")
def shops_in_a_street(page: Layout) -> None:
    page.add("老王面馆", 80, 80, 60)
    page.add("福源超市", 520, 90, 60)
    page.add("早餐午餐晚餐", 90, 220, 36)


@_page("signs")
def directions(page: Layout) -> None:
    for number, (place, distance) in enumerate((("中山公园", "300m"), ("地铁二号线", "500m"), ("图书馆", "1.2km"))):
        page.add(place, 80, 60 + 110 * number, 56)
        page.add(distance, 560, 60 + 110 * number, 56)


@_page("signs")
def a_vertical_sign_beside_others(page: Layout) -> None:
    page.add("春风书店", 640, 60, 70, vertical=True)
    page.add("营业时间九点到二十一点", 60, 180, 36)
    page.add("欢迎光临", 60, 420, 60)


@_page("signs")
def two_vertical_signs_and_a_board(page: Layout) -> None:
    page.add("大众药房", 200, 30, 60)
    page.add("中西药品", 700, 160, 50, vertical=True)
    page.add("医疗器械", 60, 160, 50, vertical=True)
    page.add("电话 8866-1234", 240, 480, 40)


# --- vertical pages ---


def _columns(page: Layout, lines: Sequence[str], right: float, y: float, size: float = 40, pitch: float = 1.8) -> None:
    for number, line in enumerate(lines):
        page.add(line, right - number * pitch * size, y, size, vertical=True)


@_page("vertical")
def a_poem(page: Layout) -> None:
    _columns(page, texts.POEM, 500, 60)


@_page("vertical")
def a_poem_below_its_title(page: Layout) -> None:
    page.add("泊船瓜洲", 240, 30, 60)
    _columns(page, texts.POEM, 500, 150)


@_page("vertical")
def an_old_book(page: Layout) -> None:
    _columns(page, [texts.chinese(20 * n, 18) for n in range(10)], 760, 50, 34)


@_page("vertical")
def two_tiers(page: Layout) -> None:
    _columns(page, texts.LONG_POEM[:4], 500, 50)
    _columns(page, texts.LONG_POEM[4:], 500, 400)


@_page("vertical")
def columns_of_unequal_length(page: Layout) -> None:
    _columns(page, [texts.chinese(30 * n, 14 if n % 3 else 9) for n in range(7)], 620, 50, 36)


@_page("vertical")
def a_vertical_page_with_a_footer(page: Layout) -> None:
    _columns(page, texts.POEM, 500, 60)
    page.add("中华书局一九八二年版", 180, 480, 28)


# --- vertical titles beside horizontal text ---


def _list(page: Layout, x: float, y: float) -> None:
    spots = "一、断桥残雪位于白堤东端", "二、苏堤春晓全长近三公里", "三、三潭印月是湖中小岛", "四、雷峰夕照在南屏山麓"
    page.lines(spots, x, y, 36, 2.2)


@_page("vertical titles")
def a_title_on_the_right(page: Layout) -> None:
    page.add("西湖风景区导览图", 760, 60, 56, vertical=True)
    _list(page, 60, 100)


@_page("vertical titles")
def a_title_on_the_left(page: Layout) -> None:
    page.add("西湖风景区导览图", 60, 60, 56, vertical=True)
    _list(page, 200, 100)


@_page("vertical titles")
def a_title_beside_a_paragraph(page: Layout) -> None:
    page.add("四季随笔", 620, 60, 60, vertical=True)
    page.lines(texts.chinese_lines(0, 9, 16), 60, 70, 30, 1.5)


@_page("vertical titles")
def a_seal_below_a_paragraph(page: Layout) -> None:
    page.lines(texts.chinese_lines(50, 6, 16), 60, 60, 30, 1.5)
    page.add("张建国书", 560, 380, 30, vertical=True)
