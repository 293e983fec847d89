"""`sidegate rules explain`: the readings of a target, the rule of each, and the verdict."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sidegate.cli.main import main

RULES = """
rules:
- {name: static, paths: /public/**, methods: GET, access: public}
- {paths: /home, access: optional}
- name: admin
  hosts: admin.test
  scopes: [audit, admin]
  authenticated_within: 15m
- {name: new, paths: /api/**, bound: true, shadow: true}
- name: api
  paths: /api/**
  types: [service, api]
  tenants: acme
  activity: false
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sidegate.yaml"
    path.write_text(RULES)
    return path


def explain(config: Path, *arguments: str) -> Result:
    command = ["rules", "explain", *arguments, "--config", str(config)]
    return CliRunner().invoke(main, command, prog_name="sidegate")


def explain_as_json(config: Path, *arguments: str) -> Any:
    result = explain(config, *arguments, "--output", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_plain_target_has_one_reading_and_one_rule(config: Path) -> None:
    assert explain_as_json(config, "GET", "https://App.test:8443/public/x?y=1") == {
        "host": "app.test",
        "methods": ["GET"],
        "readings": [{"path": "/public/x", "rules": ["static"]}],
        "rules": [{"rule": "static", "needs": "nothing: public"}],
        "shadow": [],
        "verdict": "nothing: public",
    }


def test_every_reading_of_a_hostile_target_is_shown(config: Path) -> None:
    result = explain(config, "get", "https://admin.test/public/..%2fx")

    assert result.exit_code == 0
    assert result.stdout == (
        "host    admin.test\n"
        "method  get GET\n"
        "\n"
        "path            rule\n"
        "/public/..%2fx  static admin\n"
        "/public/../x    static admin\n"
        "/x              admin\n"
        "\n"
        "rule    needs\n"
        "static  nothing: public\n"
        "admin   a session; scopes admin audit; authenticated within 15m\n"
        "\n"
        "Verdict: a session; scopes admin audit; authenticated within 15m\n"
    )


def test_rule_in_shadow_is_shown_apart(config: Path) -> None:
    result = explain(config, "POST", "https://app.test/api/x")

    assert "Counted only (shadow):\nrule  needs\nnew   a session; bound to a client\n" in (
        result.stdout
    )
    assert result.stdout.endswith(
        "Verdict: a session; type api or service; tenant acme; not counted as activity\n"
    )


def test_path_without_a_host_has_every_rule_of_hosts(config: Path) -> None:
    document = explain_as_json(config, "GET", "/other")

    assert document["host"] is None
    assert document["readings"] == [{"path": "/other", "rules": ["admin", "default"]}]


@pytest.mark.parametrize("path", ["/a b", "/public/%00", "/%ff%00"])
def test_target_that_is_not_readable_has_every_rule(config: Path, path: str) -> None:
    document = explain_as_json(config, "GET", f"https://app.test{path}")

    names = ["static", "rules[1]", "api", "default"]
    assert document["readings"] == [{"path": None, "rules": names}]
    assert explain(config, "GET", path).stdout.count("(not readable)") == 1


@pytest.mark.parametrize(
    ("url", "path"),
    [("https://app.test", "/"), ("https://app.test?x", "/"), ("/caf%e9", "/caf\\xe9")],
)
def test_path_is_shown_as_text(config: Path, url: str, path: str) -> None:
    assert [each["path"] for each in explain_as_json(config, "GET", url)["readings"]] == [path]


def test_type_that_no_session_has_is_said(config: Path) -> None:
    config.write_text("rules:\n- {paths: /a, types: web}\n- {paths: /b/**, types: api}\n")

    result = explain(config, "GET", "/b/..%2fa")

    assert result.stdout.endswith("Verdict: a session; type that no session has\n")


def test_optional_session_is_said(config: Path) -> None:
    verdict = explain_as_json(config, "GET", "https://app.test/home")["verdict"]

    assert verdict == "nothing: a session is optional"


def test_url_without_a_scheme_or_a_slash_is_a_usage_error(config: Path) -> None:
    result = explain(config, "GET", "app.test/x")

    assert result.exit_code == 2
    assert "write https://HOST/PATH, or /PATH" in result.stderr


def test_wrong_settings_are_reported(config: Path) -> None:
    config.write_text("rules: [{access: publik}]")

    result = explain(config, "GET", "/x")

    assert result.exit_code == 78
    assert "rules[0].access" in result.stderr
