"""The comments of config/sidegate.yaml, by setting."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from reference_pages.markdown import mark_code
from sidegate.settings.sources import SettingPath

_COMMENT: Final = re.compile(r" *# ?(.*)")
_KEY: Final = re.compile(r"( *)(\w+):(?:.*\s# (.+)|.*)")
_ITEM: Final = re.compile(r"  (\w+(?:, \w+)*): (.+)")


@dataclass(frozen=True)
class Comment:
    """What a comment says, and what its indented lines say about single names."""

    text: str
    items: Mapping[str, str] = field(default_factory=dict)


Comments = Mapping[SettingPath, Comment]


def read_comments(text: str) -> tuple[str, Comments]:
    """Return the last paragraph of the header, and the comment of every setting and group.

    A comment stands above its setting, or behind it on the same line.
    """
    header, _, rest = text.partition("\n\n")
    comments: dict[SettingPath, Comment] = {}
    path: SettingPath = ()
    above: list[str] = []
    for line in rest.splitlines():
        if match := _COMMENT.fullmatch(line):
            above.append(match[1])
        elif match := _KEY.fullmatch(line):
            path = (*path[: len(match[1]) // 2], match[2])
            comments[path] = _parse([*above, match[3] or ""])
            above = []
    return _parse(_COMMENT.sub(r"\1", header).split("\n\n")[-1].split("\n")).text, comments


def _parse(lines: Iterable[str]) -> Comment:
    text, items = "", dict[str, str]()
    for line in re.sub(r"\n    +", " ", "\n".join(lines)).split("\n"):
        if match := _ITEM.fullmatch(line):
            items |= dict.fromkeys(match[1].split(", "), mark_code(match[2]))
        else:
            text += f"{line} "
    return Comment(mark_code(text.strip()), items)
