"""What the pages for people consist of: fences, code spans, links, headings, words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SPAN: Final = re.compile(r"`([^`]+)`")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A Markdown file of this repository."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def fences(self) -> list[tuple[str, str]]:
        """The language and the text of each code block."""
        return [(match[2], match[3]) for match in _FENCE.finditer(self.text)]

    @cached_property
    def prose(self) -> str:
        """The text without code blocks."""
        return _FENCE.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """Inline code, each on one line."""
        return [" ".join(span.split()) for span in _SPAN.findall(self.prose)]

    @property
    def links(self) -> list[str]:
        """The targets of all links that stay in the repository."""
        return [target for target in _LINK.findall(self.prose) if "://" not in target]

    @property
    def anchors(self) -> set[str]:
        """The anchor that GitHub gives each heading."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}

    @property
    def word_count(self) -> int:
        """The number of words outside code blocks, tables and comments."""
        lines = _COMMENT.sub("", self.prose).splitlines()
        return sum(len(line.split()) for line in lines if not line.startswith("|"))


def all_pages() -> list[Page]:
    """Return README.md and the pages of docs/."""
    return [Page(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]


def written_pages() -> list[Page]:
    """Return the pages that are written by hand, not generated."""
    return [page for page in all_pages() if ROOT / "docs" / "reference" not in page.path.parents]
