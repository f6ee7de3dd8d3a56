"""The fenced blocks of README, CONTRIBUTING and docs/, and what the comments above them say.

    <!-- not run: REASON -->     the block below stays as it is
    <!-- file: NAME -->          the block below is the content of that file

Neither shows, on GitHub or in the built pages.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "cuda/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^(?:<!-- (not run|file): (.*?) -->\n)?```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = ("python", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Where its first line of code is in the page, from 1 on.
        language: What follows the fence.
        code: Its text.
        reason: Why it is not run; None if it is.
        file: The file it is the content of, if any.
    """

    line: int
    language: str
    code: str
    reason: str | None
    file: str | None


def blocks(page: Path) -> list[Block]:
    """Find the blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        kind, told, language, code = match.groups()
        line = text.count("\n", 0, match.start(4)) + 1
        found.append(Block(line, language, code, told if kind == "not run" else None, told if kind == "file" else None))
    return found


def indented_listings(page: Path) -> list[str]:
    """Find the lines of indented blocks, which are formulas and listings and never run."""
    outside = FENCE.sub("", page.read_text())
    return [line.strip() for line in re.findall(r"^(?: {4}|\t)(.*\S)", outside, re.MULTILINE)]


def name(page: Path) -> str:
    """Path in the repository."""
    return page.relative_to(ROOT).as_posix()
