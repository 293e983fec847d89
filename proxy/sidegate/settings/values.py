"""What a setting may be: durations, addresses, networks, URLs, keys; each says how to write it.

No message here repeats what was given: it may have been a secret put in the wrong place.
"""

import re
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from math import isfinite
from pathlib import Path
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WithJsonSchema,
)

from sidegate.core.address import Address
from sidegate.core.token import KeyRing, TokenKey

Network = IPv4Network | IPv6Network

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)?", re.ASCII)
_HOW_DURATION: Final = "write a duration as 250ms, 30s, 15m, 12h or 30d, or as plain seconds"
# Longer is a slip of the pen, and would overflow a date some day.
_LONGEST: Final = timedelta(days=3650)


def read_duration(given: object) -> timedelta:
    """Read `15m`, `250ms` or plain seconds. ValueError says how a duration is written."""
    if isinstance(given, timedelta):
        return given
    if isinstance(given, str):
        seconds = _spelled_seconds(given.strip())
    elif isinstance(given, int | float) and not isinstance(given, bool):
        seconds = float(given)
    else:
        raise ValueError(_HOW_DURATION)
    if not isfinite(seconds) or not 0 <= seconds <= _LONGEST.total_seconds():
        raise ValueError("a duration lies between 0 and 3650d")
    return timedelta(seconds=seconds)


def _spelled_seconds(text: str) -> float:
    spelled = _DURATION.fullmatch(text)
    if spelled is None:
        raise ValueError(_HOW_DURATION)
    return float(spelled[1]) * _UNITS[spelled[2] or "s"]


def format_duration(value: timedelta) -> str:
    """Write a duration in the largest unit that leaves a whole number."""
    micros = round(value / timedelta(microseconds=1))
    for unit, seconds in reversed(_UNITS.items()):
        whole, rest = divmod(micros, round(seconds * 1_000_000))
        if whole and not rest:
            return f"{whole}{unit}"
    return f"{micros / 1_000_000:g}s" if micros else "0s"


def _longer_than_nothing(value: timedelta) -> timedelta:
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
    PlainValidator(read_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
PositiveDuration = Annotated[Duration, AfterValidator(_longer_than_nothing)]


_SIZE_UNITS: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE: Final = re.compile(r"(\d{1,12}) ?(KiB|MiB|GiB|)", re.ASCII)


def read_size(given: object) -> int:
    """Read `128MiB` or plain bytes. ValueError says how a size is written."""
    spelled_out = _SIZE.fullmatch(given.strip()) if isinstance(given, str) else None
    if spelled_out is not None:
        return int(spelled_out[1]) * _SIZE_UNITS[spelled_out[2]]
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise ValueError("write a size as 512KiB, 128MiB or 2GiB, or as plain bytes")


def format_size(value: int) -> str:
    """Write a size in the largest unit that leaves a whole number."""
    unit = max((each for each in _SIZE_UNITS.items() if value % each[1] == 0), key=lambda e: e[1])
    return f"{value // unit[1]}{unit[0]}"


def _a_mebibyte_or_more(value: int) -> int:
    if not 2**20 <= value <= 2**40:
        raise ValueError("a size lies between 1MiB and 1024GiB")
    return value


MemorySize = Annotated[
    int,
    PlainValidator(read_size),
    AfterValidator(_a_mebibyte_or_more),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d{1,12} ?(KiB|MiB|GiB)?$"},
                {"type": "integer", "minimum": 2**20},
            ],
            "description": "A size: 512KiB, 128MiB, 2GiB, or plain bytes.",
        }
    ),
]


_HOW_ADDRESS: Final = (
    "write host:port, as in 127.0.0.1:7080 or [::1]:7080 (0.0.0.0:7080 listens everywhere), "
    "or unix:/run/sidegate/gate.sock"
)


def read_address(given: object) -> Address:
    """Read `host:port`, `[v6]:port` or `unix:/path`. ValueError says how it is written."""
    if isinstance(given, Address):
        return given
    try:
        return Address.parse(given if isinstance(given, str) else "")
    except ValueError:
        raise ValueError(_HOW_ADDRESS) from None


