"""A strict JSON parser: no duplicate keys, no NaN or Infinity, limited nesting."""

import json
import math
import re
from typing import Any, Final, NoReturn

# Ample for real documents, and far below Python's recursion limit for code that walks them.
_MAX_DEPTH: Final = 32
_STRING_OR_BRACKET: Final = re.compile(r'"[^"\\]*+(?:\\[\s\S][^"\\]*+)*+"|[\[{\]}]')


def parse(raw: bytes) -> Any:
    """Return the JSON document in `raw`. Raise ValueError, without repeating any of it."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    _check_depth(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_build_object,
            parse_constant=_reject_constant,
            parse_float=_parse_finite,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg.lower()} at character {error.pos}") from None


def _check_depth(text: str) -> None:
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
                if depth > _MAX_DEPTH:
                    raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
            case "]" | "}":
                depth -= 1


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a duplicate member name")
    return members


def _reject_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number
