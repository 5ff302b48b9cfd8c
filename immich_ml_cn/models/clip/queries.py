"""Queries as people paste them, in the characters that Chinese-CLIP's vocabulary has.

PDFs and macOS's Live Text give radicals that look like ideographs, ligatures, full-width letters; keyboards glue emoji
to words. BERT's tokenizer, which Chinese-CLIP was trained with, takes each of these for an unknown word.
"""

import unicodedata
from collections.abc import Container
from itertools import groupby
from typing import Final

_RADICALS: Final = """
⺁厂 ⺂乛 ⺃乚 ⺄乙 ⺅亻 ⺆冂 ⺇𠘨 ⺈刀 ⺉刂 ⺊卜 ⺋㔾 ⺌小 ⺍小 ⺎兀 ⺏尣 ⺐尢 ⺑𡯂 ⺒巳 ⺓幺 ⺔彑 ⺕彐 ⺖忄 ⺗心 ⺘扌
⺙攵 ⺛旡 ⺜日 ⺝月 ⺞歺 ⺠民 ⺡氵 ⺢氺 ⺣灬 ⺤爫 ⺥爫 ⺦丬 ⺧牛 ⺨犭 ⺩王 ⺪𤴔 ⺫目 ⺬示 ⺭礻 ⺮𥫗 ⺯糹 ⺰纟 ⺱罓 ⺲罒
⺳㓁 ⺴冗 ⺵𦉫 ⺶羊 ⺷𦍌 ⺸𦍋 ⺹耂 ⺺肀 ⺻聿 ⺼肉 ⺽𦥑 ⺾艹 ⺿艹 ⻀艹 ⻁虎 ⻂衤 ⻃覀 ⻄西 ⻅见 ⻆角 ⻇𧢲 ⻈讠 ⻉贝 ⻊𧾷
⻋车 ⻌辶 ⻍辶 ⻎辶 ⻏邑 ⻐钅 ⻑長 ⻒镸 ⻓长 ⻔门 ⻕𨸏 ⻖阝 ⻗雨 ⻘青 ⻙韦 ⻚页 ⻛风 ⻜飞 ⻝食 ⻞𩙿 ⻟飠 ⻠饣 ⻡𩠐 ⻢马
⻣骨 ⻤鬼 ⻥鱼 ⻦鸟 ⻧卤 ⻨麦 ⻩黄 ⻪黾 ⻫斉 ⻬齐 ⻭歯 ⻮齿 ⻯竜 ⻰龙 ⻱龜 ⻲亀 ㇆𠃌 ㇏乀 ㇐一 ㇑丨 ㇒丿 ㇓丿 ㇔丶 ㇕𠃍
㇖乛 ㇗𠃊 ㇘𠃎 ㇙𠄌 ㇚亅 ㇛𡿨 ㇜𠃋 ㇝乀 ㇞𠃑 ㇟乚 ㇠乙 ㇡𠄎
"""
"""Radicals and strokes, each before the ideograph that looks like it: Unicode's property Equivalent_Unified_Ideograph
(EquivalentUnifiedIdeograph.txt, 14.0) of those to which NFKC does nothing. The Kangxi radicals are NFKC's."""

_IDEOGRAPHS: Final = str.maketrans({pair[0]: pair[1] for pair in _RADICALS.split()})

_EMOJI: Final = ((0x2300, 0x23FF), (0x2600, 0x27BF), (0x2B00, 0x2BFF), (0x1F000, 0x1FAFF))
"""Blocks of pictures."""

_KEYCAP: Final = "\u20e3"


def normalized(text: str, vocabulary: Container[str]) -> str:
    """A query in compatibility forms' plain ones (NFKC), radicals as ideographs, emoji apart from words.

    What the vocabulary has stays as it is, such as ``，`` and ``℃``, but for wide and narrow letters and digits.

    Args:
        vocabulary: lower-case word pieces; those within a word begin with ``##``.
    """
    runs = groupby(text.translate(_IDEOGRAPHS), key=lambda char: _stays(char, vocabulary))
    plain = "".join("".join(run) if stays else unicodedata.normalize("NFKC", "".join(run)) for stays, run in runs)
    return "".join(f" {char} " if _is_emoji(char) and f"##{char}" not in vocabulary else char for char in plain)


def _stays(char: str, vocabulary: Container[str]) -> bool:
    if char.isascii():
        return True
    form = unicodedata.decomposition(char).partition(" ")[0]
    return not (form in ("<wide>", "<narrow>") and char.isalnum()) and char.lower() in vocabulary


def _is_emoji(char: str) -> bool:
    if char == _KEYCAP:
        return True
    return unicodedata.category(char) in ("So", "Sk") and any(low <= ord(char) <= high for low, high in _EMOJI)
