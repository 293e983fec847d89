"""Types of setting values: durations, sizes, addresses, networks and keys.

A validation error says how to write the value. It never contains the value, which may be a secret
in the wrong place.
"""

import re
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from math import isfinite
from pathlib import Path
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from sidegate.core.address import Address
from sidegate.core.token import KeyRing, TokenKey

Network = IPv4Network | IPv6Network

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)?", re.ASCII)
_DURATION_HINT: Final = "write a duration as 250ms, 30s, 15m, 12h or 30d, or as plain seconds"
# Longer ones are typing errors, and could overflow a date.
_MAX_DURATION: Final = timedelta(days=3650)


def parse_duration(value: object) -> timedelta:
    """Parse `15m`, `250ms` or plain seconds. Raise ValueError with the format."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        seconds = _parse_seconds(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ValueError(_DURATION_HINT)
    if not isfinite(seconds) or not 0 <= seconds <= _MAX_DURATION.total_seconds():
        raise ValueError("a duration must be between 0s and 3650d")
    return timedelta(seconds=seconds)


def _parse_seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(_DURATION_HINT)
    return float(match[1]) * _UNITS[match[2] or "s"]


def format_duration(value: timedelta) -> str:
    """Format a duration in the largest unit that gives a whole number."""
    micros = round(value / timedelta(microseconds=1))
    for unit, seconds in reversed(_UNITS.items()):
        whole, rest = divmod(micros, round(seconds * 1_000_000))
        if whole and not rest:
            return f"{whole}{unit}"
    return f"{micros / 1_000_000:g}s" if micros else "0s"


def _require_positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


_DURATION_SCHEMA: Final = {
    "anyOf": [
        {"type": "string", "pattern": r"^\d{1,9}(\.\d{1,6})?(ms|s|m|h|d)?$"},
        {"type": "number", "minimum": 0},
    ],
    "description": "A duration: 250ms, 30s, 15m, 12h, 30d, or plain seconds.",
}

Duration = Annotated[
    timedelta,
    PlainValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
PositiveDuration = Annotated[Duration, AfterValidator(_require_positive)]


_SIZE_UNITS: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE: Final = re.compile(r"(\d{1,12}) ?(KiB|MiB|GiB|)", re.ASCII)


def parse_size(value: object) -> int:
    """Parse `128MiB` or plain bytes. Raise ValueError with the format."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None:
        return int(match[1]) * _SIZE_UNITS[match[2]]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("write a size as 512KiB, 128MiB or 2GiB, or as plain bytes")


def format_size(value: int) -> str:
    """Format a size in the largest unit that gives a whole number."""
    unit = max((each for each in _SIZE_UNITS.items() if value % each[1] == 0), key=lambda e: e[1])
    return f"{value // unit[1]}{unit[0]}"


def _within(minimum: int, maximum: int) -> AfterValidator:
    hint = f"a size must be between {format_size(minimum)} and {format_size(maximum)}"

    def check(value: int) -> int:
        if not minimum <= value <= maximum:
            raise ValueError(hint)
        return value

    return AfterValidator(check)


def _size_schema(**bounds: int) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d{1,12} ?(KiB|MiB|GiB)?$"},
                {"type": "integer", **bounds},
            ],
            "description": "A size: 512KiB, 128MiB, 2GiB, or plain bytes.",
        }
    )


_FORMATTED_SIZE: Final = PlainSerializer(format_size, return_type=str)

MemorySize = Annotated[
    int,
    PlainValidator(parse_size),
    _within(2**20, 2**40),
    _FORMATTED_SIZE,
    _size_schema(minimum=2**20),
]
# Below, hardly any user id fits; above, few gateways accept more in a response.
IdentitySize = Annotated[
    int,
    PlainValidator(parse_size),
    _within(2**10, 2**14),
    _FORMATTED_SIZE,
    _size_schema(minimum=2**10, maximum=2**14),
]


_ADDRESS_HINT: Final = (
    "write host:port, for example 127.0.0.1:7080 or [::1]:7080 (:7080 listens on all "
    "interfaces), or unix:/run/sidegate/gate.sock"
)


def parse_address(value: object) -> Address:
    """Parse `host:port`, `[v6]:port` or `unix:/path`. Raise ValueError with the format."""
    if isinstance(value, Address):
        return value
    try:
        return Address.parse(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(_ADDRESS_HINT) from None


ListenAddress = Annotated[
    Address,
    PlainValidator(parse_address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "examples": ["127.0.0.1:7080", "unix:/run/gate.sock"],
            "description": "An address: host:port, [v6]:port or unix:/path.",
        }
    ),
]


def _parse_network(value: object) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    text = str(value).strip()
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            "write an address or a network, for example 10.0.0.5 or 10.0.0.0/8"
        ) from None
    if ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError("has host bits set: write 10.0.0.0/8 for a network, or one address")
    if network.prefixlen == 0:
        raise ValueError("trusts all addresses: set the networks of your gateways")
    return network


PeerNetwork = Annotated[
    Network,
    PlainValidator(_parse_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.0/8", "::1/128"]}),
]


def _parse_mode(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return int(value, 8)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return value  # YAML reads an unquoted 0660 as octal
    raise ValueError('write the mode in octal, for example "0660"')


FileMode = Annotated[
    int,
    PlainValidator(_parse_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^0?[0-7]{3}$",
            "description": 'A file mode: octal and quoted, as in "0660".',
        }
    ),
]

ExpandedPath = Annotated[
    Path, AfterValidator(Path.expanduser), PlainSerializer(str, return_type=str)
]


def parse_time(value: object) -> datetime:
    """Parse a time with its zone; YAML has parsed one already. Raise ValueError with the format."""
    at = value
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
    # Within years whose conversion to UTC cannot overflow.
    if not isinstance(at, datetime) or at.tzinfo is None or not 1 < at.year < 9999:
        raise ValueError("write a time with its zone, for example 2027-01-31T00:00:00Z")
    return at.astimezone(UTC)


Time = Annotated[
    datetime,
    PlainValidator(parse_time),
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def matching(pattern: str, hint: str) -> AfterValidator:
    """Return a validator that raises ValueError(hint) unless `pattern` matches the whole text."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(hint)
        return text

    return AfterValidator(check)


def to_lower(value: object) -> object:
    """Return a text in lower case, so that case does not matter."""
    return value.lower() if isinstance(value, str) else value


def parse_null(value: object) -> object:
    """Return None for the texts `none` and `null`: variables have no other way to set null."""
    return None if value in ("none", "null") else value


def _parse_token_key(value: object) -> TokenKey:
    if isinstance(value, TokenKey):
        return value
    return TokenKey.parse(value if isinstance(value, str) else "")


def split_list(value: object) -> object:
    """Split a text at commas and white space into a list; return other values unchanged."""
    return [w for w in re.split(r"[,\s]+", value) if w] if isinstance(value, str) else value


TextList: Final = BeforeValidator(split_list, json_schema_input_type=list[str] | str)


def _check_key_ring(keys: tuple[TokenKey, ...]) -> tuple[TokenKey, ...]:
    if keys:
        KeyRing(keys)  # raises ValueError for two keys with the same id
    return keys


TokenKeys = Annotated[
    tuple[
        Annotated[
            TokenKey,
            PlainValidator(_parse_token_key),
            PlainSerializer(lambda key: f"{key.id}:***", return_type=str),
            WithJsonSchema({"type": "string", "pattern": r"^\d{1,3}:[A-Za-z0-9_-]{43}=?$"}),
        ],
        ...,
    ],
    TextList,
    AfterValidator(_check_key_ring),
]
