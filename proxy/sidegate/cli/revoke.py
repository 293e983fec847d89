"""`sidegate session revoke`: revoke sessions, by id or by condition."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.command import config_option, load_settings
from sidegate.cli.output import format_json, output_option, print_session
from sidegate.cli.services import (
    SESSION_TYPES,
    change_with_services,
    current_actor,
    report_usage_errors,
    run_with_services,
    with_time,
)
from sidegate.core.errors import StoreUnavailable

if TYPE_CHECKING:
    from sidegate.core.condition import Condition
    from sidegate.runtime.container import Container
    from sidegate.settings import Settings

# Each option's member in the condition of the admin API.
_CONDITION_MEMBERS: Final = {
    "all_sessions": "all",
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
@click.option("--user", help="Sessions of this user.")
@click.option("--type", "type_", type=SESSION_TYPES, help="Sessions of this type.")
@click.option("--except", "except_id", metavar="SESSION_ID", help="Except this session.")
@click.option("--scope", help="Sessions that have this scope.")
@click.option("--tenant", help="Sessions of this tenant.")
@click.option("--provider", help="Sessions of this identity provider.")
@click.option("--provider-session", help="Sessions of this session id at the provider (sid).")
@click.option("--provider-subject", help="Sessions of this subject at the provider (sub).")
@click.option("--ip-prefix", help="Sessions created from this network: 203.0.113.0/24.")
@click.option("--user-agent-contains", help="Sessions whose User-Agent contains this text.")
@click.option("--created-before", help="Sessions created before: 2026-03-04T12:00:00Z.")
@click.option("--last-seen-before", help="Sessions last seen before: 2026-03-04T12:00:00Z.")
@click.option("--all", "all_sessions", is_flag=True, help="All sessions.")
@click.option("--dry-run", is_flag=True, help="Only print how many sessions match.")
@click.option("--reason", default="revoked", show_default=True, help="Reason, for the audit trail.")
@config_option
@output_option
def session_revoke(
    session_id: str | None, config: Path | None, *, output: str, **options: Any
) -> None:
    """Revoke one session, or all that match every option. This cannot be undone.

    It takes effect on running servers within seconds.

    \b
    Examples:
      sidegate session revoke 01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a
      sidegate session revoke --user alice --reason "laptop stolen"
      sidegate session revoke --user alice --type mobile
      sidegate session revoke --ip-prefix 203.0.113.0/24 --dry-run
      sidegate session revoke --all --reason "token keys leaked"
    """
    condition = _build_condition(options)
    if (session_id is None) is not bool(condition):
        raise click.UsageError(
            "Give either SESSION_ID or options that select sessions (--user, ...)."
        )
    if session_id is not None and options["dry_run"]:
        raise click.UsageError("--dry-run needs options that select sessions.")
    settings = load_settings(config)
    if session_id is not None:
        _revoke_one(settings, session_id, reason=options["reason"], output=output)
    else:
        _revoke_many(settings, condition, options=options, output=output)


def _build_condition(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        member: options[option] for option, member in _CONDITION_MEMBERS.items() if options[option]
    }


def _revoke_one(settings: "Settings", session_id: str, *, reason: str, output: str) -> None:
    from sidegate.web.schemas.base import parse_payload
    from sidegate.web.schemas.sessions import RevokePayload
    from sidegate.web.schemas.values import parse_session_id

    with report_usage_errors("SESSION_ID"):
        parsed_id = parse_session_id(session_id)
    with report_usage_errors("options"):
        checked = parse_payload(RevokePayload, {"reason": reason}).reason
    record, now = change_with_services(
        settings,
        with_time(
            lambda container: container.sessions.revoke(
                parsed_id, by=current_actor(), reason=checked
            )
        ),
    )
    print_session(record, now, output=output)
    if record is not None and not record.session.has_ended(now):
        raise click.ClickException("the session is still active.\nTry again.")


def _revoke_many(
    settings: "Settings", members: dict[str, Any], *, options: Mapping[str, Any], output: str
) -> None:
    from sidegate.web.schemas.base import parse_payload
    from sidegate.web.schemas.conditions import RevokeWherePayload

    with report_usage_errors("options"):
        payload = parse_payload(
            RevokeWherePayload, {"condition": members, "reason": options["reason"]}
        )
    condition = payload.condition.build_condition()
    if options["dry_run"]:
        count = run_with_services(
            settings, lambda container: container.sessions.count_where(condition)
        )
        click.echo(
            format_json({"would_revoke": count}) if output == "json" else f"would revoke {count}"
        )
        return
    revoked, active = change_with_services(
        settings, lambda container: _revoke_all(container, condition, reason=payload.reason)
    )
    _report_revoked(revoked, active, output=output)


def _report_revoked(revoked: int, active: int, *, output: str) -> None:
    """Print what was done. Raise ClickException if sessions that match are still active."""
    if output == "json":
        click.echo(format_json({"revoked": revoked, "still_active": active}))
    elif not active:
        click.echo(f"revoked {revoked}" if revoked else "revoked 0: no active session matches")
    if active:
        raise click.ClickException(
            f"revoked {revoked}; {active} matching sessions are still active.\n"
            "They may have been created meanwhile. Try again."
        )


async def _revoke_all(
    container: "Container", condition: "Condition", *, reason: str
) -> tuple[int, int]:
    """Return how many sessions were revoked, and how many that match are active after it."""
    revoked = await _revoke_batches(container, condition, reason=reason)
    try:
        return revoked, await container.sessions.count_where(condition)
    except StoreUnavailable:
        click.echo(f"revoked {revoked}; whether more are active is not known", err=True)
        raise


async def _revoke_batches(container: "Container", condition: "Condition", *, reason: str) -> int:
    total = 0
    async for count in container.sessions.revoke_where(
        condition, by=current_actor(), reason=reason
    ):
        if total:  # one batch needs no progress
            click.echo(f"{total} revoked so far", err=True)
        total += count
    return total
