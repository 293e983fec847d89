"""`sidegate rules`: what the access rules say about a request."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from sidegate.cli.command import config_option, load_settings
from sidegate.cli.output import format_json, format_record, format_table, output_option
from sidegate.core.requirement import Access, Requirement
from sidegate.core.rules import Decision, RuleTable
from sidegate.core.target import Readings, StatedTarget, read_target

_URL: Final = re.compile(r"https?://([^/?#]*)(.*)", re.DOTALL)
_UNKNOWN: Final = "(not readable)"


@click.group()
def rules() -> None:
    """Show what the access rules say.

    \b
    Examples:
      sidegate rules explain GET https://app.example.com/admin
    """


@rules.command()
@click.argument("method")
@click.argument("url")
@output_option
@config_option
def explain(method: str, url: str, *, output: str, config: Path | None) -> None:
    """Show how a request can be read, the rule of each reading, and what it needs.

    URL is a whole one, or a path if the host does not matter. It is taken as it is: encode it as a
    client would, and quote it for the shell.

    \b
    Examples:
      sidegate rules explain GET https://app.example.com/admin
      sidegate rules explain GET '/public/..%2fadmin' --config sidegate.yaml
      sidegate rules explain POST https://app.example.com/api/orders --output json
    """
    stated = _parse_url(url, method)
    document = explain_target(RuleTable(load_settings(config).access_rules()), stated)
    click.echo(format_json(document) if output == "json" else "\n".join(_format(document)))


def _parse_url(url: str, method: str) -> StatedTarget:
    match = _URL.fullmatch(url)
    if match is None and not url.startswith("/"):
        raise click.BadParameter("write https://HOST/PATH, or /PATH", param_hint="URL")
    host, uri = (None, url) if match is None else (match[1].encode(), match[2])
    uri = uri if uri.startswith("/") else f"/{uri}"
    return StatedTarget(host, uri.encode(), method.encode())


def explain_target(table: RuleTable, stated: StatedTarget) -> Mapping[str, Any]:
    """Return the readings of a target, the rules of each, and what all of them together need."""
    readings = read_target(stated)
    decision = table.find(readings)
    return {
        "host": readings.host,
        "methods": None if readings.methods is None else list(readings.methods),
        "readings": list(_explain_paths(table, readings, decision=decision)),
        "rules": [
            {"rule": rule.name, "needs": describe(rule.requirement)} for rule in decision.rules
        ],
        "shadow": [
            {"rule": rule.name, "needs": describe(rule.requirement)} for rule in decision.shadow
        ],
        "verdict": describe(decision.requirement),
    }


def _explain_paths(
    table: RuleTable, readings: Readings, *, decision: Decision
) -> Iterator[Mapping[str, Any]]:
    for path in readings.paths or ():
        names = [rule.name for rule in table.find_for_path(readings, path)]
        yield {"path": path.decode("utf-8", "backslashreplace"), "rules": names}
    if readings.paths is None:
        yield {"path": None, "rules": [rule.name for rule in decision.rules]}


def describe(requirement: Requirement) -> str:
    """Return in a few words what a request needs."""
    match requirement.access:
        case Access.PUBLIC:
            return "nothing: public"
        case Access.OPTIONAL:
            return "nothing: a session is optional"
        case Access.SESSION:
            return "; ".join(["a session", *_describe_conditions(requirement)])


def _describe_conditions(requirement: Requirement) -> Iterator[str]:
    from sidegate.settings.values import format_duration

    for name, values in (("type", requirement.types), ("tenant", requirement.tenants)):
        if values is not None:
            yield f"{name} {' or '.join(sorted(values)) or 'that no session has'}"
    if requirement.scopes:
        yield f"scopes {' '.join(sorted(requirement.scopes))}"
    if requirement.max_age is not None:
        yield f"authenticated within {format_duration(requirement.max_age)}"
    if requirement.bound:
        yield "bound to a client"
    if not requirement.counts_activity:
        yield "not counted as activity"


def _format(document: Mapping[str, Any]) -> Iterator[str]:
    yield format_record({"host": document["host"] or "(not known)", "method": document["methods"]})
    yield ""
    readings = [
        {"path": each["path"] or _UNKNOWN, "rule": each["rules"]} for each in document["readings"]
    ]
    yield format_table(["path", "rule"], readings)
    yield ""
    yield format_table(["rule", "needs"], document["rules"])
    if document["shadow"]:
        yield ""
        yield "Counted only (shadow):"
        yield format_table(["rule", "needs"], document["shadow"])
    yield ""
    yield f"Verdict: {document['verdict']}"
