"""The blocks of docs/rules.md work as they are printed."""

import re
from pathlib import Path

import pytest

from sidegate.core.requirement import Access
from sidegate.core.rules import RuleTable
from sidegate.core.target import StatedTarget, read_target
from sidegate.settings import load
from tests.support.pages import Page
from tests.support.shell_blocks import run_blocks

PAGE = Page(Path(__file__).parents[1] / "docs" / "rules.md")


def blocks(language: str) -> list[str]:
    return [text for each, text in PAGE.fences if each == language]


def read_rules(block: str, directory: Path) -> RuleTable:
    config = directory / "sidegate.yaml"
    config.write_text(block)
    return RuleTable(load(config, {}).access_rules())


def test_rules_of_the_page_are_valid(tmp_path: Path) -> None:
    first, shadow = (read_rules(block, tmp_path) for block in blocks("yaml"))

    names = ["static", "home", "admin", "api", "polling", "default"]
    assert [rule.name for rule in first.rules] == names
    assert [rule.shadow for rule in shadow.rules] == [True, False]


@pytest.mark.parametrize(
    ("target", "rule", "access"),
    [
        (("app.example.com", "/public/a/b", "HEAD"), "static", Access.PUBLIC),
        (("app.example.com", "/", "GET"), "home", Access.OPTIONAL),
        (("admin.example.com", "/users", "GET"), "admin", Access.SESSION),
        (("app.example.com", "/api/x", "OPTIONS"), "api", Access.PUBLIC),
        (("app.example.com", "/api/x", "GET"), "api", Access.SESSION),
        (("app.example.com", "/x", "GET"), "default", Access.SESSION),
    ],
)
def test_rules_of_the_page_apply(
    tmp_path: Path, target: tuple[str, str, str], rule: str, access: Access
) -> None:
    table = read_rules(blocks("yaml")[0], tmp_path)
    decision = table.find(read_target(StatedTarget(*(part.encode() for part in target))))

    assert [each.name for each in decision.rules] == [rule]
    assert decision.requirement.access is access


def test_commands_of_the_page_print_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "sidegate.yaml").write_text(blocks("yaml")[0])
    (shown,) = blocks("text")

    printed = run_blocks(blocks("sh"), tmp_path, replaced={}, environment={})

    assert "\n".join(printed) == shown.rstrip("\n")


def test_every_block_of_the_page_is_of_a_kind_that_is_tested() -> None:
    assert {language for language, _ in PAGE.fences} == {"yaml", "sh", "text"}
    assert len(re.findall(r"^ *```\w", PAGE.text, re.MULTILINE)) == len(PAGE.fences)
