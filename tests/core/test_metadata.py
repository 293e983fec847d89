"""The limit of metadata: of one object, and of the result of a merge."""

from typing import Any

import pytest

from sidegate.core.errors import MetadataTooLarge
from sidegate.core.metadata import MAX_BYTES, check_size, merge

# {"k":"xxx"} has 8 bytes beside the text.
FULL = {"k": "x" * (MAX_BYTES - 8)}


@pytest.mark.parametrize(
    ("stored", "attributes", "result"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"c": 2}}),
        ({}, FULL, FULL),
        (FULL, {"k": ""}, {"k": ""}),
        ({"a": "x" * MAX_BYTES}, {}, {"a": "x" * MAX_BYTES}),
    ],
    ids=["none", "added", "replaced as a whole", "full", "smaller", "stored over the limit"],
)
def test_attributes_are_added_or_replaced(
    stored: dict[str, Any], attributes: dict[str, Any], *, result: dict[str, Any]
) -> None:
    assert merge(stored, attributes) == result


@pytest.mark.parametrize(
    ("stored", "attributes"),
    [
        (FULL, {"a": 1}),
        ({"a": "x" * MAX_BYTES}, {"b": 1}),
        ({"a": "ü" * (MAX_BYTES // 4)}, {"b": "ü" * (MAX_BYTES // 4)}),
        ({str(key): key for key in range(1_000)}, {str(key): key for key in range(1_000, 2_000)}),
    ],
    ids=["one member more", "stored over the limit", "bytes, not characters", "many members"],
)
def test_merge_over_the_limit_is_refused(
    stored: dict[str, Any], attributes: dict[str, Any]
) -> None:
    with pytest.raises(MetadataTooLarge):
        merge(stored, attributes)


def test_size_is_that_of_compact_utf8_json() -> None:
    check_size(FULL)
    with pytest.raises(MetadataTooLarge, match="at most 16384 bytes of JSON; these are 16385"):
        check_size({"k": FULL["k"] + "x"})
