"""The OpenAPI document: it is one, it is whole, and it says what the code and the docs say."""

import ast
import json
import re
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from sidegate.web.admin import openapi
from sidegate.web.admin.auth import Scope
from sidegate.web.admin.route import Body, ResponseSpec, Route
from sidegate.web.admin.routes import TABLE
from sidegate.web.schemas.base import Payload
from sidegate.web.schemas.documents import InactiveDocument
from sidegate.web.schemas.problems import CODES
from tests.web.admin.admin_listener import Door, admin_door
from tests.web.admin.described import DOCUMENT, breaches, closed

ROOT = Path(__file__).parents[3]
ADMIN_API = (ROOT / "docs" / "admin-api.md").read_text("utf-8")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"components": closed(DOCUMENT["components"])}


# --- it is one, and whole


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert [*OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


async def test_every_route_of_the_door_is_described(door: Door) -> None:
    described = {(method, path) for method, path, _ in operations()}

    assert described == {(each.method, each.path) for each in TABLE}
    assert door.routes == described | {
        ("HEAD", path) for method, path in described if method == "GET"
    }


def test_an_operation_says_what_it_does_for_whom_and_under_which_name() -> None:
    for method, path, operation in operations():
        assert re.fullmatch(r"[a-z]+[A-Za-z]*", operation["operationId"]), (method, path)
        assert operation["summary"].endswith("."), (method, path)
        assert len(operation["tags"]) == 1, (method, path)
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)


def test_an_operation_names_the_scope_its_row_asks_for() -> None:
    asked = {
        each.name: [] if each.open else [{"apiKey": [each.scope.value] if each.scope else []}]
        for each in TABLE
    }

    assert asked == {
        operation["operationId"]: operation["security"] for _, _, operation in operations()
    }


def test_every_parameter_and_every_member_of_a_payload_says_what_it_is() -> None:
    for method, path, operation in operations():
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (method, path, parameter["name"])
    for kind in Payload.__subclasses__():
        for name, member in kind.model_fields.items():
            assert member.description, (kind, name)


def test_examples_are_what_they_are_examples_of() -> None:
    named = DOCUMENT["components"]["schemas"]
    shown = {name: schema["examples"] for name, schema in named.items() if "examples" in schema}

    assert "NewSession" in shown
    for name, examples in shown.items():
        validator = Draft202012Validator(resolved(named[name]), validate_formats=True)
        assert [each for each in examples if not validator.is_valid(each)] == []


def test_a_link_leads_to_an_operation_that_takes_what_it_gives() -> None:
    known = {operation["operationId"]: operation for _, _, operation in operations()}
    links = [
        link
        for operation in known.values()
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]

    assert links
    for link in links:
        target = known[link["operationId"]]
        taken = {parameter["name"] for parameter in target.get("parameters", [])}
        assert link.get("parameters", {}).keys() <= taken
        assert ("requestBody" in link) <= ("requestBody" in target)


def test_every_number_and_every_text_that_comes_in_has_bounds() -> None:
    named = DOCUMENT["components"]["schemas"]

    for name in ("NewSession", "RevokeWhere", "Migrate", "Refresh", "UserId", "Label", "Scope"):
        for schema in leaves(named[name]):
            match schema:
                case {"type": "string"}:
                    assert schema.keys() & {"maxLength", "pattern", "format", "anyOf"}, name
                case {"type": "integer"}:
                    assert schema.keys() >= {"minimum", "maximum"}, name


def leaves(schema: Any) -> Iterator[dict[str, Any]]:
    match schema:
        case {"type": "string" | "integer"}:
            yield schema
        case dict():
            for each in schema.values():
                yield from leaves(each)
        case list():
            for each in schema:
                yield from leaves(each)


# --- what a row can say


def row(**more: Any) -> Route:
    """Return a row beside the table's, for what none of those says."""
    least: dict[str, Any] = {
        "method": "POST",
        "path": "/elsewhere",
        "scope": None,
        "handler": TABLE[0].handler,
        "name": "elsewhere",
        "tag": "sessions",
        "answer": ResponseSpec(InactiveDocument, "It is done."),
    }
    return Route(**least | more)


def described(endpoint: Route) -> dict[str, Any]:
    document = openapi.document([*TABLE, endpoint])
    assert [*OpenAPIV31SpecValidator(document).iter_errors()] == []
    operation: dict[str, Any] = document["paths"][endpoint.path][endpoint.method.lower()]
    return operation


def test_an_open_row_asks_for_no_key_and_refuses_nobody_for_having_none() -> None:
    operation = described(row(open=True))

    assert operation["security"] == []
    assert "401" not in operation["responses"]


def test_a_row_may_have_several_answers() -> None:
    operation = described(row(also=(ResponseSpec(None, "It will be.", status=202),)))

    assert operation["responses"].keys() >= {"200", "202"}
    assert "content" not in operation["responses"]["202"]


def test_an_answer_and_a_problem_of_one_status_are_told_apart_by_their_media_types() -> None:
    operation = described(row(also=(ResponseSpec(InactiveDocument, "It cannot be.", status=400),)))

    assert operation["responses"]["400"]["content"].keys() == {
        "application/json",
        "application/problem+json",
    }


@pytest.mark.parametrize("wrong", [{"path": "/{who}"}, {"problems": ("no_such_code",)}])
def test_a_row_that_names_what_nobody_knows_makes_no_document(wrong: dict[str, Any]) -> None:
    with pytest.raises(LookupError):
        openapi.document([row(**wrong)])


