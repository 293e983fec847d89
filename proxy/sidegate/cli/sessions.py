"""`sidegate session`: work on sessions, straight on the stores, by the rules of the admin API."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.options import load, with_config, with_output
from sidegate.cli.revoke import session_revoke
from sidegate.cli.services import TYPES, ask, by_the_rules, caller
from sidegate.cli.writing import as_card, as_json, as_table, document_of, print_session

if TYPE_CHECKING:
    from sidegate.core.session import SessionId
    from sidegate.services.sessions import NewSession
    from sidegate.settings import Settings


# Options that are members of the API's document by the same name.
_AS_THEY_ARE: Final = ("ip", "user_agent", "device", "tenant", "provider", "provider_subject")


@click.group()
def session() -> None:
    """Work on sessions, straight on the stores of these settings.

    \b
    Examples:
      sidegate session create alice
      sidegate session list alice
      sidegate session revoke --user alice
    """


session.add_command(session_revoke)


@session.command("create")
@click.argument("user")
@click.option("--type", "type_", type=TYPES, default="web", show_default=True, help="Its kind.")
@click.option("--scope", "scopes", multiple=True, help="Give it once for each.")
@click.option("--expires-in", help="Shorter than the type's lifetime: 30s, 15m, 12h.")
@click.option("--ip", help="The client's address.")
@click.option("--user-agent", help="The client's program.")
@click.option("--device", help="A name the user knows it by.")
@click.option("--tenant", help="A label: limits count each tenant's sessions apart.")
@click.option("--metadata", help="A JSON object.")
@click.option("--provider", help="Of type sso: the identity provider behind it.")
@click.option("--provider-session", help="What the provider calls its own session (sid).")
@click.option("--provider-subject", help="What the provider calls the user (sub).")
@with_config
@with_output
def session_create(config: Path | None, output: str, **wanted: Any) -> None:
    """Begin a session of USER. Its token is shown this once, on stdout, and kept nowhere.

    \b
    Examples:
      TOKEN=$(sidegate session create alice)
      sidegate session create ci --type api --scope deploy --expires-in 1h -o json
      sidegate session create alice --type sso --provider keycloak --provider-session a1b2
    """
    settings = load(config)
    new = _new_session(wanted, settings)
    issued = ask(settings, lambda house: house.sessions.create(new))
    token, document = issued.token.text, document_of(issued.record)
    if output == "json":
        click.echo(as_json({"token": token, "session": document}))
    else:
        click.echo(as_card(document), err=True)  # so that $(...) holds the token alone
        click.echo(token)


def _new_session(wanted: Mapping[str, Any], settings: "Settings") -> "NewSession":
    from sidegate.web.schemas.base import read
    from sidegate.web.schemas.sessions import NewSessionPayload

    document = {
        "user_id": wanted["user"],
        "type": wanted["type_"],
        "scopes": list(wanted["scopes"]),
        "expires_in": _seconds(wanted["expires_in"]),
        "metadata": _object(wanted["metadata"]),
        "provider_session_id": wanted["provider_session"],
    } | {name: wanted[name] for name in _AS_THEY_ARE}
    with by_the_rules("options"):
        return read(NewSessionPayload, document, settings.sessions.by_type()).new_session(caller())


def _session_id(text: str) -> "SessionId":
    from sidegate.web.schemas.values import session_id

    with by_the_rules("SESSION_ID"):
        return session_id(text)


def _user_id(text: str) -> str:
    from sidegate.web.schemas.values import user_id

    with by_the_rules("USER"):
        return user_id(text)


def _seconds(text: str | None) -> int | None:
    from sidegate.settings.values import read_duration

    with by_the_rules("--expires-in"):
        return None if text is None else int(read_duration(text).total_seconds())


def _object(text: str | None) -> dict[str, Any]:
    try:
        read = {} if text is None else json.loads(text)
    except ValueError:
        read = None
    if not isinstance(read, dict):
        how = 'write a JSON object, as in \'{"plan": "pro"}\''
        raise click.BadParameter(how, param_hint="--metadata")
    return read


@session.command("show")
@click.argument("session_id")
@with_config
@with_output
def session_show(session_id: str, config: Path | None, output: str) -> None:
    """Show a session, ended or not.

    \b
    Examples:
      sidegate session show 01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a
      sidegate session show 01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a -o json
    """
    wanted = _session_id(session_id)
    print_session(ask(load(config), lambda house: house.sessions.get(wanted)), output)


@session.command("list")
@click.argument("user")
@click.option("--ended", is_flag=True, help="Those that have ended as well.")
@click.option(
    "--state",
    type=click.Choice(["active", "idle", "expired", "revoked"]),
    help="Only those that are in this state.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most."
)
@with_config
@with_output
def session_list(
    user: str, ended: bool, state: str | None, limit: int, config: Path | None, output: str
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
    condition = Condition(_user_id(user))
    wanted = None if ended else SessionState(state or SessionState.ACTIVE)
    records = ask(
        load(config),
        lambda house: house.sessions.list_where(condition, limit=limit, state=wanted),
    )
    if len(records) == limit:
        click.echo(f"These are the newest {limit}; there may be more: --limit.", err=True)
    documents = [document_of(record) for record in records]
    columns = ("id", "type", "state", "created_at", "last_seen_at", "expires_at")
    click.echo(as_json(documents) if output == "json" else as_table(columns, documents))
