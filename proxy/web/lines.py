"""Header lines, gathered by name."""

from collections.abc import Mapping, Sequence

Lines = Mapping[bytes, Sequence[bytes]]
"""Header values by lower-case name, in the order they came."""


def only(lines: Lines, name: bytes) -> str | None:
    """Return the value of a header that was sent once; a repeated one states nothing."""
    values = lines.get(name, ())
    return values[0].decode("latin-1") if len(values) == 1 else None
