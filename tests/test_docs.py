"""The pages of docs/ say what the code does."""

import re
from pathlib import Path

import pytest

from sidegate.core.analytics import Cause
from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes, Preset, get_preset_lifetimes
from sidegate.core.session_type import SessionType
from sidegate.settings import load
from sidegate.settings.values import format_duration
from sidegate.web.gateways.identity_headers import IdentityNames
from tests.contracts.values import build_session

DOCS = Path(__file__).parent.parent / "docs"


def between(page: str, name: str) -> str:
    """Return what stands between `<!-- name -->` and `<!-- /name -->`."""
    text = (DOCS / page).read_text("utf-8")
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]


def deadlines() -> str:
    """Return the table of every type's deadlines, by default and with each preset."""
    presets = {preset: get_preset_lifetimes(preset) for preset in Preset}
    rows = [["type", "default", *(f"`{preset}`" for preset in presets)]]
    rows.append(["---"] * len(rows[0]))
    for type_ in SessionType:
        default = DEFAULT_LIFETIMES[type_]
        given = (default, *(these.get(type_, default) for these in presets.values()))
        rows.append([f"`{type_}`", *map(format_lifetimes, given)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def format_lifetimes(lifetimes: Lifetimes) -> str:
    idle = lifetimes.idle_timeout
    silence = "any silence" if idle is None else f"idle {format_duration(idle)}"
    return f"{format_duration(lifetimes.lifetime)}, {silence}"


def test_the_deadlines_in_the_docs_are_the_codes() -> None:
    assert between("sessions.md", "deadlines") == deadlines(), deadlines()


def test_the_provider_in_the_docs_can_be_listened_to(tmp_path: Path) -> None:
    section = (DOCS / "sessions.md").read_text("utf-8").partition("## Back-channel logout")[2]
    config = tmp_path / "sidegate.yaml"
    config.write_text(section.partition("```yaml\n")[2].partition("```")[0])

    assert [provider.name for provider in load(config, {}).sso.providers] == ["keycloak"]


@pytest.mark.parametrize("type_", SessionType)
def test_a_default_deadline_is_told_for_every_type(type_: SessionType) -> None:
    assert f"| `{type_}` | {format_lifetimes(DEFAULT_LIFETIMES[type_])} |" in deadlines()


def table(page: str, name: str) -> list[list[str]]:
    """Return the cells of the rows below the heading of a table."""
    rows = between(page, name).splitlines()[2:]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize("row", table("identity-headers.md", "encoded"), ids=lambda row: row[0])
def test_user_id_in_the_docs_is_encoded_like_that(row: list[str]) -> None:
    user_id, header = row
    fields = dict(IdentityNames().build_fields(build_session(user_id=user_id)))

    assert fields["X-Auth-User"] == header


def test_identity_headers_in_the_docs_are_those_of_the_code() -> None:
    page = (DOCS / "identity-headers.md").read_text("utf-8")

    assert (
        tuple(re.findall(r"^\| `(X-[\w-]+)` \|", page, re.MULTILINE)) == IdentityNames().all_names()
    )


def section(page: str, heading: str) -> str:
    text = (DOCS / page).read_text("utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_of_an_end_is_explained(cause: Cause) -> None:
    causes = section("sessions.md", "Analytics").partition("The causes:")[2]
    heads = [line.split("|")[1] for line in causes.splitlines() if line.startswith("| `")]
    assert f"`{cause}`" in ",".join(heads)
