"""All that README.md and docs/ name exists: paths, commands, settings, metrics, endpoints."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import pytest

from sidegate.cli.main import main as sidegate
from sidegate.settings.sources import iter_settings, variable_name
from sidegate.web.admin.routes import ROUTES
from tests.bench.__main__ import main as bench
from tests.bench.soak.__main__ import main as soak
from tests.deploy.exported import exported_series
from tests.faults.__main__ import main as faults
from tests.support.pages import ROOT, Page, all_pages, written_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

# Words of one page: it has one reader and one question. Two pages answer many short questions.
MAX_WORDS: Final = {"docs/operations.md": 2_400, "docs/sessions.md": 1_650}
DEFAULT_MAX_WORDS: Final = 1_000

SHELL: Final = ("", "sh")
FOLDERS: Final = (ROOT, ROOT / "proxy" / "sidegate", ROOT / "docs")
SERIES: Final = exported_series()
SETTINGS: Final = {setting.path for setting in iter_settings()}
SECTIONS: Final = {path[:end] for path in SETTINGS for end in range(1, len(path))}
GATE_PATHS: Final = {"/auth-request", "/forward-auth", "/ext-authz", "/session"}
OPS_PATHS: Final = {"/livez", "/readyz", "/metrics"}
FOREIGN_PATHS: Final = {"/oauth2/auth"}  # of oauth2-proxy
GENERATED_FILES: Final = {"deploy/compose/secrets/grafana-password"}  # by make_secrets.py

pages = pytest.mark.parametrize("page", all_pages(), ids=str)


def test_written_pages_stay_short() -> None:
    too_long = {
        str(page): page.word_count
        for page in written_pages()
        if page.word_count > MAX_WORDS.get(str(page), DEFAULT_MAX_WORDS)
    }

    assert too_long == {}


# --- Paths


@pages
def test_links_lead_to_files_and_headings(page: Page) -> None:
    for link in page.links:
        name, _, anchor = link.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        assert target.exists(), link
        assert not anchor or anchor in Page(target).anchors, link


@pages
def test_paths_exist(page: Page) -> None:
    missing = [path for path in named_paths(page) if not exists(path)]

    assert set(missing) <= GENERATED_FILES


def named_paths(page: Page) -> Iterator[str]:
    """Yield inline code that looks like a path of this repository, or a file in it."""
    first = {entry.name for folder in FOLDERS for entry in folder.iterdir()}
    for span in page.spans:
        is_path = re.fullmatch(r"[\w.-]+(/[\w.*-]*)+", span) and span.partition("/")[0] in first
        if is_path or re.fullmatch(r"[\w-]+\.(py|md|lua|conf|cfg|yaml)", span):
            yield span


def exists(path: str) -> bool:
    if "/" in path:
        return any((folder / path).exists() for folder in FOLDERS)
    return path in repository_files()


@cache
def repository_files() -> frozenset[str]:
    """Return the name of each file of the repository."""
    folders = [ROOT / name for name in ("config", "deploy", "docs", "proxy", "tests")]
    files = [path for folder in folders for path in folder.rglob("*")] + [*ROOT.iterdir()]
    return frozenset(path.name for path in files)


# --- Commands


@pages
def test_commands_exist(page: Page) -> None:
    for line in named_commands(page):
        check_command(line)


def named_commands(page: Page) -> Iterator[str]:
    """Yield `sidegate ...` and `./dev ...`, each without what stands before and after it."""
    blocks = [text for language, text in page.fences if language in SHELL]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*page.spans, *lines]:
        for part in re.split(r"&&|[;|()<>&]", re.sub(r"\s#\s.*", "", line)):
            if match := re.search(r"(?:^|\s)(sidegate|\./dev)( [a-z].*)$", part.strip()):
                yield match[1] + match[2]


def check_command(line: str) -> None:
    program, *words = shlex.split(line)
    if words[0] == "sidegate":  # docker compose exec sidegate sidegate ...
        words = words[1:]
    if program == "sidegate":
        check_arguments(sidegate, words, line)
    else:
        assert words[0] in dev_commands(), line
        check_arguments(
            {"bench": bench, "faults": faults, "soak": soak}.get(words[0]), words[1:], line
        )


def check_arguments(command: click.Command | None, words: list[str], line: str) -> None:
    """Check each subcommand and option. Without `command`: options are in the help of ./dev."""
    for word in words:
        if word.startswith("-"):
            known = dev_help() if command is None else option_names(command)
            assert word.partition("=")[0] in known, f"{word} in {line}"
        elif isinstance(command, click.Group):
            assert word in command.commands, f"{word} in {line}"
            command = command.commands[word]


def option_names(command: click.Command) -> set[str]:
    return {"--help"} | {option for parameter in command.params for option in parameter.opts}


@cache
def dev_help() -> str:
    return subprocess.run(
        ["sh", str(ROOT / "dev"), "help"], capture_output=True, text=True, check=True
    ).stdout


def dev_commands() -> set[str]:
    return {"help", *re.findall(r"^\./dev (\w+)", dev_help(), re.MULTILINE)}


@pytest.mark.parametrize(
    "line",
    ["sidegate sesion list", "sidegate session revoke --usr a", "./dev tests", "./dev demo -x"],
)
def test_unknown_command_is_found(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(line)


# --- Settings


@pytest.mark.parametrize("page", written_pages(), ids=str)
def test_settings_exist(page: Page) -> None:
    names = {section[0] for section in SECTIONS}
    for span in page.spans:
        match = re.fullmatch(r"([a-z_]+(?:\.(?:[a-z_]+|<type>))+)(?::? .*)?", span)
        if match and match[1].partition(".")[0] in names:
            path = tuple(match[1].replace("<type>", "web").split("."))
            assert path in SETTINGS | SECTIONS, span


@pages
def test_variables_exist(page: Page) -> None:
    known = {variable_name(path) for path in SETTINGS}
    for name in re.findall(r"\bSIDEGATE_[A-Z0-9_]+", page.text):
        assert name.removesuffix("_FILE") in known, name


# --- Metrics


@pages
def test_metrics_exist(page: Page) -> None:
    """Names with parentheses are functions of the database."""
    for span in page.spans:
        for name, labels in re.findall(r"\b(sidegate_\w+\b\*?)(?!\()(?:\{(.*?)\})?", span):
            series = [each for each in SERIES if re.fullmatch(name.replace("*", ".*"), each)]
            assert series or f"{name}_bucket" in SERIES, span
            for label in re.findall(r"(\w+)(?:=\"[^\"]*\")?(?:,|$)", labels):
                assert label in SERIES[series[0]] or not SERIES[series[0]], span


# --- Endpoints


@pages
def test_endpoints_exist(page: Page) -> None:
    known = {re.sub(r"\{\w+\}", "{}", route.path) for route in ROUTES} | GATE_PATHS | OPS_PATHS
    for span in page.spans:
        match = re.fullmatch(r"(?:(?:GET|POST|PUT|DELETE) )?(/[a-z][\w.{}<>/-]*)(\?.*)?", span)
        if match and match[1] not in FOREIGN_PATHS and not Path(match[1]).exists():
            path = re.sub(r"\{\w+\}|<\w+>|\b[A-Z]+\b", "{}", match[1])
            folder = path.removesuffix("/") + "/"
            assert path in known or any(f"{each}/".startswith(folder) for each in known), span


# --- The parts of a page


def test_words_are_counted_outside_code_tables_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "# One two\n\n| not | counted |\n<!-- nor this -->\n```sh\nnor this\n```\nthree\n"
    )

    assert Page(path).word_count == 4  # the number sign of the heading is one


def test_commands_are_found_in_code_and_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "Use `sidegate audit list`.\n```sh\n"
        "sidegate migrate && KEY=$(sidegate key new a) # sidegate b\n"
        "docker exec sidegate sidegate version | cat\n```\n"
    )

    assert [*named_commands(Page(path))] == [
        "sidegate audit list",
        "sidegate migrate",
        "sidegate key new a",
        "sidegate sidegate version",
    ]
