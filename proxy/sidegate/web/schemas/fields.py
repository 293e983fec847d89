"""Field types of payloads and parameters: each with its check and its JSON Schema.

The check decides. The schema is equivalent where JSON Schema can represent the check, which a test
verifies, and looser where it cannot (sizes in bytes, networks without host bits); never stricter.
"""

from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from typing_extensions import TypeAliasType

from sidegate.core import session
from sidegate.core.binding import MAX_LENGTH, Signal
from sidegate.core.lock import LEASE_PATTERN
from sidegate.core.session_type import SessionType
from sidegate.web.schemas import values
from sidegate.web.schemas.pagination import CURSOR_PATTERN
from sidegate.web.schemas.query_params import MAX_PAGE_SIZE

# The white space that str.strip() removes.
_WHITE_SPACE: Final = r"\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_EDGE: Final = rf"[^{values.CONTROL_CHARACTERS}{_WHITE_SPACE}]"
_NO_CONTROLS: Final = r"[^\u0000-\u001f\u007f]*"
_IP_SCHEMAS: Final = ({"format": "ipv4"}, {"format": "ipv6"})


def pattern_text(pattern: str) -> Any:
    """Return a text type whose schema has `pattern`; it is checked by its reader."""
    return Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})]


def _text_schema(max_length: int, pattern: str, *, min_length: int = 1) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string", "maxLength": max_length, "pattern": f"^{pattern}$"}
    return WithJsonSchema(schema | ({"minLength": min_length} if min_length else {}))


def _parse_with(parse: Callable[[str], Any]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _check_signal(signal: Signal) -> AfterValidator:
    return AfterValidator(lambda text: values.check_signal(signal, text))


# Not strict, since JSON has no enums; all other fields accept no conversion.
Type = Annotated[SessionType, Field(strict=False)]

# Types with a TypeAliasType become named components of the OpenAPI document.
UserId = TypeAliasType(
    "UserId",
    Annotated[
        str,
        AfterValidator(values.check_user_id),
        _text_schema(
            values.MAX_USER_ID_LENGTH, f"{_EDGE}(?:[^{values.CONTROL_CHARACTERS}]*{_EDGE})?"
        ),
    ],
)
SessionId = TypeAliasType(
    "SessionId",
    Annotated[
        session.SessionId,
        AfterValidator(values.parse_session_id),
        WithJsonSchema(
            {
                "type": "string",
                "format": "uuid",
                "pattern": f"^{values.SESSION_ID_PATTERN.pattern}$",
            }
        ),
    ],
)
Label = TypeAliasType(
    "Label",
    Annotated[
        str,
        AfterValidator(values.check_label),
        _text_schema(values.MAX_LABEL_LENGTH, values.PRINTABLE_PATTERN.pattern),
    ],
)
Scope = TypeAliasType(
    "Scope",
    Annotated[
        str,
        AfterValidator(values.check_scope),
        _text_schema(values.MAX_SCOPES_SIZE, values.SCOPE_PATTERN.pattern),
    ],
)
Timestamp = TypeAliasType(
    "Timestamp",
    Annotated[
        datetime,
        _parse_with(values.parse_timestamp),
        WithJsonSchema(
            {
                "type": "string",
                "format": "date-time",
                "pattern": f"^{values.TIMESTAMP_PATTERN.pattern}$",
            }
        ),
    ],
)
Text = Annotated[
    str,
    AfterValidator(values.check_text),
    _text_schema(values.MAX_TEXT_LENGTH, r"[^\u0000]*", min_length=0),
]
NonEmptyText = Annotated[
    str,
    AfterValidator(values.check_nonempty_text),
    _text_schema(values.MAX_TEXT_LENGTH, r"[^\u0000]+"),
]
Scopes = Annotated[
    list[Scope],
    AfterValidator(values.check_scopes),
    Field(json_schema_extra={"maxItems": values.MAX_SCOPES}),
]
PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)]
PageCursor = pattern_text(CURSOR_PATTERN.pattern)
JsonObject = Annotated[dict[str, Any], AfterValidator(values.check_json_object)]
IpAddress = Annotated[
    str,
    AfterValidator(values.parse_address),
    WithJsonSchema({"type": "string", "anyOf": [*_IP_SCHEMAS]}),
]
IpPrefix = Annotated[IPv4Network | IPv6Network, _parse_with(values.parse_network)]

LeaseText = Annotated[
    str,
    AfterValidator(values.check_lease),
    WithJsonSchema({"type": "string", "pattern": f"^{LEASE_PATTERN.pattern}$"}),
]

# Signals of a client as the gateway sends them; some gateways add a port to the address.
SignalIp = Annotated[
    str,
    _check_signal(Signal.IP),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": MAX_LENGTH,
            "anyOf": [
                *_IP_SCHEMAS,
                {"pattern": r"^ *\[?[0-9A-Fa-f:.]+\]?(?::[0-9]{1,5})? *$"},
            ],
        }
    ),
]
SignalUserAgent = Annotated[
    str,
    _check_signal(Signal.USER_AGENT),
    _text_schema(MAX_LENGTH, rf" *[!-.0-~](?:[ -.0-~]{{0,62}}[!-.0-~])? *(?:/{_NO_CONTROLS})?"),
]
SignalAcceptLanguage = Annotated[
    str,
    _check_signal(Signal.ACCEPT_LANGUAGE),
    _text_schema(
        MAX_LENGTH,
        rf" *(?:\*|[A-Za-z]{{1,8}}(?:-[A-Za-z0-9]{{1,8}}){{0,7}}) *(?:[,;]{_NO_CONTROLS})?",
    ),
]
SignalHeader = Annotated[
    str, _check_signal(Signal.HEADER), _text_schema(MAX_LENGTH, " *[!-~][ -~]*")
]
