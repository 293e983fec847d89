"""The JSON Schema of a field agrees with its check, as far as a schema can."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from sidegate.web.schemas import fields
from sidegate.web.schemas.json_schema import SchemaRegistry

EQUIVALENT: dict[str, Any] = {
    "user_id": fields.UserId,
    "session_id": fields.SessionId,
    "label": fields.Label,
    "scope": fields.Scope,
    "text": fields.Text,
    "nonempty_text": fields.NonEmptyText,
    "lease": fields.LeaseText,
    "ip": fields.IpAddress,
    "signal_user_agent": fields.SignalUserAgent,
    "signal_accept_language": fields.SignalAcceptLanguage,
    "signal_header": fields.SignalHeader,
}
# Patterns that also match invalid dates, invalid addresses and networks with host bits.
LOOSER: dict[str, Any] = {
    "timestamp": fields.Timestamp,
    "signal_ip": fields.SignalIp,
    "ip_prefix": fields.IpPrefix,
}

# Boundary cases, which hypothesis would rarely generate.
EDGE_CASES = [
    *("", " ", "a", " a", "a ", "\x00", "a\x00b", "\t", "\n", "a\n", "\x1f", "\x7f", "\x85"),
    *("\xa0", "a\xa0", "a\xa0b", "\u1680", "\u2000a", "\u2028", "a\u202e\ufeff", "\u200b"),
    *("\u061c", "a\u3000", "\ue000", "\U000e0041", "\U0001fae9", '"', "\\", "ü", "\ufffb"),
    *("x" * length for length in (64, 65, 128, 129, 256, 257, 512, 513, 1024, 1025, 2048, 2049)),
    *("127.0.0.1", "::1", "[::1]", "[::1]:80", "127.0.0.1:80", "01.2.3.4", "1.2.3", "😀" * 257),
    *("fe80::1%0", "::ffff:1.2.3.4", "10.0.0.0/8", "10.0.0.1/8", "fd00::/8", "::/129", " ::1"),
    *("01890a5d-ac96-774b-bcce-b302099a8057", "01890A5D-AC96-774B-BCCE-B302099A8057"),
    *("2026-03-04T12:00:00Z", "2026-02-30T12:00:00Z", "2026-03-04 12:00:00Z"),
    *("9999-01-01T00:00:00Z", "2026-03-04T12:00:00.1234567Z", "2026-03-04T12:00:00+24:00"),
    *("sgl_" + "A-_9" * 10 + "A-_", "sgl_" + "A" * 44, "sgw_" + "A" * 43),
    *("curl/8", " curl /8", "/8", "curl/ü", "ü/8", "curl/8\x7f", "Mozilla/5.0 Firefox/x"),
    *("de-CH,de;q=0.9", "*", "de_CH", " de ; x", "d" * 9, "de,\n", "de-" + "x" * 9),
]
CHARACTERS = st.sampled_from([*" ab09.:-/[]*,;=\t\n\x7f\x9f\u00a0\u2028\u200b\u202e\U0001fae9"])
UNUSUAL_CHARACTERS = st.characters(
    categories=["Cc", "Cf", "Zs", "Zl", "Zp", "Lu", "Nd", "So", "Cn", "Co"]
)
TEXTS = st.text(CHARACTERS, max_size=24) | st.text(UNUSUAL_CHARACTERS)


@cache
def build_adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter((EQUIVALENT | LOOSER)[name])


@cache
def build_validator(name: str) -> Any:
    schemas = SchemaRegistry()
    schema = schemas.schema_for((EQUIVALENT | LOOSER)[name])
    components = {"components": {"schemas": schemas.components}}
    return Draft202012Validator(schema | components, validate_formats=True)


def accepting_checks(names: dict[str, Any], text: str) -> set[str]:
    return {name for name in names if accepts(name, text)}


def accepts(name: str, text: str) -> bool:
    try:
        build_adapter(name).validate_python(text)
    except ValidationError:
        return False
    return True


def matching_schemas(names: dict[str, Any], text: str) -> set[str]:
    return {name for name in names if build_validator(name).is_valid(text)}


@pytest.mark.parametrize("text", EDGE_CASES, ids=lambda text: ascii(text[:20]))
def test_schema_agrees_with_its_check_on_edge_cases(text: str) -> None:
    assert matching_schemas(EQUIVALENT, text) == accepting_checks(EQUIVALENT, text)
    assert matching_schemas(LOOSER, text) >= accepting_checks(LOOSER, text)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
def test_schema_agrees_with_its_check_on_random_text(text: str) -> None:
    assert matching_schemas(EQUIVALENT, text) == accepting_checks(EQUIVALENT, text)
    assert matching_schemas(LOOSER, text) >= accepting_checks(LOOSER, text)


def test_schema_agrees_with_its_check_on_every_character() -> None:
    names = {name: EQUIVALENT[name] for name in ("user_id", "label", "text")}

    for code in (*range(0xD800), *range(0xE000, 0x11000)):
        for text in (chr(code), f"a{chr(code)}", f"a{chr(code)}a"):
            assert matching_schemas(names, text) == accepting_checks(names, text), ascii(text)
