"""A field's JSON Schema and its check say the same, as far as a schema can."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from sidegate.web.schemas import fields
from sidegate.web.schemas.schemas import Schemas

ALIKE: dict[str, Any] = {
    "user_id": fields.UserId,
    "session_id": fields.SessionId,
    "label": fields.Label,
    "scope": fields.Scope,
    "text": fields.Text,
    "some_text": fields.SomeText,
    "lease": fields.LeaseText,
    "ip": fields.IpAddress,
    "shown_program": fields.ShownProgram,
    "shown_language": fields.ShownLanguage,
    "shown_header": fields.ShownHeader,
}
# There are dates no calendar has, addresses no host has, and networks with host bits.
LOOSER: dict[str, Any] = {
    "moment": fields.Moment,
    "shown_ip": fields.ShownIp,
    "ip_prefix": fields.IpPrefix,
}

# What decides, and what hypothesis would come upon seldom.
EDGES = [
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
PIECES = st.sampled_from([*" ab09.:-/[]*,;=\t\n\x7f\x9f\u00a0\u2028\u200b\u202e\U0001fae9"])
ODD = st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Zp", "Lu", "Nd", "So", "Cn", "Co"])
TEXTS = st.text(PIECES, max_size=24) | st.text(ODD)


@cache
def adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter((ALIKE | LOOSER)[name])


@cache
def validator(name: str) -> Any:
    schemas = Schemas()
    schema = schemas.of((ALIKE | LOOSER)[name])
    components = {"components": {"schemas": schemas.named}}
    return Draft202012Validator(schema | components, validate_formats=True)


def accepted(names: dict[str, Any], text: str) -> set[str]:
    return {name for name in names if accepts(name, text)}


def accepts(name: str, text: str) -> bool:
    try:
        adapter(name).validate_python(text)
    except ValidationError:
        return False
    return True


def allowed(names: dict[str, Any], text: str) -> set[str]:
    return {name for name in names if validator(name).is_valid(text)}


@pytest.mark.parametrize("text", EDGES, ids=lambda text: ascii(text[:20]))
def test_a_schema_allows_what_its_check_accepts(text: str) -> None:
    assert allowed(ALIKE, text) == accepted(ALIKE, text)
    assert allowed(LOOSER, text) >= accepted(LOOSER, text)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
def test_a_schema_allows_no_text_its_check_does_not_accept(text: str) -> None:
    assert allowed(ALIKE, text) == accepted(ALIKE, text)
    assert allowed(LOOSER, text) >= accepted(LOOSER, text)


def test_a_schema_and_its_check_agree_about_every_character_there_is() -> None:
    names = {name: ALIKE[name] for name in ("user_id", "label", "text")}

    for code in (*range(0xD800), *range(0xE000, 0x11000)):
        for text in (chr(code), f"a{chr(code)}", f"a{chr(code)}a"):
            assert allowed(names, text) == accepted(names, text), ascii(text)
