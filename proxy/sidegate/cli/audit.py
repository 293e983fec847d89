"""`sidegate audit`: list the changes of sessions, and verify the chain of audit events."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.command import TryAgainLater, config_option, load_settings
from sidegate.cli.output import format_json, format_table, output_option
from sidegate.cli.services import report_usage_errors, run_with_services

if TYPE_CHECKING:
    from sidegate.core.audit import AuditFilter, Seal
    from sidegate.runtime.container import Container
    from sidegate.services.audit_seal import VerifyProgress

_SEAL: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})", re.ASCII)

# Those of core/audit.py, which `--help` does not load.
_ACTIONS: Final = ("create", "refresh", "reauthenticate", "update", "migrate", "revoke")

# Events between two lines of progress: about a second.
_PROGRESS_INTERVAL: Final = 10_000


@click.group()
def audit() -> None:
    """List and verify the audit trail.

    \b
    Examples:
      sidegate audit list --user alice
      sidegate audit verify
    """


@audit.command("list")
@click.option("--session", "session_id", help="Only changes of this session.")
@click.option("--user", "user_id", help="Only changes of this user's sessions.")
@click.option("--action", type=click.Choice(_ACTIONS))
@click.option("--by", help="Only changes by this actor: key:login-service, cli:root, sidegate.")
@click.option("--since", help="Only at or after this time: 2026-03-04T12:00:00Z.")
@click.option("--until", help="Only before this time: 2026-03-05T12:00:00Z.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Maximum number of results.",
)
@config_option
@output_option
def audit_list(config: Path | None, output: str, *, limit: int, **options: Any) -> None:
    """List changes, newest first: time, action, session, user, actor, address, reason.

    \b
    Examples:
      sidegate audit list --user alice
      sidegate audit list --action revoke --since 2026-03-04T00:00:00Z -o json
    """
    from sidegate.web.schemas.documents import build_event_document

    condition = _build_filter(options)
    events = run_with_services(
        load_settings(config), lambda container: container.audit.list_events(condition, limit=limit)
    )
    if len(events) == limit:
        click.echo(f"Only the newest {limit} are listed; there may be more: --limit.", err=True)
    documents = [build_event_document(event) for event in events]
    columns = ("at", "action", "session_id", "user_id", "by", "from", "reason")
    click.echo(format_json(documents) if output == "json" else format_table(columns, documents))


def _build_filter(options: dict[str, Any]) -> "AuditFilter":
    from sidegate.core.audit import Action, AuditFilter
    from sidegate.web.schemas import values

    parsers = {
        "session_id": values.parse_session_id,
        "user_id": values.check_user_id,
        "action": Action,
        "by": values.check_label,
        "since": values.parse_timestamp,
        "until": values.parse_timestamp,
    }
    parsed: dict[str, Any] = {}
    for name, text in options.items():
        with report_usage_errors(f"--{name.removesuffix('_id')}"):
            parsed[name] = None if text is None else parsers[name](text)
    return AuditFilter(actor=parsed.pop("by"), **parsed)


@audit.command("verify")
@click.option(
    "--head", metavar="LINK:HASH", help="A head of an earlier run that the chain must contain."
)
@config_option
@output_option
def audit_verify(head: str | None, config: Path | None, *, output: str) -> None:
    """Verify the hash chain of audit events from its beginning. Exit 1 if it is broken.

    The head of the chain is printed. Keep it elsewhere: with --head a later run detects that the
    chain was rewritten since, or its end deleted.

    \b
    Examples:
      sidegate audit verify
      sidegate audit verify --head "$(cat /safe/place/audit-head)"
    """
    from sidegate.core.errors import Conflict

    known = _parse_head(head)
    try:
        verified = run_with_services(
            load_settings(config), lambda container: _seal_and_verify(container, known)
        )
    except Conflict as error:
        raise TryAgainLater(f"{error}; not all are in the chain yet.\nTry again later.") from error
    result = {
        "intact": verified.broken is None,
        "events": verified.events,
        "head": f"{verified.head.link}:{verified.head.hash.hex()}",
        "broken": verified.broken,
    }
    if output == "json":
        click.echo(format_json(result))
    else:
        click.echo(f"{verified.events} events, head {result['head']}")
    if verified.broken is not None:
        raise click.ClickException(
            f"the chain is broken: {verified.broken}.\n"
            "The audit trail was changed in the database: compare it with a backup."
        )


def _parse_head(text: str | None) -> "Seal":
    from sidegate.core.audit import CHAIN_START, Seal

    if text is None:
        return CHAIN_START
    match = _SEAL.fullmatch(text)
    if match is None:
        raise click.BadParameter("use the printed form, LINK:HASH", param_hint="--head")
    return Seal(int(match[1]), bytes.fromhex(match[2]))


async def _seal_and_verify(container: "Container", known: "Seal") -> "VerifyProgress":
    """Seal new events, then verify the chain, and report progress."""
    await container.audit.seal_all()
    async for verified in container.audit.verify(known):
        if verified.events and verified.events % _PROGRESS_INTERVAL == 0:
            click.echo(f"{verified.events} events so far", err=True)
    return verified
