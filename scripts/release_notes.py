#!/usr/bin/env python3
"""Print the notes of a release from both changelogs: scripts/release_notes.py VERSION [FOLDER].

Only the standard library. Ends with 1 where a changelog has no such version or still calls it unreleased.
"""

import re
import sys
from pathlib import Path

CHANGELOGS = ("CHANGELOG.md", "CHANGELOG.zh-CN.md")


def notes(changelog: str, version: str) -> str:
    """What stands under a version's heading, one level of headings higher.

    Raises:
        ValueError: there is no such heading, nothing below it, or no date in it.
    """
    found = re.search(rf"^## {re.escape(version)}\b(?P<rest>.*)\n(?P<body>(?:(?!## ).*\n?)*)", changelog, re.MULTILINE)
    if found is None or not found["body"].strip():
        raise ValueError(f"says nothing about {version}")
    if not re.search(r"\d{4}-\d{2}-\d{2}", found["rest"]):
        raise ValueError(f"has no date for {version}: write '## {version}, YYYY-MM-DD'")
    return re.sub(r"^###", "##", found["body"].strip(), flags=re.MULTILINE)


def main() -> None:
    """Print English, then Chinese."""
    if len(sys.argv) not in {2, 3}:
        sys.exit(__doc__)
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent.parent
    texts = []
    for name in CHANGELOGS:
        try:
            texts.append(notes((folder / name).read_text(encoding="utf-8"), sys.argv[1]))
        except ValueError as error:
            sys.exit(f"{name} {error}")
    print("\n\n---\n\n".join(texts))


if __name__ == "__main__":
    main()
