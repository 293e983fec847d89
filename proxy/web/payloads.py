"""The documents of the admin API: what may come in, and what a session looks like going out."""

import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ValidationInfo

from proxy.core.binding import DEFAULT_WIDTHS, Signal, Signals, reduced
from proxy.core.judge import judge
from proxy.core.lifetimes import Lifetimes
from proxy.core.protocols import Condition
from proxy.core.session import Session, SessionId, SessionRecord
from proxy.core.session_type import SessionType
from proxy.core.verdict import Allow, Deny, Reason
from proxy.service.sessions import NewSession
from proxy.web.problems import Mistake, invalid

_USER_ID: Final = 256
_TEXT: Final = 512
_REASON: Final = 128
_SCOPES: Final = 64
_SCOPES_BYTES: Final = 2048
_METADATA_BYTES: Final = 16 * 1024
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+", re.ASCII)  # RFC 6749 3.3
_SESSION_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_SHOWABLE: Final = {
    Signal.IP: "an IPv4 or IPv6 address without a zone",
    Signal.USER_AGENT: "a User-Agent header: name/version first, ASCII, at most 1024 characters",
    Signal.ACCEPT_LANGUAGE: "an Accept-Language header, as in de-CH,de;q=0.9",
    Signal.HEADER: "1 to 1024 ASCII characters, no control characters, not only blanks",
}


def user_id(text: str) -> str:
    """Return `text` if it can be a user id. ValueError: why not.

    Its code points are the identity: nothing is folded, trimmed or normalised.
    """
    _storable(text)
    if not 1 <= len(text) <= _USER_ID:
        raise ValueError(f"a user id has 1 to {_USER_ID} characters")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("a user id has no control characters")
    if text != text.strip():
        raise ValueError("a user id neither begins nor ends with white space")
    return text


def session_id(text: str) -> SessionId:
    """Return `text` if it can be a session id. ValueError: it is not."""
    if not _SESSION_ID.fullmatch(text):
        raise ValueError("a session id is a UUID in lower case")
    return SessionId(text)


def _text(text: str) -> str:
    _storable(text)
    if len(text) > _TEXT:
        raise ValueError(f"at most {_TEXT} characters")
    return text


def _reason(text: str) -> str:
    _storable(text)
    if not 1 <= len(text) <= _REASON or not text.isprintable():
        raise ValueError(f"1 to {_REASON} printable characters")
    return text


def _ip(text: str) -> str:
    if "%" in text:  # a zone names an interface of one machine
        raise ValueError("an IP address without a zone")
    try:
        return str(ip_address(text))
    except ValueError:  # its message repeats the input
        raise ValueError("an IPv4 or IPv6 address") from None


def _scopes(scopes: list[str]) -> list[str]:
    if len(scopes) > _SCOPES:
        raise ValueError(f"at most {_SCOPES} scopes")
    if len(" ".join(scopes)) > _SCOPES_BYTES:
        raise ValueError(f"the scopes take at most {_SCOPES_BYTES} bytes, joined by spaces")
    return list(dict.fromkeys(scopes))


def _scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise ValueError('a scope is printable ASCII without space, " and \\ (RFC 6749 3.3)')
    return text


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    _check_storable(metadata)
    encoded = json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()
    if len(encoded) > _METADATA_BYTES:
        raise ValueError(f"{len(encoded)} bytes of JSON, at most {_METADATA_BYTES} are kept")
    return metadata


def _check_storable(value: object) -> None:
    """Walk a document that `strict_json` read, hence one that is not deep."""
    match value:
        case str():
            _storable(value)
        case dict():
            for name, member in value.items():
                _storable(name)
                _check_storable(member)
        case list():
            for item in value:
                _check_storable(item)
        case int() if not -(2**63) <= value < 2**63:
            raise ValueError("an integer does not fit 64 bits; send it as a string")
        case _:
            pass