def test_two_shapes_of_one_name_make_no_document() -> None:
    class InactivePayload(Payload):
        pass

    with pytest.raises(ValueError, match="Inactive"):
        openapi.document([row(body=Body(InactivePayload))])


# --- what it says is what the code says


def problems_in_the_code() -> Iterator[tuple[str, int]]:
    """Yield the code and the status of each problem that is written out in sidegate/web."""
    for path in (ROOT / "proxy/sidegate/web").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(ast.Name("Problem"), [status, ast.Constant(str(code)), *_]):
                    yield code, _status(status)
                case ast.Call(ast.Name("invalid"), [ast.Constant(str(code)), *_]):
                    yield code, 400


def _status(written: ast.expr) -> int:
    match written:
        case ast.Constant(int(status)):
            return status
        case ast.Attribute(ast.Name("HTTPStatus"), name):
            return HTTPStatus[name]
        case _:
            raise AssertionError(f"a status that cannot be read: {ast.unparse(written)}")


def test_every_code_in_the_code_is_in_the_list_with_its_status() -> None:
    assert dict(problems_in_the_code()) == {code: status for code, (status, _) in CODES.items()}


def test_every_code_in_the_list_is_told_by_some_route_or_by_none_there_is() -> None:
    told = set[str]().union(*map(openapi.codes, TABLE))

    assert set(CODES) - told == {"method_not_allowed", "bad_request"}


@pytest.mark.parametrize("scope", list(Scope))
async def test_the_door_shows_the_document_to_a_key_of_any_scope(door: Door, scope: Scope) -> None:
    reply = await door.call("GET", "/openapi.json", key=scope.value)

    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.body == DOCUMENT


async def test_a_stranger_does_not_see_it(door: Door) -> None:
    assert (await door.call("GET", "/openapi.json", key=None)).status == 401


async def test_a_row_without_a_room_opens_no_door() -> None:
    row = TABLE[0]
    with pytest.raises(LookupError, match="POST /v1/sessions"):
        row.bound([object()])


# --- what the docs say


def test_the_docs_list_every_route_with_its_method_and_its_scope() -> None:
    rows = re.findall(r"^\| \[`([A-Z]+) (/\S+)`\]\(#.*?\) \| `?(\w+)`? \|", ADMIN_API, re.MULTILINE)

    assert sorted(rows) == sorted(map(_row, TABLE))


def _row(endpoint: Route) -> tuple[str, str, str]:
    path = endpoint.path.replace("{session_id}", "{id}")
    key = "none" if endpoint.open else "any" if endpoint.scope is None else endpoint.scope.value
    return endpoint.method, path, key


def test_the_docs_list_every_code_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (`[^|]+`) \|", ADMIN_API, re.MULTILINE)
    listed = {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}

    assert listed == {code: status for code, (status, _) in CODES.items()}


def test_the_answers_the_docs_show_are_whole() -> None:
    shown = re.findall(r"```json\n(.*?)```", ADMIN_API, re.DOTALL)
    schemas = [closed(schema) for schema in DOCUMENT["components"]["schemas"].values()]
    shapes = [Draft202012Validator(resolved(schema), validate_formats=True) for schema in schemas]

    assert len(shown) > 5
    for each in shown:
        answer = json.loads(each)
        shortened = "sessions" in answer  # a page of what is shown elsewhere
        assert shortened or any(shape.is_valid(answer) for shape in shapes), each


def test_the_sections_the_docs_list_lead_to_are_there() -> None:
    titles = re.findall(r"^## (.*)$", ADMIN_API, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}

    assert set(re.findall(r"^\| \[`.*?`\]\(#(.*?)\)", ADMIN_API, re.MULTILINE)) <= anchors


# --- the check that every reply of the other tests goes through


GOOD = {"Content-Type": "application/json; charset=utf-8", "X-Request-Id": "12345678"}


@pytest.mark.parametrize(
    ("status", "headers", "text", "breach"),
    [
        (200, GOOD, '{"revoked": 1, "more": false}', None),
        (200, GOOD, '{"revoked": 1, "more": false, "unsaid": 1}', "unsaid"),
        (200, GOOD, '{"revoked": 1}', "more"),
        (200, GOOD, '{"revoked": -1, "more": false}', "minimum"),
        (
            200,
            {"Content-Type": "application/json"},
            '{"revoked": 1, "more": false}',
            "X-Request-Id",
        ),
        (200, GOOD | {"Content-Type": "text/html"}, '{"revoked": 1, "more": false}', "text/html"),
        (204, GOOD, "{}", "204"),
    ],
)
def test_a_reply_that_is_not_described_is_noticed(
    status: int, headers: dict[str, str], text: str, breach: str | None
) -> None:
    found = breaches("POST", "/v1/users/ada/revoke", status, headers, text)

    assert len(found) == (breach is not None)
    assert breach is None or breach in found[0]


def test_a_problem_whose_code_the_route_does_not_know_is_noticed() -> None:
    problem = '{"type": "about:blank", "title": "Conflict", "status": 409, "code": "%s"}'
    headers = GOOD | {"Content-Type": "application/problem+json"}
    path = "/v1/sessions/01890a5d-ac96-774b-bcce-b302099a8057/touch"

    assert breaches("POST", path, 409, headers, problem % "session_ended") == []
    assert breaches("POST", path, 409, headers, problem % "limit_reached") != []


def test_nowhere_answers_with_problems_alone() -> None:
    assert breaches("GET", "/nowhere", 200, GOOD, "{}") != []
