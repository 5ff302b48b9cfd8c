"""Bigrams against words against both, on the same documents: what each finds, and in which order."""

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import rjieba

from immich_ml_cn.search.normalisation import normalise_lines
from immich_ml_cn.search.query import for_text
from immich_ml_cn.search.texts import Texts

DOCUMENTS: Final = 8000
MISREAD: Final = 0.03
_WRITTEN: Final = """
鸡 鱼 茶 水 票 车 酒 米 花 书 药 糖 发票 报销 合同 金额 日期 地址 电话 公司 银行 支付 订单
会员 机场 车站 火车 鸡蛋 鸡毛 田鸡 鱼香 金鱼 茶叶 红茶 水果 开水 车票 彩票 股票 汽车 车间 白酒
酒店 大米 玉米 花生 鲜花 书店 图书 药店 中药 白糖 糖果 牛肉 米饭 面条 豆腐 青菜 苹果 香蕉 上海
北京 广州 深圳 杭州 南京 成都 武汉 销售额 营业额 手续费 身份证 驾驶证 出租车 图书馆 博物馆 火车站
飞机场 发票号 增值税 所得税 开户行 收款人 付款人 证明书 通知书 说明书 中国银行 人民医院 高速公路
有限公司 营业执照 注意事项 联系方式 身份证明 电子发票 增值税专用发票 中华人民共和国 国家税务总局
人力资源服务 今天 明天 时间 上午 下午 欢迎 光临 谢谢 请勿 吸烟 注意 安全 小心 地滑 出口 入口
左转 右转
"""
WORDS: Final = tuple(_WRITTEN.split())
SIMILAR: Final = "未末己已人入日目土士票粟银艮额颔税稅鸟乌"

Find = Callable[[str], list[int]]


def compare() -> None:
    """Print recall, precision and mean average precision of each way, for each kind of query."""
    random = np.random.default_rng(0)
    written = [[str(word) for word in random.choice(WORDS, random.integers(8, 24))] for _ in range(DOCUMENTS)]
    texts = [normalise_lines(_lines("".join(words), random)) for words in written]
    with tempfile.TemporaryDirectory() as folder:
        bigrams = Texts.create(Path(folder) / "bigrams.db")
        bigrams.write([(number.to_bytes(16, "big"), text) for number, text in enumerate(texts)], DOCUMENTS)
        by_words = _WordIndex(texts)

        def ours(query: str) -> list[int]:
            return [int.from_bytes(match.digest, "big") for match in bigrams.match(for_text(query))]

        def both(query: str) -> list[int]:
            """Those that have it as words before the others, in our order: so the server does for single characters."""
            found, as_words = ours(query), set(by_words.find(query))
            return sorted(found, key=lambda number: number not in as_words)

        ways: dict[str, Find] = {"bigrams": ours, "words": by_words.find, "both": both}
        print("query | way | recall | precision | average precision")
        for kind, queries in _queries(written, random).items():
            for name, find in ways.items():
                rows = [_judged(find(query), wanted) for query, wanted in queries]
                recall, precision, average = np.mean(rows, axis=0)
                print(f"{kind} | {name} | {recall:.1%} | {precision:.1%} | {average:.1%}")
        bigrams.close()


class _WordIndex:
    """Words as rjieba cuts them, joined by AND, ranked by BM25: as a full-text search with a dictionary does."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._connection = sqlite3.connect(":memory:")
        self._connection.execute("CREATE VIRTUAL TABLE words USING fts5 (text, content = '', tokenize = 'ascii')")
        rows = [(number + 1, _cut(text)) for number, text in enumerate(texts)]
        self._connection.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)

    def find(self, query: str) -> list[int]:
        wanted = " AND ".join(f'"{word}"' for word in _cut(query).split())
        rows = self._connection.execute("SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank", (wanted,))
        return [number - 1 for (number,) in rows]


def _cut(text: str) -> str:
    return " ".join(word for word in rjieba.cut(text) if word.strip())


def _lines(text: str, random: np.random.Generator) -> list[str]:
    """Lines of 6 to 14 characters, some of them misread."""
    characters = [str(random.choice(list(SIMILAR))) if random.random() < MISREAD else one for one in text]
    lines, start = [], 0
    while start < len(characters):
        end = start + int(random.integers(6, 15))
        lines.append("".join(characters[start:end]))
        start = end
    return lines


def _queries(written: list[list[str]], random: np.random.Generator) -> dict[str, list[tuple[str, set[int]]]]:
    """Queries by kind, with the documents that were written with those words."""
    by_length = {
        "1 character": [word for word in WORDS if len(word) == 1],
        "2 characters": [word for word in WORDS if len(word) == 2],
        "3 to 4": [word for word in WORDS if len(word) in (3, 4)],
        "6 and more": [word for word in WORDS if len(word) >= 6],
    }
    kinds = {
        kind: [(word, {number for number, words in enumerate(written) if word in words}) for word in found]
        for kind, found in by_length.items()
    }
    pairs = []
    for number in random.choice(len(written), 60, replace=False):
        words = written[number]
        start = int(random.integers(len(words) - 2))
        pairs.append(("".join(words[start : start + 3]), {int(number)}))
    kinds["3 words in a row"] = pairs
    return kinds


def _judged(found: list[int], wanted: set[int]) -> tuple[float, float, float]:
    right = [number in wanted for number in found]
    ranks = np.flatnonzero(right) + 1
    average = float(np.sum(np.arange(1, len(ranks) + 1) / ranks) / len(wanted)) if len(ranks) else 0.0
    return sum(right) / len(wanted), sum(right) / len(found) if found else 1.0, average
