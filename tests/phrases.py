"""`make lint`: find phrases that the project does not use, and print what to write instead."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[1]
# What people read: code and its messages, and pages.
READ = (
    "*.md", "Makefile", "compat_matrix.yaml", "demo.sh", "ckptmigrate/**/*.py",
    "ckptmigrate/**/*.html", "ckptmigrate/**/*.js", "ckptmigrate/**/*.json", "docs/**/*.md",
    "docs/**/*.svg",
)  # fmt: skip
# Between two words: a sentence may continue on the next line, after a quote or a comment sign.
_GAP: Final = r"(?: |[\"*/#\s]*\n[\"*/#\sf]*)"
# Pattern -> replacement. A space stands for _GAP.
BANNED: Final = {
    r"\b(found|is|are) wanting\b": "failed, problems found",
    r"\b(came|comes) of it\b": "result, outcome",
    r"\bas (it lies|they lie)\b": "unmigrated",
    r"\blies? (in|inside|outside|behind|beyond)\b": "is in, is stored in",
    r"\bmend(s|ed|ing)?\b": "repair, fix",
    r"\btells? of\b": "report, record, print",
    r"\b(take|takes|taken|took|taking) (it |them |that )?back\b": "undo, roll back",
    r"\banew\b": "again, new",
    r"\b(dies|die|died) (of|with)\b": "fails with",
    r"\bhalf-done\b|\bhalf-way\b": "incomplete, interrupted",
    r"\b(make|made) it whole\b": "recover",
    r"\bthe dead\b": "processes that no longer exist",
    r"\beyes of\b": "read back and validate",
    r"\black of luck\b": "transient failure",
    r"\b(?<!there\s)(is|are) no (?!longer)[a-z]": "is not, are not",
}


def found(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, phrase and replacement of each banned phrase in a text."""
    for pattern, instead in BANNED.items():
        for match in re.finditer(pattern.replace(" ", _GAP), text, re.IGNORECASE):
            yield 1 + text.count("\n", 0, match.start()), " ".join(match[0].split()), instead


def main() -> int:
    """Print the banned phrases of all files; return the exit status."""
    paths = [path for pattern in READ for path in sorted(ROOT.glob(pattern))]
    lines = [
        f"{path.relative_to(ROOT)}:{line}: {phrase!r}: write {instead}"
        for path in paths
        for line, phrase, instead in found(path.read_text())
    ]
    print("\n".join(lines), end="\n" if lines else "")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
