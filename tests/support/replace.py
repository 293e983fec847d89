"""Copies of values with other fields, whatever kind of class they are."""

import dataclasses
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")


def replace(value: _T, /, **fields: Any) -> _T:
    """Return a copy of a dataclass or a struct with these fields."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **fields)
    return dataclasses.replace(value, **fields)  # type: ignore[type-var]  # a dataclass
