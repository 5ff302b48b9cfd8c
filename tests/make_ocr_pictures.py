"""Draws the pictures in ``tests/pictures/ocr`` and ``docs/sample.jpg``.

They are committed, because the fonts (Debian's fonts-noto-cjk and fonts-dejavu-core) are not on
every machine and other versions of them would draw other pixels. To draw them again, after a
change here: ``python tests/make_ocr_pictures.py``.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "tests" / "pictures" / "ocr"
SAMPLE = ROOT / "docs" / "sample.jpg"
FONTS = Path("/usr/share/fonts")
NOTO = FONTS / "opentype" / "noto"
SIMPLIFIED = 2  # the face of Noto's collections with mainland Chinese shapes

Colour = tuple[int, ...] | str

POEM = ["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"]
NEWS = [
    "人工智能正在改变我们的生活方式",
    "二〇二六年十一月二十二日 星期日",
    "北京市海淀区中关村大街二十七号",
    "上海到杭州的高铁只需四十五分钟",
    "欢迎光临，请勿吸烟！",
]
ENGLISH = [
    "The quick brown fox jumps",
    "over the lazy dog 12 times.",
    "Receipt No. 20261122-0042",
    "Total: $1,234.56 (incl. VAT)",
    "https://immich.app/docs",
]
MIXED = [
    "订单编号 ORDER 8839-2210",
    "拿铁咖啡 Caffe Latte ¥32.00",
    "合计 Total ¥57.50",
    "谢谢惠顾 Thank you",
    "Wi-Fi 密码: coffee2026",
]

STRIP = "滚动新闻：第三届图书节今天上午十点在市中心公园开幕，免费入场，欢迎光临！"


def sans(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    weight = "Bold" if bold else "Regular"
    return ImageFont.truetype(NOTO / f"NotoSansCJK-{weight}.ttc", size, index=SIMPLIFIED)


def serif(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(NOTO / "NotoSerifCJK-Bold.ttc", size, index=SIMPLIFIED)


def latin(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONTS / "truetype" / "dejavu" / "DejaVuSerif.ttf", size)


def page(
    size: tuple[int, int],
    lines: Iterable[str],
    font: ImageFont.FreeTypeFont,
    *,
    pitch: int,
    start: tuple[int, int] = (40, 40),
    ink: Colour = "#202020",
    paper: Colour = "#fbfaf5",
    mode: str = "RGB",
) -> Image.Image:
    """Lines of text below one another."""
    image = Image.new(mode, size, paper)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((start[0], start[1] + number * pitch), line, ink, font=font)
    return image


def gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    mask = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), mask)


def chinese() -> Image.Image:
    return page((640, 420), NEWS, sans(34), pitch=70)


def english() -> Image.Image:
    return page((640, 420), ENGLISH, latin(34), pitch=70)


def mixed() -> Image.Image:
    return page((640, 420), MIXED, sans(34), pitch=70)


def small() -> Image.Image:
    return page((200, 60), ["今日特价 ¥9.9"], sans(24), pitch=30, start=(16, 10))


def tiny() -> Image.Image:
    return page((150, 24), ["出口 EXIT 42"], sans(16), pitch=20, start=(8, 0))


def strip() -> Image.Image:
    return page((1000, 44), [STRIP], sans(22), pitch=30, start=(10, 4))


def large() -> Image.Image:
    image = gradient((2160, 1440), "#f7e8c8", "#cfe3ef")
    draw = ImageDraw.Draw(image)
    draw.text((180, 120), "城市图书馆开放时间", "#15324b", font=serif(150))
    draw.text((180, 330), "City Library Opening Hours", "#15324b", font=latin(96))
    for number, (day, hours) in enumerate(
        [
            *(("星期一 Monday", "闭馆 Closed"), ("星期二 Tuesday", "09:00 - 18:00")),
            *(("星期六 Saturday", "10:00 - 20:30"), ("星期日 Sunday", "13:00 - 17:00")),
        ]
    ):
        draw.text((200, 560 + number * 170), day, "#202020", font=sans(72))
        draw.text((1240, 560 + number * 170), hours, "#7a1f1f", font=sans(72, bold=True))
    draw.text((1100, 1330), "咨询电话 010-8888-6666", "#202020", font=sans(44))
    return image


def dense() -> Image.Image:
    image = Image.new("RGB", (1000, 720), "white")
    draw = ImageDraw.Draw(image)
    words = [*NEWS[2:], *ENGLISH[:3], *POEM, NEWS[0], ENGLISH[4]]
    for number in range(60):
        place = 30 + number % 3 * 330, 24 + number // 3 * 34
        draw.text(place, words[number % len(words)], "black", sans(18))
    return image


def rotated_90() -> Image.Image:
    return mixed().transpose(Image.Transpose.ROTATE_270)


def rotated_270() -> Image.Image:
    return mixed().transpose(Image.Transpose.ROTATE_90)


def rotated_180() -> Image.Image:
    return mixed().transpose(Image.Transpose.ROTATE_180)


def slanted() -> Image.Image:
    lines = [NEWS[0], ENGLISH[0], MIXED[1]]
    upright = page((640, 300), lines, sans(32), pitch=80)
    return upright.rotate(7, Image.Resampling.BICUBIC, expand=True, fillcolor="#fbfaf5")


def vertical() -> Image.Image:
    image = Image.new("RGB", (520, 560), "#f3ead2")
    draw = ImageDraw.Draw(image)
    for column, line in enumerate(["静夜思 李白", *POEM]):
        for row, character in enumerate(line):
            draw.text((420 - column * 90, 40 + row * 62), character, "#2a1a10", font=serif(52))
    return image


def light_on_dark() -> Image.Image:
    image = gradient((640, 420), "#10131f", "#30205a")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate([NEWS[0], ENGLISH[2], MIXED[3], "夜间模式 Dark mode"]):
        draw.text((40, 50 + number * 85), line, "#f4f4ff", font=sans(34))
    return image


def transparent_dark() -> Image.Image:
    size, ink, paper = (480, 240), (20, 20, 60, 255), (255, 255, 255, 0)
    return page(size, MIXED[:3], sans(28), pitch=64, ink=ink, paper=paper, mode="RGBA")


def transparent_light() -> Image.Image:
    size, ink, paper = (480, 240), (250, 250, 235, 255), (0, 0, 0, 0)
    return page(size, MIXED[2:], sans(28), pitch=64, ink=ink, paper=paper, mode="RGBA")


def two_columns() -> Image.Image:
    image = Image.new("RGB", (900, 420), "#ffffff")
    draw = ImageDraw.Draw(image)
    for number, (left, right) in enumerate(zip(NEWS, ENGLISH, strict=True)):
        draw.text((30, 36 + number * 72), left, "#111111", font=sans(24))
        draw.text((480, 38 + number * 72), right, "#111111", font=latin(22))
    return image


def screenshot() -> Image.Image:
    """A long screenshot of a chat, 6.5 times as high as wide."""
    image = Image.new("RGB", (400, 2600), "#ededed")
    draw = ImageDraw.Draw(image)
    words = [*POEM, "今晚一起吃饭吗？", "OK, see you at 7", "地址发我一下", "人民路 118 号", "收到"]
    for number in range(24):
        right, text = number % 2, f"{words[number % len(words)]}"
        width = int(draw.textlength(text, sans(22))) + 32
        x, y = (384 - width if right else 16), 30 + number * 106
        draw.rounded_rectangle((x, y, x + width, y + 56), 10, "#95ec69" if right else "white")
        draw.text((x + 16, y + 10), text, "#111111", font=sans(22))
    return image


def no_text() -> Image.Image:
    """Hills at dusk."""
    image = gradient((640, 420), "#f2b37a", "#5b6f9c")
    draw = ImageDraw.Draw(image)
    for depth, colour in enumerate(["#4a5a80", "#34456a", "#1e2c4a"]):
        heights = 250 + depth * 50 + 30 * np.sin(np.arange(0, 641, 8) / (90 - depth * 20) + depth)
        ridge = list(zip(range(0, 641, 8), heights.tolist(), strict=True))
        draw.polygon([*ridge, (640, 420), (0, 420)], colour)
    return image.filter(ImageFilter.GaussianBlur(1.5))


def sample() -> Image.Image:
    """A poster for the README."""
    image = gradient((1200, 800), "#fde7c3", "#f29a8e")
    draw = ImageDraw.Draw(image)
    draw.ellipse((820, 90, 1080, 350), "#e2504a")
    for depth, colour in enumerate(["#7d8fb3", "#526a94", "#2f4670"]):
        heights = 560 + depth * 65 + 40 * np.sin(np.arange(0, 1201, 10) / (150 - depth * 30) + depth)
        ridge = list(zip(range(0, 1201, 10), heights.tolist(), strict=True))
        draw.polygon([*ridge, (1200, 800), (0, 800)], colour)
    draw.text((90, 80), "山间音乐会", "#3a1d2b", font=serif(120))
    draw.text((96, 262), "Concert in the Hills", "#3a1d2b", font=latin(58))
    draw.text((96, 380), "2026年5月1日 晚上七点半", "#5c2b33", font=sans(44, bold=True))
    draw.text((96, 446), "Friday, May 1st, 7:30 pm", "#5c2b33", font=sans(38))
    draw.text((96, 716), "杭州西湖露天剧场", "#ffffff", font=sans(40, bold=True))
    draw.text((620, 718), "Free entry · 免费入场", "#ffffff", font=sans(38))
    return image


PNG: tuple[Callable[[], Image.Image], ...] = (
    *(chinese, english, mixed, small, tiny, strip, dense, rotated_90, rotated_180, rotated_270),
    *(slanted, vertical, transparent_dark, transparent_light, two_columns, screenshot),
)
JPEG: tuple[Callable[[], Image.Image], ...] = (large, light_on_dark, no_text)


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for draw in PNG:
        draw().save(PICTURES / f"{draw.__name__}.png", optimize=True)
    for draw in JPEG:
        draw().save(PICTURES / f"{draw.__name__}.jpg", quality=85)
    sample().save(SAMPLE, quality=88)


if __name__ == "__main__":
    main()
