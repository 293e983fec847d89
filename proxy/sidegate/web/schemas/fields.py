"""What a member or a parameter may be: how it is checked, and what its JSON Schema says of that.

The checks decide. Where a schema can say as much, it does, and a test holds the two together; where
it cannot (a limit of bytes, an address without host bits), it says less, never something else.
"""

from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from typing_extensions import TypeAliasType

from sidegate.core import session
from sidegate.core.binding import LONGEST, Signal
from sidegate.core.lock import LEASE
from sidegate.core.session_type import SessionType
from sidegate.web.schemas import values
from sidegate.web.schemas.pagination import SPELLING
from sidegate.web.schemas.query_params import LONGEST_PAGE

_BLANK: Final = r"\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # as str.strip
_EDGE: Final = rf"[^{values.CONTROL}{_BLANK}]"
_SHOWN: Final = r"[^\u0000-\u001f\u007f]*"
_IP: Final = ({"format": "ipv4"}, {"format": "ipv6"})


def spelled(pattern: str) -> Any:
    """Return a text that the whole of `pattern` spells; who reads it checks that."""
    return Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})]


def _text(at_most: int, pattern: str, *, at_least: int = 1) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string", "maxLength": at_most, "pattern": f"^{pattern}$"}
    return WithJsonSchema(schema | ({"minLength": at_least} if at_least else {}))


def _read(text: Callable[[str], Any]) -> BeforeValidator:
    return BeforeValidator(lambda given: text(given) if isinstance(given, str) else given)


def _showable(signal: Signal) -> AfterValidator:
    return AfterValidator(lambda text: values.showable(signal, text))


# An enum is spelled as a string in JSON; everything else is taken only as what it is.
Type = Annotated[SessionType, Field(strict=False)]

# Those with a name are one in the document, too.
UserId = TypeAliasType(
    "UserId",
    Annotated[
        str,
        AfterValidator(values.user_id),
        _text(values.USER_ID, f"{_EDGE}(?:[^{values.CONTROL}]*{_EDGE})?"),
    ],
)
SessionId = TypeAliasType(
    "SessionId",
    Annotated[
        session.SessionId,
        AfterValidator(values.session_id),
        WithJsonSchema(
            {"type": "string", "format": "uuid", "pattern": f"^{values.SESSION_ID.pattern}$"}
        ),
    ],
)
Label = TypeAliasType(
    "Label",
    Annotated[str, AfterValidator(values.label), _text(values.LABEL, values.PRINTABLE.pattern)],
)
Scope = TypeAliasType(
    "Scope",
    Annotated[str, AfterValidator(values.scope), _text(values.SCOPES_BYTES, values.SCOPE.pattern)],
)
Moment = TypeAliasType(
    "Moment",
    Annotated[
        datetime,
        _read(values.moment),
        WithJsonSchema(
            {"type": "string", "format": "date-time", "pattern": f"^{values.MOMENT.pattern}$"}
        ),
    ],
)
Text = Annotated[str, AfterValidator(values.text), _text(values.TEXT, r"[^\u0000]*", at_least=0)]
SomeText = Annotated[str, AfterValidator(values.some_text), _text(values.TEXT, r"[^\u0000]+")]
Scopes = Annotated[
    list[Scope],
    AfterValidator(values.scope_list),
    Field(json_schema_extra={"maxItems": values.SCOPES}),
]
PageLength = Annotated[int, Field(ge=1, le=LONGEST_PAGE)]
PageCursor = spelled(SPELLING.pattern)
JsonObject = Annotated[dict[str, Any], AfterValidator(values.json_object)]
IpAddress = Annotated[
    str, AfterValidator(values.address), WithJsonSchema({"type": "string", "anyOf": [*_IP]})
]
IpPrefix = Annotated[IPv4Network | IPv6Network, _read(values.network)]

LeaseText = Annotated[
    str,
    AfterValidator(values.lease),
    WithJsonSchema({"type": "string", "pattern": f"^{LEASE.pattern}$"}),
]

# What a client shows: from gateways that add a port as well.
ShownIp = Annotated[
    str,
    _showable(Signal.IP),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": LONGEST,
            "anyOf": [
                *_IP,
                {"pattern": r"^ *\[?[0-9A-Fa-f:.]+\]?(?::[0-9]{1,5})? *$"},
            ],
        }
    ),
]
ShownProgram = Annotated[
    str,
    _showable(Signal.USER_AGENT),
    _text(LONGEST, rf" *[!-.0-~](?:[ -.0-~]{{0,62}}[!-.0-~])? *(?:/{_SHOWN})?"),
]
ShownLanguage = Annotated[
    str,
    _showable(Signal.ACCEPT_LANGUAGE),
    _text(LONGEST, rf" *(?:\*|[A-Za-z]{{1,8}}(?:-[A-Za-z0-9]{{1,8}}){{0,7}}) *(?:[,;]{_SHOWN})?"),
]
ShownHeader = Annotated[str, _showable(Signal.HEADER), _text(LONGEST, " *[!-~][ -~]*")]
