"""`sidegate session revoke`: end sessions, by id or by condition."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.options import load, with_config, with_output
from sidegate.cli.services import TYPES, ask, by_the_rules, caller
from sidegate.cli.writing import as_json, print_session

if TYPE_CHECKING:
    from sidegate.core.condition import Condition
    from sidegate.runtime.container import Container
    from sidegate.settings import Settings

# Options to members of the API's condition.
_CONDITION: Final = {
    "everybody": "all",
    "user": "user_id",
    "except_id": "except",
    "type_": "type",
    "scope": "scope",
    "tenant": "tenant",
    "provider": "provider",
    "provider_session": "provider_session_id",
    "provider_subject": "provider_subject",
    "ip_prefix": "ip_prefix",
    "user_agent_contains": "user_agent_contains",
    "created_before": "created_before",
    "last_seen_before": "last_seen_before",
}


@click.command("revoke")
@click.argument("session_id", required=False)
@click.option("--user", help="All sessions of this user, instead of one.")
@click.option("--type", "type_", type=TYPES, help="Those of this type.")
@click.option("--except", "except_id", metavar="SESSION_ID", help="All but this one.")
@click.option("--scope", help="Those that have this scope.")
@click.option("--tenant", help="Those of this tenant.")
@click.option("--provider", help="Those of this identity provider.")
@click.option("--provider-session", help="Those that began with this session of a provider.")
@click.option("--provider-subject", help="Those of this subject of a provider.")
@click.option("--ip-prefix", help="Those begun from this network: 203.0.113.0/24.")
@click.option("--user-agent-contains", help="Those whose client names itself so.")
@click.option("--created-before", help="Those begun before: 2026-03-04T12:00:00Z.")
@click.option("--last-seen-before", help="Those not seen since: 2026-03-04T12:00:00Z.")
@click.option("--all", "everybody", is_flag=True, help="Every session there is.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@click.option("--reason", default="revoked", show_default=True, help="Goes into the record.")
@with_config
@with_output
def session_revoke(session_id: str | None, config: Path | None, output: str, **rest: Any) -> None:
    """End one session, or all that match every option, for good.

    Running servers know within seconds.

    \b
    Examples:
      sidegate session revoke 01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a
      sidegate session revoke --user alice --reason "laptop stolen"
      sidegate session revoke --user alice --type mobile
      sidegate session revoke --ip-prefix 203.0.113.0/24 --dry-run
      sidegate session revoke --all --reason "token keys leaked"
    """
    condition = _given(rest)
    if (session_id is None) is not bool(condition):
        raise click.UsageError("Give a session's id, or options that say which (--user, ...).")
    if session_id is not None and rest["dry_run"]:
        raise click.UsageError("--dry-run goes with options that say which.")
    settings = load(config)
    if session_id is not None:
        _revoke_one(settings, session_id, rest["reason"], output)
    else:
        _revoke_many(settings, condition, rest, output)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {member: options[option] for option, member in _CONDITION.items() if options[option]}


def _revoke_one(settings: "Settings", session_id: str, reason: str, output: str) -> None:
    from sidegate.web.schemas.base import read
    from sidegate.web.schemas.sessions import RevokePayload
    from sidegate.web.schemas.values import session_id as read_id

    with by_the_rules("SESSION_ID"):
        wanted = read_id(session_id)
    with by_the_rules("options"):
        why = read(RevokePayload, {"reason": reason}).reason
    print_session(
        ask(settings, lambda house: house.sessions.revoke(wanted, by=caller(), reason=why)), output
    )


def _revoke_many(
    settings: "Settings", given: dict[str, Any], options: Mapping[str, Any], output: str
) -> None:
    from sidegate.web.schemas.base import read
    from sidegate.web.schemas.conditions import RevokeWherePayload

    with by_the_rules("options"):
        payload = read(RevokeWherePayload, {"condition": given, "reason": options["reason"]})
    condition = payload.condition.condition()
    if options["dry_run"]:
        number = ask(settings, lambda house: house.sessions.count_where(condition))
        click.echo(
            as_json({"would_revoke": number}) if output == "json" else f"would revoke {number}"
        )
        return
    number = ask(settings, lambda house: _batches(house, condition, payload.reason))
    click.echo(as_json({"revoked": number}) if output == "json" else f"revoked {number}")


async def _batches(house: "Container", condition: "Condition", reason: str) -> int:
    total = 0
    async for number in house.sessions.revoke_where(condition, by=caller(), reason=reason):
        if total:  # one batch needs no progress
            click.echo(f"{total} revoked so far", err=True)
        total += number
    return total
