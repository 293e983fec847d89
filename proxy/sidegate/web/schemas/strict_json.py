"""JSON that can be meant in one way only: no duplicate keys, no NaN, no towers of brackets."""

import json
import math
import re
from typing import Any, Final, NoReturn

# Deep enough for any honest document, shallow enough for every recursive reader of it.
_DEPTH: Final = 32
_STRING_OR_BRACKET: Final = re.compile(r'"[^"\\]*+(?:\\[\s\S][^"\\]*+)*+"|[\[{\]}]')


def read(raw: bytes) -> Any:
    """Return the document in `raw`. ValueError says what is wrong and repeats nothing of it."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    _check_depth(text)
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg.lower()} at character {error.pos}") from None


def _check_depth(text: str) -> None:
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        match found[0]:
            case "[" | "{":
                depth += 1
                if depth > _DEPTH:
                    raise ValueError(f"it is nested deeper than {_DEPTH} levels")
            case "]" | "}":
                depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
