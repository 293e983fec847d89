"""The OpenAPI document is valid and complete, and agrees with the code and the docs."""

import ast
import json
import os
import re
import subprocess
import sys
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
from sidegate.web.admin.routes import ROUTES
from sidegate.web.schemas.base import Payload
from sidegate.web.schemas.documents import InactiveDocument
from sidegate.web.schemas.problems import PROBLEM_CODES
from tests.web.admin.admin_listener import AdminHarness, open_admin
from tests.web.admin.conformance import DOCUMENT, find_violations, forbid_unknown_members

ROOT = Path(__file__).parents[3]
ADMIN_API = (ROOT / "docs" / "admin-api.md").read_text("utf-8")


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def with_components(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"components": forbid_unknown_members(DOCUMENT["components"])}


# --- The document


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert [*OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


async def test_every_route_is_described(admin: AdminHarness) -> None:
    described = {(method, path) for method, path, _ in operations()}

    assert described == {(each.method, each.path) for each in ROUTES}
    assert admin.routes == described | {
        ("HEAD", path) for method, path in described if method == "GET"
    }


def test_operation_has_unique_id_summary_and_tag() -> None:
    for method, path, operation in operations():
        assert re.fullmatch(r"[a-z]+[A-Za-z]*", operation["operationId"]), (method, path)
        assert operation["summary"].endswith("."), (method, path)
        assert len(operation["tags"]) == 1, (method, path)
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)


def test_operation_names_the_scope_of_its_route() -> None:
    expected = {}
    for each in ROUTES:
        scopes = [each.scope.value] if each.scope else []
        schemes = ["apiKey", "client"] if each.path.startswith("/oauth2/") else ["apiKey"]
        expected[each.operation_id] = [] if each.public else [{name: scopes} for name in schemes]

    assert expected == {
        operation["operationId"]: operation["security"] for _, _, operation in operations()
    }


def test_every_parameter_and_payload_member_has_a_description() -> None:
    for method, path, operation in operations():
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (method, path, parameter["name"])
    for kind in Payload.__subclasses__():
        for name, member in kind.model_fields.items():
            assert member.description, (kind, name)


def test_examples_match_their_schemas() -> None:
    named = DOCUMENT["components"]["schemas"]
    examples_by_name = {
        name: schema["examples"] for name, schema in named.items() if "examples" in schema
    }

    assert "NewSession" in examples_by_name
    for name, examples in examples_by_name.items():
        validator = Draft202012Validator(with_components(named[name]), validate_formats=True)
        assert [each for each in examples if not validator.is_valid(each)] == []


def test_link_parameters_exist_in_the_linked_operation() -> None:
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
        parameters = {parameter["name"] for parameter in target.get("parameters", [])}
        assert link["parameters"].keys() <= parameters
        assert "requestBody" not in link  # openapi-generator rejects any that is not a text


def test_request_numbers_and_texts_have_bounds() -> None:
    named = DOCUMENT["components"]["schemas"]

    for name in ("NewSession", "RevokeWhere", "Migrate", "Refresh", "UserId", "Label", "Scope"):
        for schema in scalars(named[name]):
            match schema:
                case {"type": "string"}:
                    assert schema.keys() & {"maxLength", "pattern", "format", "anyOf"}, name
                case {"type": "integer"}:
                    assert schema.keys() >= {"minimum", "maximum"}, name


def scalars(schema: Any) -> Iterator[dict[str, Any]]:
    match schema:
        case {"type": "string" | "integer"}:
            yield schema
        case dict():
            for each in schema.values():
                yield from scalars(each)
        case list():
            for each in schema:
                yield from scalars(each)


# --- Routes that the table does not have


def build_route(**changes: Any) -> Route:
    """Return a minimal route with `changes`."""
    minimal: dict[str, Any] = {
        "method": "POST",
        "path": "/other",
        "scope": None,
        "handler": ROUTES[0].handler,
        "operation_id": "other",
        "tag": "sessions",
        "response": ResponseSpec(InactiveDocument, "Done."),
    }
    return Route(**minimal | changes)


def build_operation(route: Route) -> dict[str, Any]:
    document = openapi.build_document([*ROUTES, route])
    assert [*OpenAPIV31SpecValidator(document).iter_errors()] == []
    operation: dict[str, Any] = document["paths"][route.path][route.method.lower()]
    return operation


def test_public_route_has_no_security_and_no_401() -> None:
    operation = build_operation(build_route(public=True))

    assert operation["security"] == []
    assert "401" not in operation["responses"]


def test_route_can_have_several_responses() -> None:
    operation = build_operation(
        build_route(other_responses=(ResponseSpec(None, "Accepted.", status=202),))
    )

    assert operation["responses"].keys() >= {"200", "202"}
    assert "content" not in operation["responses"]["202"]


def test_response_and_problem_of_one_status_differ_in_media_type() -> None:
    operation = build_operation(
        build_route(other_responses=(ResponseSpec(InactiveDocument, "Refused.", status=400),))
    )

    assert operation["responses"]["400"]["content"].keys() == {
        "application/json",
        "application/problem+json",
    }


@pytest.mark.parametrize("changes", [{"path": "/{unknown}"}, {"problems": ("no_such_code",)}])
def test_unknown_path_parameter_or_code_raises(changes: dict[str, Any]) -> None:
    with pytest.raises(LookupError):
        openapi.build_document([build_route(**changes)])