ListenAddress = Annotated[
    Address,
    PlainValidator(read_address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:7080", "unix:/run/gate.sock"]}),
]


def _network(given: object) -> Network:
    if isinstance(given, IPv4Network | IPv6Network):
        return given
    text = str(given).strip()
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("write an address or a network, as in 10.0.0.5 or 10.0.0.0/8") from None
    if ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError("write a network by its first address, as in 10.0.0.0/8, or one address")
    if network.prefixlen == 0:
        raise ValueError("this trusts everybody; name the networks of your gateways")
    return network


PeerNetwork = Annotated[
    Network,
    PlainValidator(_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.0/8", "::1/128"]}),
]


def _mode(given: object) -> object:
    if isinstance(given, str) and re.fullmatch(r"0?[0-7]{3}", given):
        return int(given, 8)
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= 0o777:
        return given  # YAML reads a bare 0660 as octal by itself
    raise ValueError('write the mode in octal, as in "0660"')


FileMode = Annotated[
    int,
    PlainValidator(_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{3}$"}),
]

Folder = Annotated[Path, AfterValidator(Path.expanduser), PlainSerializer(str, return_type=str)]


def spelled(pattern: str, how: str) -> AfterValidator:
    """Ask for a text that matches `pattern` as a whole, or say `how` it is written."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(how)
        return text

    return AfterValidator(check)


def lower(given: object) -> object:
    """Let INFO be info."""
    return given.lower() if isinstance(given, str) else given


def none_spelled(given: object) -> object:
    """Let the environment, which knows only text, say none."""
    return None if given in ("none", "null") else given


_USERINFO: Final = r"(?:(?P<user>[^@/?#\s]*)@)?"
_REST: Final = r"(?P<path>/[^@?#\s]*)?(?:\?(?P<query>[^#\s]*))?"
_DATABASE_URL: Final = re.compile(
    rf"(?P<scheme>postgres(?:ql)?)://{_USERINFO}(?P<hosts>[^@/?#\s]*){_REST}"
)
_REDIS_URL: Final = re.compile(
    rf"(?P<scheme>rediss?(?:\+cluster)?)://{_USERINFO}(?P<hosts>[^@/?#\s]+){_REST}"
)
_REDIS_SOCKET: Final = re.compile(
    rf"(?P<scheme>unix)://{_USERINFO}(?P<hosts>)(?P<path>/[^@?#\s]+)(?:\?(?P<query>[^#\s]*))?"
)
_SENTINEL_URL: Final = re.compile(
    rf"(?P<scheme>rediss?\+sentinel)://{_USERINFO}(?P<hosts>[^@/?#\s]+)"
    r"(?P<path>/[^@/?#\s]+(?:/\d+)?)(?:\?(?P<query>[^#\s]*))?"
)
_REDIS_FORMS: Final = (_REDIS_URL, _REDIS_SOCKET, _SENTINEL_URL)
_ESCAPE: Final = "(escape @ : / ? # in a password as %40 %3A %2F %3F %23)"


# host:port, host alone, [v6]:port; several are separated by commas.
_HOSTS: Final = re.compile(
    r"(?:(?:\[[0-9A-Fa-f:.]+\]|[^,:\[\]\s]*)(?::\d{1,5})?(?:,|\Z))+", re.ASCII
)


def _fits(form: re.Pattern[str], text: str) -> bool:
    parts = form.fullmatch(text) if text.isascii() else None
    return parts is not None and (
        not parts["hosts"] or _HOSTS.fullmatch(parts["hosts"]) is not None
    )


def _database_url(given: SecretStr) -> SecretStr:
    if not _fits(_DATABASE_URL, given.get_secret_value()):
        raise ValueError(f"write postgresql://user:password@host:5432/database {_ESCAPE}")
    return given


def _redis_url(given: SecretStr) -> SecretStr:
    if not any(_fits(form, given.get_secret_value()) for form in _REDIS_FORMS):
        raise ValueError(
            "write redis://host:6379/0, rediss://host:6379/0 (TLS), "
            "redis+sentinel://h1:26379,h2:26379/mymaster/0 or redis+cluster://h1:6379,h2:6379 "
            + _ESCAPE
        )
    return given


def masked_url(url: SecretStr) -> str:
    """Write a validated URL without who logs in, nor what follows the question mark."""
    text = url.get_secret_value()
    for form in (_DATABASE_URL, *_REDIS_FORMS):
        if parts := form.fullmatch(text):
            user = "***@" if parts["user"] is not None else ""
            query = "?***" if parts["query"] is not None else ""
            return f"{parts['scheme']}://{user}{parts['hosts']}{parts['path'] or ''}{query}"
    return "***"


_MASKED: Final = PlainSerializer(masked_url, return_type=str)
_URL_SCHEMA: Final = WithJsonSchema({"type": "string", "format": "uri", "writeOnly": True})
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url), _MASKED, _URL_SCHEMA]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url), _MASKED, _URL_SCHEMA]


def _token_key(given: object) -> TokenKey:
    if isinstance(given, TokenKey):
        return given
    return TokenKey.parse(given if isinstance(given, str) else "")


def split_words(given: object) -> object:
    """Take a text as a list: its items stand on lines of their own or between commas."""
    return [w for w in re.split(r"[,\s]+", given) if w] if isinstance(given, str) else given


Words: Final = BeforeValidator(split_words, json_schema_input_type=list[str] | str)


def _a_ring(keys: tuple[TokenKey, ...]) -> tuple[TokenKey, ...]:
    if keys:
        KeyRing(keys)  # refuses two of one id
    return keys


TokenKeys = Annotated[
    tuple[
        Annotated[
            TokenKey,
            PlainValidator(_token_key),
            PlainSerializer(lambda key: f"{key.id}:***", return_type=str),
            WithJsonSchema({"type": "string", "pattern": r"^\d{1,3}:[A-Za-z0-9_-]{43}=?$"}),
        ],
        ...,
    ],
    Words,
    AfterValidator(_a_ring),
]
