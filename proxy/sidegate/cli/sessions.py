"""`sidegate session`: manage sessions directly in the stores, as the admin API does."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.command import config_option, load_settings
from sidegate.cli.output import (
    build_document,
    format_json,
    format_record,
    format_table,
    output_option,
    print_session,
)
from sidegate.cli.revoke import session_revoke
from sidegate.cli.services import (
    SESSION_TYPES,
    change_with_services,
    current_actor,
    report_usage_errors,
    run_with_services,
    with_time,
)

if TYPE_CHECKING:
    from sidegate.core.session import SessionId
    from sidegate.services.sessions import NewSession
    from sidegate.settings import Settings


# Options with the name of a member of the admin API's request.
_SAME_NAME: Final = ("ip", "user_agent", "device", "tenant", "provider", "provider_subject")


@click.group()
def session() -> None:
    """Manage sessions directly in the stores of these settings.

    \b
    Examples:
      sidegate session create alice
      sidegate session list alice
      sidegate session revoke --user alice
    """


session.add_command(session_revoke)


@session.command("create")
@click.argument("user")
@click.option(
    "--type", "type_", type=SESSION_TYPES, default="web", show_default=True, help="Type of session."
)
@click.option("--scope", "scopes", multiple=True, help="A scope; repeat the option for several.")
@click.option("--expires-in", help="A lifetime shorter than the type's: 30s, 15m, 12h.")
@click.option("--ip", help="Address of the client.")
@click.option("--user-agent", help="User-Agent of the client.")
@click.option("--device", help="A name by which the user knows the device.")
@click.option("--tenant", help="A label. Limits count the sessions of each tenant separately.")
@click.option("--metadata", help="A JSON object.")
@click.option("--provider", help="Identity provider, of type sso.")
@click.option("--provider-session", help="Id of the session at the provider (sid).")
@click.option("--provider-subject", help="Subject at the provider (sub).")
@config_option
@output_option
def session_create(config: Path | None, output: str, **options: Any) -> None:
    """Create a session of USER. Its token is shown only once, on stdout, and is not stored.

    \b
    Examples:
      TOKEN=$(sidegate session create alice)
      sidegate session create ci --type api --scope deploy --expires-in 1h -o json
      sidegate session create alice --type sso --provider keycloak --provider-session a1b2
    """
    settings = load_settings(config)
    new = _build_new_session(options, settings)
    issued, now = change_with_services(
        settings, with_time(lambda container: container.sessions.create(new))
    )
    token, document = issued.token.text, build_document(issued.record, now)
    if output == "json":
        click.echo(format_json({"token": token, "session": document}))
    else:
        click.echo(format_record(document), err=True)  # so that $(...) captures only the token
        click.echo(token)


def _build_new_session(options: Mapping[str, Any], settings: "Settings") -> "NewSession":
    from sidegate.web.schemas.base import parse_payload
    from sidegate.web.schemas.sessions import NewSessionPayload

    document = {
        "user_id": options["user"],
        "type": options["type_"],
        "scopes": list(options["scopes"]),
        "expires_in": _parse_seconds(options["expires_in"]),
        "metadata": _parse_object(options["metadata"]),
        "provider_session_id": options["provider_session"],
    } | {name: options[name] for name in _SAME_NAME}
    with report_usage_errors("options"):
        payload = parse_payload(
            NewSessionPayload, document, lifetimes=settings.sessions.lifetimes_by_type()
        )
        return payload.build_new_session(current_actor())


def _parse_session_id(text: str) -> "SessionId":
    from sidegate.web.schemas.values import parse_session_id

    with report_usage_errors("SESSION_ID"):
        return parse_session_id(text)


def _check_user_id(text: str) -> str:
    from sidegate.web.schemas.values import check_user_id

    with report_usage_errors("USER"):
        return check_user_id(text)


def _parse_seconds(text: str | None) -> int | None:
    from sidegate.settings.values import parse_duration

    with report_usage_errors("--expires-in"):
        return None if text is None else int(parse_duration(text).total_seconds())


def _parse_object(text: str | None) -> dict[str, Any]:
    from sidegate.web.schemas import strict_json

    try:
        value = {} if text is None else strict_json.parse(text.encode())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        advice = 'use a JSON object, such as \'{"plan": "pro"}\''
        raise click.BadParameter(advice, param_hint="--metadata")
    return value


@session.command("show")
@click.argument("session_id")
@config_option
@output_option
def session_show(session_id: str, config: Path | None, *, output: str) -> None:
    """Show a session, active or ended.

    \b
    Examples:
      sidegate session show 01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a
      sidegate session show 01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a -o json
    """
    parsed_id = _parse_session_id(session_id)
    record, now = run_with_services(
        load_settings(config), with_time(lambda container: container.sessions.get(parsed_id))
    )
    print_session(record, now, output=output)


@session.command("list")
@click.argument("user")
@click.option("--ended", is_flag=True, help="Include ended sessions.")
@click.option(
    "--state",
    type=click.Choice(["active", "idle", "expired", "revoked"]),
    help="Only sessions in this state.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Maximum number of results.",
)
@config_option
@output_option
def session_list(
    user: str, ended: bool, *, state: str | None, limit: int, config: Path | None, output: str
) -> None:
    """List the sessions of USER, newest first.

    \b
    Examples:
      sidegate session list alice
      sidegate session list alice --ended -o json
      sidegate session list alice --state revoked
    """
    from sidegate.core.condition import Condition
    from sidegate.core.session_state import SessionState

    if ended and state is not None:
        raise click.UsageError("Give --ended or --state, not both.")
    condition = Condition(_check_user_id(user))
    wanted_state = None if ended else SessionState(state or SessionState.ACTIVE)
    records, now = run_with_services(
        load_settings(config),
        with_time(
            lambda container: container.sessions.list_where(
                condition, limit=limit, state=wanted_state
            )
        ),
    )
    if len(records) == limit:
        click.echo(f"Only the newest {limit} are listed; there may be more: --limit.", err=True)
    documents = [build_document(record, now) for record in records]
    columns = ("id", "type", "state", "created_at", "last_seen_at", "expires_at")
    click.echo(format_json(documents) if output == "json" else format_table(columns, documents))
