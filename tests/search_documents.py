"""Photos of documents, made up, and what stands in them."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONTS = (
    Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"),
    Path("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc"),
)
SIZE = (640, 480)

FILLER = (
    "今日天气晴朗",
    "会议室在三楼",
    "请勿吸烟",
    "咖啡 25 元",
    "欢迎光临本店",
    "Good morning",
    "Platform 9",
    "图书馆开放时间",
    "地铁二号线",
    "牛肉面 18 元",
    "Happy birthday",
    "下午三点开始",
    "南京东路",
    "Open daily",
    "自助洗衣",
)
"""Lines that none of the searches below is after."""


@dataclass(frozen=True)
class Search:
    """A search of one kind, and how what it is after stands in photos: the lines of each form."""

    kind: str
    query: str
    forms: tuple[str, ...]


SEARCHES = (
    Search("2 characters", "ocr:发票", ("电子发票", "发票联", "發票", "发/票抬头")),
    Search("2 characters", "ocr:虹桥", ("虹桥机场", "上海虹桥站", "上海虹/桥站", "虹橋機場")),
    Search("2 characters", "文字：排队", ("请排队等候", "请排/队等候", "請排隊")),
    Search("3 to 4", "ocr:销售额", ("本月销售额", "销售额合计", "銷售額", "本月销舍额")),
    Search("3 to 4", "ocr:中国银行", ("中国银行", "中國銀行", "中国艮行")),
    Search("6", "ocr:增值税专用票", ("增值税专用票", "增值稅專用票", "增值税专/用票", "增值税专甩票")),
    Search("1 character", "ocr:鸡", ("香辣鸡腿", "鸡蛋灌饼", "雞湯")),
    Search("words", "ocr:receipt", ("Receipt", "ＲＥＣＥＩＰＴ", "Receipts", "Recelpt")),
    Search("several words", "ocr:保险 2024", ("保险合同/2024", "2024 保险单")),
)
DECOYS = ("境内销售", "中国人民", "保险箱", "销售部", "火车票", "Reception")
"""Like what is searched for, but something else."""


@dataclass(frozen=True)
class Photo:
    """A picture as JPEG, and the searches that are after it."""

    picture: bytes
    wanted_by: frozenset[str]


def font() -> Path | None:
    """A font with Chinese characters, if there is one."""
    return next((path for path in FONTS if path.exists()), None)


def photos(count: int, seed: int = 0) -> list[Photo]:
    """Photos of documents: some of each form of each search, and many others."""
    path = font()
    assert path is not None
    random = np.random.default_rng(seed)
    planted = [(search, form) for search in SEARCHES for form in search.forms]
    assert count >= 2 * len(planted)
    made = []
    for number in range(count):
        lines = [str(line) for line in random.choice(FILLER, 2, replace=False)]
        wanted: frozenset[str] = frozenset()
        if number < len(planted):
            search, form = planted[number]
            lines = [*lines[:1], *form.split("/"), *lines[1:]]
            wanted = frozenset({search.query})
        elif number % 4 == 0:
            lines.insert(1, str(random.choice(DECOYS)))
        made.append(Photo(_drawn(lines, path, random), wanted))
    return [made[index] for index in random.permutation(count)]


def _drawn(lines: list[str], path: Path, random: np.random.Generator) -> bytes:
    """Colours that CLIP can tell apart, and a sheet of paper with the lines."""
    colours = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize(SIZE, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    left, top = 150, 60
    draw.rectangle((left, top, left + 340, top + 40 + 64 * len(lines)), fill="white")
    for number, line in enumerate(lines):
        draw.text((left + 24, top + 24 + 64 * number), line, fill="black", font=ImageFont.truetype(path, 34))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()