def test_two_schemas_with_one_name_raise() -> None:
    class InactivePayload(Payload):
        pass

    with pytest.raises(ValueError, match="Inactive"):
        openapi.build_document([build_route(body=Body(InactivePayload))])


# --- The code


def raised_problems() -> Iterator[tuple[str, int]]:
    """Yield code and status of each problem in the source of sidegate/web."""
    for path in (ROOT / "proxy/sidegate/web").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(ast.Name("Problem"), [status, ast.Constant(str(code)), *_]):
                    yield code, evaluate_status(status)
                case ast.Call(ast.Name("validation_problem"), [ast.Constant(str(code)), *_]):
                    yield code, 400


def evaluate_status(expression: ast.expr) -> int:
    match expression:
        case ast.Constant(int(status)):
            return status
        case ast.Attribute(ast.Name("HTTPStatus"), name):
            return HTTPStatus[name]
        case _:
            raise AssertionError(f"unsupported status: {ast.unparse(expression)}")


def test_every_raised_problem_code_is_listed_with_its_status() -> None:
    assert dict(raised_problems()) == {code: status for code, (status, _) in PROBLEM_CODES.items()}


def test_every_listed_code_is_used_by_a_route() -> None:
    used = set[str]().union(*map(openapi.problem_codes, ROUTES))

    assert set(PROBLEM_CODES) - used == {"method_not_allowed", "bad_request"}


@pytest.mark.parametrize("scope", list(Scope))
async def test_document_is_served_to_keys_of_any_scope(admin: AdminHarness, scope: Scope) -> None:
    reply = await admin.call("GET", "/openapi.json", key=scope.value)

    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.body == DOCUMENT


async def test_document_requires_a_key(admin: AdminHarness) -> None:
    assert (await admin.call("GET", "/openapi.json", key=None)).status == 401


async def test_route_without_its_group_cannot_be_bound() -> None:
    route = ROUTES[0]
    with pytest.raises(LookupError, match="POST /v1/sessions"):
        route.bind([object()])


# --- The docs


def test_json_examples_in_the_docs_match_a_schema() -> None:
    examples = re.findall(r"```json\n(.*?)```", ADMIN_API, re.DOTALL)
    schemas = [
        forbid_unknown_members(schema) for schema in DOCUMENT["components"]["schemas"].values()
    ]
    validators = [
        Draft202012Validator(with_components(schema), validate_formats=True) for schema in schemas
    ]

    assert examples
    for each in examples:
        document = json.loads(each)
        shortened = "sessions" in document  # its sessions have only an id
        assert shortened or any(validator.is_valid(document) for validator in validators), each


# --- The check of every reply in the other tests


VALID_HEADERS = {"Content-Type": "application/json; charset=utf-8", "X-Request-Id": "12345678"}


@pytest.mark.parametrize(
    ("status", "headers", "text", "violation"),
    [
        (200, VALID_HEADERS, '{"revoked": 1, "more": false}', None),
        (200, VALID_HEADERS, '{"revoked": 1, "more": false, "undocumented": 1}', "undocumented"),
        (200, VALID_HEADERS, '{"revoked": 1}', "more"),
        (200, VALID_HEADERS, '{"revoked": -1, "more": false}', "minimum"),
        (
            200,
            {"Content-Type": "application/json"},
            '{"revoked": 1, "more": false}',
            "X-Request-Id",
        ),
        (
            200,
            VALID_HEADERS | {"Content-Type": "text/html"},
            '{"revoked": 1, "more": false}',
            "text/html",
        ),
        (204, VALID_HEADERS, "{}", "204"),
    ],
)
def test_undocumented_reply_is_a_violation(
    status: int, headers: dict[str, str], text: str, violation: str | None
) -> None:
    found = find_violations("POST", "/v1/users/ada/revoke", status, headers, text)

    assert len(found) == (violation is not None)
    assert violation is None or violation in found[0]


def test_problem_code_of_another_route_is_a_violation() -> None:
    problem = '{"type": "about:blank", "title": "Conflict", "status": 409, "code": "%s"}'
    headers = VALID_HEADERS | {"Content-Type": "application/problem+json"}
    path = "/v1/sessions/01890a5d-ac96-774b-bcce-b302099a8057/touch"

    assert find_violations("POST", path, 409, headers, problem % "session_ended") == []
    assert find_violations("POST", path, 409, headers, problem % "limit_reached") != []


def test_unknown_path_may_only_respond_with_problems() -> None:
    assert find_violations("GET", "/nowhere", 200, VALID_HEADERS, "{}") != []


def test_client_is_generated_without_warnings(tmp_path: Path) -> None:
    """The whole client: a generator leaves out what it does not understand, and says so."""
    document, client = tmp_path / "openapi.json", tmp_path / "client"
    document.write_text(json.dumps(DOCUMENT))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document)]

    done = subprocess.run(
        [*command, "--output-path", str(client), "--fail-on-warning"],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    operations_made = [path for path in client.rglob("api/*/*.py") if path.name != "__init__.py"]
    assert len(operations_made) == len(ROUTES)
    compileall = [sys.executable, "-m", "compileall", "-q", str(client)]
    assert subprocess.run(compileall, check=False).returncode == 0
