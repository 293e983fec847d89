"""`sidegate audit`: who changed which session, and does the chain of events hold?"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.options import load, with_config, with_output
from sidegate.cli.services import ask, by_the_rules
from sidegate.cli.writing import as_json, as_table

if TYPE_CHECKING:
    from sidegate.core.audit import AuditFilter, Seal
    from sidegate.runtime.container import Container
    from sidegate.services.audit_seal import Verified

_SEAL: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})", re.ASCII)

# About a second's worth.
_TOLD_EACH: Final = 10_000


@click.group()
def audit() -> None:
    """Look at the audit trail, and verify it.

    \b
    Examples:
      sidegate audit list --user alice
      sidegate audit verify
    """


@audit.command("list")
@click.option("--session", "session_id", help="Only what was done to this session.")
@click.option("--user", "user_id", help="Only what was done to this user's sessions.")
@click.option("--action", type=click.Choice(["create", "refresh", "migrate", "revoke"]))
@click.option("--by", help="Only what this actor did: key:login-service, cli:root, sidegate.")
@click.option("--since", help="Not before: 2026-03-04T12:00:00Z.")
@click.option("--until", help="Before: 2026-03-05T12:00:00Z.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most."
)
@with_config
@with_output
def audit_list(config: Path | None, output: str, limit: int, **wanted: Any) -> None:
    """List what was done, newest first: who, what, when, from where, and why.

    \b
    Examples:
      sidegate audit list --user alice
      sidegate audit list --action revoke --since 2026-03-04T00:00:00Z -o json
    """
    from sidegate.web.schemas.documents import event_document

    chosen = _filter(wanted)
    events = ask(load(config), lambda house: house.audit.events(chosen, limit=limit))
    if len(events) == limit:
        click.echo(f"These are the newest {limit}; there may be more: --limit.", err=True)
    documents = [event_document(event) for event in events]
    columns = ("at", "action", "session_id", "user_id", "by", "from", "reason")
    click.echo(as_json(documents) if output == "json" else as_table(columns, documents))


def _filter(wanted: dict[str, Any]) -> "AuditFilter":
    from sidegate.core.audit import Action, AuditFilter
    from sidegate.web.schemas import values

    kinds = {
        "session_id": values.session_id,
        "user_id": values.user_id,
        "action": Action,
        "by": values.label,
        "since": values.moment,
        "until": values.moment,
    }
    chosen: dict[str, Any] = {}
    for name, text in wanted.items():
        with by_the_rules(f"--{name.removesuffix('_id')}"):
            chosen[name] = None if text is None else kinds[name](text)
    return AuditFilter(actor=chosen.pop("by"), **chosen)


@audit.command("verify")
@click.option("--head", metavar="LINK:HASH", help="A head that was printed earlier: it must hold.")
@with_config
@with_output
def audit_verify(head: str | None, config: Path | None, output: str) -> None:
    """Follow the chain of events from its beginning, and exit 1 where it does not hold.

    It prints the chain's head. Keep it elsewhere: given to a later run, it shows whether the chain
    was made anew since, or its end cut off.

    \b
    Examples:
      sidegate audit verify
      sidegate audit verify --head "$(cat /safe/place/audit-head)"
    """
    known = _seal(head)
    verified = ask(load(config), lambda house: _verified(house, known))
    found = {
        "holds": verified.broken is None,
        "events": verified.events,
        "head": f"{verified.head.link}:{verified.head.hash.hex()}",
        "broken": verified.broken,
    }
    if output == "json":
        click.echo(as_json(found))
    else:
        click.echo(f"{verified.events} events, head {found['head']}")
    if verified.broken is not None:
        raise click.ClickException(
            f"the chain is broken: {verified.broken}.\n"
            "Somebody changed the audit trail in the database: compare it with a backup."
        )


def _seal(text: str | None) -> "Seal":
    from sidegate.core.audit import BEFORE_ALL, Seal

    if text is None:
        return BEFORE_ALL
    spelled = _SEAL.fullmatch(text)
    if spelled is None:
        raise click.BadParameter("write it as it was printed, LINK:HASH", param_hint="--head")
    return Seal(int(spelled[1]), bytes.fromhex(spelled[2]))


async def _verified(house: "Container", known: "Seal") -> "Verified":
    """Seal what is new, then read the chain, with progress."""
    await house.audit.seal()
    async for verified in house.audit.verify(known):
        if verified.events and verified.events % _TOLD_EACH == 0:
            click.echo(f"{verified.events} events so far", err=True)
    return verified