def _storable(text: str) -> None:
    """Refuse what no store can hold: Postgres has no NUL, UTF-8 has no surrogates."""
    if "\0" in text:
        raise ValueError("no NUL characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("no lone surrogates")


class _Payload(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


# An enum is spelled as a string in JSON; everything else is taken only as what it is.
_Type = Annotated[SessionType, Field(strict=False)]


def _showable(signal: Signal) -> AfterValidator:
    """Refuse what no request could show: a session bound to it would open for nobody."""

    def check(text: str) -> str:
        if reduced(signal, text, DEFAULT_WIDTHS) is None:
            raise ValueError(_SHOWABLE[signal])
        return text

    return AfterValidator(check)


class BindingPayload(_Payload):
    """What the client showed when it logged in, as it was sent."""

    ip: Annotated[str, _showable(Signal.IP)] | None = None
    user_agent: Annotated[str, _showable(Signal.USER_AGENT)] | None = None
    accept_language: Annotated[str, _showable(Signal.ACCEPT_LANGUAGE)] | None = None
    header: Annotated[str, _showable(Signal.HEADER)] | None = None

    def signals(self) -> Signals:
        return Signals(self.ip, self.user_agent, self.accept_language, self.header)


class NewSessionPayload(_Payload):
    """POST /v1/sessions. The caller chooses neither token nor id."""

    user_id: Annotated[str, AfterValidator(user_id)]
    type: _Type = SessionType.WEB
    scopes: Annotated[list[Annotated[str, AfterValidator(_scope)]], AfterValidator(_scopes)] = []
    expires_in: int | None = None
    ip: Annotated[str, AfterValidator(_ip)] | None = None
    user_agent: Annotated[str, AfterValidator(_text)] | None = None
    device: Annotated[str, AfterValidator(_text)] | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] = {}
    binding: BindingPayload = BindingPayload()

    @field_validator("expires_in")
    @classmethod
    def _fits_the_lifetime(cls, seconds: int | None, known: ValidationInfo) -> int | None:
        if seconds is None:
            return None
        if seconds < 1:
            raise ValueError("at least 1 second")
        type_: SessionType | None = known.data.get("type")
        if type_ is not None and known.context is not None:  # else `type` is the mistake to mend
            longest = int(known.context[type_].lifetime.total_seconds())
            if seconds > longest:
                raise ValueError(f"{type_} sessions live for at most {longest} seconds")
        return seconds

    def new_session(self) -> NewSession:
        return NewSession(
            user_id=self.user_id,
            type=self.type,
            scopes=tuple(self.scopes),
            expires_in=None if self.expires_in is None else timedelta(seconds=self.expires_in),
            ip=self.ip,
            user_agent=self.user_agent,
            device=self.device,
            metadata=self.metadata,
            binding=self.binding.signals(),
        )


class RevokePayload(_Payload):
    """POST /v1/sessions/{id}/revoke."""

    reason: Annotated[str, AfterValidator(_reason)] = "revoked"


class RevokeUserPayload(RevokePayload):
    """POST /v1/users/{user_id}/revoke: every session, or those of a type, or all but one."""

    type: _Type | None = None
    except_id: Annotated[str, AfterValidator(session_id)] | None = Field(
        default=None, alias="except"
    )

    def condition(self, of: str) -> Condition:
        except_id = None if self.except_id is None else SessionId(self.except_id)
        return Condition(of, type=self.type, except_id=except_id)


class RefreshPayload(_Payload):
    """POST /v1/refresh: by the token, never by the id: whoever knows an id could mint tokens."""

    token: Annotated[str, Field(max_length=_TEXT)]
    expires_in: Annotated[int, Field(ge=1, le=315_360_000)] | None = None

    def extend_by(self) -> timedelta | None:
        return None if self.expires_in is None else timedelta(seconds=self.expires_in)


class MigratePayload(_Payload):
    """POST /v1/sessions/{id}/sso."""

    provider: Annotated[str, AfterValidator(_reason)]
    provider_session_id: Annotated[str, Field(min_length=1), AfterValidator(_text)] | None = None
    attributes: Annotated[dict[str, Any], AfterValidator(_metadata)] = {}


PayloadT = TypeVar("PayloadT", bound=_Payload)


def read(
    kind: type[PayloadT],
    document: dict[str, Any],
    lifetimes: Mapping[SessionType, Lifetimes] | None = None,
) -> PayloadT:
    """Return `document` as a payload. Problem: every mistake in it, at once."""
    try:
        return kind.model_validate(document, context=lifetimes)
    except ValidationError as error:
        mistakes = [_mistake(each) for each in error.errors(include_url=False, include_input=False)]
        raise invalid("invalid_request", mistakes) from None


def _mistake(error: ErrorDetails) -> Mistake:
    path = ".".join(str(step) for step in error["loc"])
    own = error.get("ctx", {}).get("error")  # one of ours, without pydantic's "Value error, "
    return Mistake(path, str(own) if own is not None else error["msg"])


def session_document(record: SessionRecord, now: datetime) -> dict[str, Any]:
    """Return a session as the API shows it: never its digest, let alone a token."""
    session, details = record.session, record.details
    return {
        "id": session.id,
        "user_id": session.user_id,
        "type": session.type.value,
        "scopes": list(session.scopes),
        "state": _state(session, now),
        "created_at": _rfc3339(session.created_at),
        "authenticated_at": _rfc3339(session.authenticated_at),
        "last_seen_at": _rfc3339(session.last_seen_at),
        "expires_at": _rfc3339(session.expires_at),
        "idle_at": _rfc3339(session.idle_at),
        "revoked_at": _rfc3339(session.revoked_at),
        "revoked_by": details.revoked_by,
        "revoked_reason": details.revoked_reason,
        "ip": details.ip,
        "user_agent": details.user_agent,
        "device": details.device,
        "metadata": dict(details.metadata),
        "binding": [signal for signal, _ in session.binding],
        "access_count": details.access_count,
        "refresh_count": details.refresh_count,
        "provider": details.provider,
        "provider_session_id": details.provider_session_id,
        "version": session.version,
    }


def introspection_document(session: Session) -> dict[str, Any]:
    """Return a valid session as RFC 7662 shows it; times are whole seconds since 1970."""
    document: dict[str, Any] = {
        "active": True,
        "sub": session.user_id,
        "sid": session.id,
        "token_type": "Bearer",
        "session_type": session.type.value,
        "iat": int(session.created_at.timestamp()),
        "exp": int(session.expires_at.timestamp()),
        "auth_time": int(session.authenticated_at.timestamp()),
    }
    if session.scopes:  # an empty string is not a scope by RFC 6749's grammar
        document["scope"] = " ".join(session.scopes)
    return document


def _state(session: Session, now: datetime) -> str:
    match judge(session, now):
        case Allow():
            return "active"
        case Deny(Reason.REVOKED):
            return "revoked"
        case Deny(Reason.IDLE):
            return "idle"
        case Deny():
            return "expired"


def _rfc3339(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
