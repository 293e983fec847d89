"""Session types: the kind of client; lifetimes and limits are set per type."""

from enum import StrEnum


class SessionType(StrEnum):
    """The kind of client of a session. Each type has a letter, which is part of the token."""

    WEB = "web"
    MOBILE = "mobile"
    API = "api"
    SERVICE = "service"
    SSO = "sso"

    @property
    def letter(self) -> str:
        return _LETTERS[self]

    @classmethod
    def from_letter(cls, letter: str) -> "SessionType":
        return _TYPES[letter]


_LETTERS = {
    SessionType.WEB: "w",
    SessionType.MOBILE: "m",
    SessionType.API: "a",
    SessionType.SERVICE: "v",
    SessionType.SSO: "s",
}
_TYPES = {letter: type_ for type_, letter in _LETTERS.items()}
