"""Access rules in the settings: what they become, and every error at once with its path."""

from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.errors import SettingsError
from sidegate.core.requirement import Access, Requirement
from sidegate.core.rules import Rule
from sidegate.core.session_type import SessionType
from sidegate.settings import load


def load_rules(folder: Path, text: str) -> tuple[Rule, ...]:
    """Return the rules of a file with this text."""
    config = folder / "sidegate.yaml"
    config.write_text(text)
    return load(config, {}).access_rules()


def load_errors(folder: Path, text: str) -> dict[str, str]:
    """Return the errors by their paths, without the name of the file."""
    with pytest.raises(SettingsError) as caught:
        load_rules(folder, text)
    errors = [error.partition(": ")[::2] for error in caught.value.errors]
    assert len(dict(errors)) == len(errors)
    return {path: message.partition(" (from ")[0] for path, message in errors}


def test_without_rules_there_are_none() -> None:
    assert load(None, {}).access_rules() == ()


def test_every_member_of_a_rule_is_read(tmp_path: Path) -> None:
    rules = load_rules(
        tmp_path,
        """
rules:
- name: all
  hosts: [App.example.com, "*.cdn.test", "[::1]"]
  paths: [/a, "/My Documents/*.pdf", /é/**, /]
  methods: [GET, VERSION-CONTROL]
  access: SESSION
  types: [api, SSO]
  scopes: [read, orders:write]
  tenants: ["Acme, Inc."]
  authenticated_within: 15m
  bound: true
  activity: false
  preflight: true
  shadow: true
""",
    )

    assert rules == (
        Rule(
            "all",
            Requirement(
                Access.SESSION,
                types=frozenset({SessionType.API, SessionType.SSO}),
                scopes=frozenset({"read", "orders:write"}),
                tenants=frozenset({"Acme, Inc."}),
                max_age=timedelta(minutes=15),
                bound=True,
                counts_activity=False,
            ),
            hosts=("app.example.com", "*.cdn.test", "[::1]"),
            paths=("/a", "/My Documents/*.pdf", "/é/**", "/"),
            methods=("GET", "VERSION-CONTROL"),
            preflight=True,
            shadow=True,
        ),
    )


def test_lists_may_be_texts_and_a_rule_without_a_name_has_its_place(tmp_path: Path) -> None:
    rules = load_rules(
        tmp_path,
        """
rules:
- {paths: "/public/** /favicon.ico", methods: "GET, POST", access: public}
- {paths: /home, access: optional}
""",
    )

    assert rules == (
        Rule(
            "rules[0]",
            Requirement(Access.PUBLIC),
            paths=("/public/**", "/favicon.ico"),
            methods=("GET", "POST"),
        ),
        Rule("rules[1]", Requirement(Access.OPTIONAL), paths=("/home",)),
    )


def test_rules_may_be_in_a_variable() -> None:
    text = '[{"paths": ["/public/**"], "access": "public"}]'

    (rule,) = load(None, {"SIDEGATE_RULES": text}).access_rules()

    assert (rule.paths, rule.requirement.access) == (("/public/**",), Access.PUBLIC)


PATH_HINT = "write a path as /health, /users/*/avatar or /public/**, decoded and without a query"


def test_all_errors_are_reported_at_once_with_their_paths(tmp_path: Path) -> None:
    errors = load_errors(
        tmp_path,
        """
rules:
- name: default
  paths: [/ok, favicon.ico, /a/**/b, "/x%20y", /a/../b, "/a?b", "", /a*b*c, /a//b, "/a;b"]
  methods: [get]
  access: publik
- paths: []
  scopes: ['a"b', ok]
- name: 1st
  hosts: ["a.test:80", "*", "a.*.test", ok.test]
  types: foo
- authenticated_within: 0s
- access: public
  scopes: a
- access: optional
  bound: true
- access: public
  activity: false
- path: /x
- {hosts: null, tenants: []}
- just a text
""",
    )

    assert errors == {
        "rules[0].name": "write another name: this one is of what no rule matches",
        **{f"rules[0].paths[{place}]": PATH_HINT for place in (1, 3, 4, 5, 6, 8, 9)},
        "rules[0].paths[2]": "write ** only at the end, as in /public/**",
        "rules[0].paths[7]": "write at most one * between two slashes",
        "rules[0].methods[0]": "write methods in upper case, for example GET",
        "rules[0].access": "must be 'public', 'optional' or 'session'",
        "rules[1].paths": "an empty list matches nothing: leave it out for any",
        "rules[1].scopes[0]": 'a scope is printable ASCII without space, " and \\',
        "rules[2].name": "write up to 64 letters, digits, dots and dashes",
        **{
            f"rules[2].hosts[{place}]": "write hosts without ports, for example"
            " app.example.com, *.example.com or [::1]"
            for place in (0, 1, 2)
        },
        "rules[2].types[0]": "must be 'web', 'mobile', 'api', 'service' or 'sso'",
        "rules[3].authenticated_within": "must be longer than 0s",
        **{
            f"rules[{place}]": "types, scopes, tenants, authenticated_within and bound need"
            " access: session"
            for place in (4, 5)
        },
        "rules[6]": "activity: nothing counts as activity with access: public",
        "rules[7].path": "no such setting; did you mean paths?",
        "rules[8].tenants": "an empty list matches nothing: leave it out for any",
        "rules[9]": "must be a group of settings; in a variable as a JSON object",
    }


def test_two_rules_of_one_name_are_an_error_beside_others(tmp_path: Path) -> None:
    errors = load_errors(
        tmp_path,
        """
rules:
- {name: a, paths: /a}
- {paths: /b, access: publik}
- {name: a, paths: /c}
""",
    )

    assert errors == {
        "rules[1].access": "must be 'public', 'optional' or 'session'",
        "rules[2].name": "is the name of rules[0], too",
    }


def test_rule_that_never_applies_is_an_error(tmp_path: Path) -> None:
    errors = load_errors(
        tmp_path,
        """
rules:
- {paths: /a/**}
- {paths: [/a, /a/b/**], scopes: admin}
- {access: public}
- {paths: /x}
""",
    )

    assert errors == {
        "rules[1]": "never applies: rules[0] matches all that it does",
        "rules[3]": "never applies: rules[2] matches all that it does",
    }


@pytest.mark.parametrize("text", ["rules: {}", "rules: public", "rules: 1"])
def test_rules_that_are_no_list_are_an_error(tmp_path: Path, text: str) -> None:
    assert load_errors(tmp_path, text)["rules"].startswith("must be a list")
