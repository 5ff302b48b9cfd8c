#!/usr/bin/env python3
"""Write the tables of docs/settings.md from immich_ml_cn/settings.py.

    scripts/settings_table.py docs/settings.md
    scripts/settings_table.py --keep-meanings docs/settings.zh-CN.md    a translation: its own last column stays

Each table stands between `<!-- table NAME -->` and `<!-- end -->`; everything else in the file is left as it is.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from immich_ml_cn.settings import INERT, Settings, setting_fields

OURS_FROM = "MACHINE_LEARNING_PROVIDER"
"""The first variable that Immich's own service does not have."""


def rows(table: str) -> dict[str, tuple[str, ...]]:
    """The rows of a table (``immich``, ``ours`` or ``inert``): variable → its cells after the first."""
    if table == "inert":
        return {name: (purpose,) for name, purpose in INERT.items()}
    documented: dict[str, tuple[str, ...]] = {}
    ours = False
    for item in setting_fields():
        variable, shown = item.metadata["variable"], item.metadata["shown"]
        ours = ours or variable == OURS_FROM
        default = str(getattr(Settings(), item.name)) if shown is None else shown
        aliases = "".join(f" Also read: `{alias}`." for alias in item.metadata["aliases"])
        if ours == (table == "ours"):
            documented[variable] = (f"`{default}`" if default else "", item.metadata["meaning"] + aliases)
    return documented


def rewritten(text: str, *, keep_meanings: bool) -> str:
    """A document with its tables brought up to date; their headings stay."""

    def replace(match: re.Match[str]) -> str:
        written = _meanings(match[3]) if keep_meanings else {}
        lines = [
            _row(f"`{variable}`", *cells[:-1], written.get(variable, cells[-1].replace("|", "\\|")))
            for variable, cells in rows(match[1]).items()
        ]
        return f"<!-- table {match[1]} -->\n{match[2]}{''.join(lines)}<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n((?:\|.*\n){2})((?:\|.*\n)*)<!-- end -->", replace, text)


def _row(*cells: str) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"


def _meanings(lines: str) -> dict[str, str]:
    split = [re.split(r"(?<!\\)\|", line) for line in lines.splitlines()]
    return {cells[1].strip(" `"): cells[-2].strip() for cells in split}


def main() -> None:
    """Rewrite the files named on the command line."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/settings.md from the code.")
    parser.add_argument("--keep-meanings", action="store_true", help="keep the last column: the file is a translation")
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    for file in options.files:
        text = rewritten(file.read_text(encoding="utf-8"), keep_meanings=options.keep_meanings)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
