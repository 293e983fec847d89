"""`sidegate session`: work on sessions, straight on the stores, by the rules of the admin API."""

import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from proxy.commands.options import load, run, with_config, with_output
from proxy.commands.writing import as_card, as_json, as_table
from proxy.core.session_type import SessionType

if TYPE_CHECKING:
    from proxy.core.session import SessionId, SessionRecord
    from proxy.service.sessions import NewSession, Sessions
    from proxy.settings import Settings

T = TypeVar("T")

_TYPE = click.Choice([type_.value for type_ in SessionType])


@click.group()
def session() -> None:
    """Work on sessions, straight on the stores of these settings.

    \b
    Examples:
      sidegate session create alice
      sidegate session list alice
      sidegate session revoke --user alice
    """


def _ask(settings: "Settings", verb: "Callable[[Sessions], Awaitable[T]]") -> T:
    """Do one thing to the sessions, and close the stores again."""
    from proxy import app

    async def work() -> T:
        async with app.open_sessions(settings) as sessions:
            return await verb(sessions)

    return run(work())


@session.command("create")
@click.argument("user")
@click.option("--type", "type_", type=_TYPE, default="web", show_default=True, help="Its kind.")
@click.option("--scope", "scopes", multiple=True, help="Give it once for each.")
@click.option("--expires-in", help="Shorter than the type's lifetime: 30s, 15m, 12h.")
@click.option("--ip", help="The client's address.")
@click.option("--user-agent", help="The client's program.")
@click.option("--device", help="A name the user knows it by.")
@click.option("--metadata", help="A JSON object.")
@with_config
@with_output
def session_create(config: Path | None, output: str, **wanted: Any) -> None:
    """Begin a session of USER. Its token is shown this once, on stdout, and kept nowhere.

    \b
    Examples:
      TOKEN=$(sidegate session create alice)
      sidegate session create ci --type api --scope deploy --expires-in 1h -o json
    """
    settings = load(config)
    new = _new_session(wanted, settings)
    issued = _ask(settings, lambda sessions: sessions.create(new))
    token, document = issued.token.text, _document(issued.record)
    if output == "json":
        click.echo(as_json({"token": token, "session": document}))
    else:
        click.echo(as_card(document), err=True)  # so that $(...) holds the token alone
        click.echo(token)


def _new_session(wanted: Mapping[str, Any], settings: "Settings") -> "NewSession":
    from proxy.web.payloads import NewSessionPayload, read

    document = {
        "user_id": wanted["user"],
        "type": wanted["type_"],
        "scopes": list(wanted["scopes"]),
        "expires_in": _seconds(wanted["expires_in"]),
        "metadata": _object(wanted["metadata"]),
    } | {name: wanted[name] for name in ("ip", "user_agent", "device")}
    with _by_the_rules("options"):
        return read(NewSessionPayload, document, settings.sessions.by_type()).new_session()


@contextmanager
def _by_the_rules(what: str) -> Iterator[None]:
    """Tell what the admin API would refuse as a misspelled command."""
    from proxy.web.problems import Problem

    try:
        yield
    except Problem as problem:
        mistakes = [f"{mistake.path}: {mistake.message}" for mistake in problem.errors]
        raise click.UsageError("\n".join(mistakes)) from None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=what) from None


def _session_id(text: str) -> "SessionId":
    from proxy.web.payloads import session_id

    with _by_the_rules("SESSION_ID"):
        return session_id(text)


def _user_id(text: str) -> str:
    from proxy.web.payloads import user_id

    with _by_the_rules("USER"):
        return user_id(text)


def _seconds(text: str | None) -> int | None:
    from proxy.settings.values import read_duration

    with _by_the_rules("--expires-in"):
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
    _print_session(_ask(load(config), lambda sessions: sessions.get(wanted)), output)


@session.command("list")
@click.argument("user")
@click.option("--ended", is_flag=True, help="Those that have ended as well.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most."
)
@with_config
@with_output
def session_list(user: str, ended: bool, limit: int, config: Path | None, output: str) -> None:
    """List the sessions of USER, newest first.

    \b
    Examples:
      sidegate session list alice
      sidegate session list alice --ended -o json
    """
    wanted = _user_id(user)
    records = _ask(
        load(config),
        lambda sessions: sessions.list_for_user(wanted, limit=limit, include_ended=ended),
    )
    if len(records) == limit:
        click.echo(f"These are the newest {limit}; there may be more: --limit.", err=True)
    documents = [_document(record) for record in records]
    columns = ("id", "type", "state", "created_at", "last_seen_at", "expires_at")
    click.echo(as_json(documents) if output == "json" else as_table(columns, documents))


@session.command("revoke")
@click.argument("session_id", required=False)
@click.option("--user", help="All sessions of this user, instead of one.")
@click.option("--type", "type_", type=_TYPE, help="With --user: only these.")
@click.option("--reason", default="revoked", show_default=True, help="Goes into the record.")
@with_config
@with_output
def session_revoke(session_id: str | None, config: Path | None, output: str, **rest: Any) -> None:
    """End one session, or all of a user, for good. Running servers know within seconds.

    \b
    Examples:
      sidegate session revoke 01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a
      sidegate session revoke --user alice --reason "laptop stolen"
      sidegate session revoke --user alice --type mobile
    """
    if (session_id is None) == (rest["user"] is None):
        raise click.UsageError("Give a session's id, or --user.")
    if rest["type_"] is not None and rest["user"] is None:
        raise click.UsageError("--type goes with --user.")
    settings = load(config)
    if session_id is None:
        _revoke_all(settings, rest, output)
    else:
        _revoke_one(settings, session_id, rest["reason"], output)


def _revoke_one(settings: "Settings", session_id: str, reason: str, output: str) -> None:
    from proxy.web.payloads import RevokePayload, read

    wanted = _session_id(session_id)
    with _by_the_rules("options"):
        why = read(RevokePayload, {"reason": reason}).reason
    revoked = _ask(settings, lambda sessions: sessions.revoke(wanted, by=_caller(), reason=why))
    _print_session(revoked, output)


def _revoke_all(settings: "Settings", wanted: Mapping[str, Any], output: str) -> None:
    from proxy.web.payloads import RevokeUserPayload, read

    document = {"reason": wanted["reason"], "type": wanted["type_"]}
    with _by_the_rules("options"):
        payload = read(RevokeUserPayload, document)
    condition = payload.condition(_user_id(wanted["user"]))
    revoked = _ask(
        settings,
        lambda sessions: sessions.revoke_where(condition, by=_caller(), reason=payload.reason),
    )
    click.echo(as_json({"revoked": revoked}) if output == "json" else f"revoked {revoked}")


def _caller() -> str:
    """Return who did it, for the record: a container's user often has a number only."""
    import getpass

    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:uid-{os.getuid()}"


def _document(record: "SessionRecord") -> dict[str, Any]:
    from proxy.web.payloads import session_document

    return session_document(record, datetime.now(UTC))


def _print_session(record: "SessionRecord | None", output: str) -> None:
    if record is None:
        raise click.ClickException(
            "no session has this id.\n`sidegate session list USER` shows a user's."
        )
    document = _document(record)
    click.echo(as_json(document) if output == "json" else as_card(document))
