"""The command line: `sidegate`, its exit codes, and how errors are told.

Exit codes: 0 done, 1 it did not work out, 2 misspelled command, 78 wrong settings.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.analytics import analytics
from sidegate.cli.audit import audit
from sidegate.cli.config import config
from sidegate.cli.keys import key
from sidegate.cli.options import load, run, with_config, with_output
from sidegate.cli.sessions import session
from sidegate.cli.writing import as_json
from sidegate.core.errors import (
    CannotListen,
    Conflict,
    LimitReached,
    OutcomeUnknown,
    RevocationPending,
    SchemaMismatch,
    SettingsError,
    SidegateError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from sidegate.settings import Settings

EX_CONFIG: Final = 78  # sysexits.h: something is configured wrong


class _Reporting(click.Group):
    """Tells errors in words, on stderr, with what to do next."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            click.echo(_settings_report(error), err=True)
            ctx.exit(EX_CONFIG)
        except RevocationPending as pending:
            click.echo(f"pending: {pending}")
        except SidegateError as error:
            raise click.ClickException(f"{error}\n{_next_step(error)}") from error


def _settings_report(error: SettingsError) -> str:
    mistakes = "\n".join(f"  {mistake}" for mistake in error.errors)
    next_step = "Mend them; `sidegate config check` looks again."
    return f"Error: the settings are wrong:\n{mistakes}\n{next_step}"


def _next_step(error: SidegateError) -> str:
    match error:
        case OutcomeUnknown():
            return "It may have been done: look (`sidegate session list USER`), or do it again."
        case StoreUnavailable():
            return "Does the store run, and is its address right? `sidegate config show` tells it."
        case Conflict():
            return "Try again."
        case LimitReached():
            return "`sidegate session list USER` shows them: end one, or allow more."
        case CannotListen():
            return "Set another address (gate.listen, admin.listen, ops.listen), or free this one."
        case SchemaMismatch():
            return "`sidegate migrate` brings an older one up to date."
        case _:
            return "`sidegate config check` looks at the settings."


@click.group(cls=_Reporting, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Session validation beside your API gateway.

    \b
    Examples:
      sidegate serve                               on a file of its own, for one machine
      sidegate config check --config sidegate.yaml
      sidegate session create alice
    """


for command in (analytics, audit, config, key, session):
    main.add_command(command)


@main.command()
@with_config
@click.option("--workers", type=click.IntRange(1, 64), help="So many processes (workers).")
@click.option("--leash", type=int, hidden=True)  # how workers are started
def serve(config: Path | None, workers: int | None, leash: int | None) -> None:
    """Answer the gateway until SIGTERM or SIGINT; on SIGHUP, read the settings again.

    \b
    Examples:
      sidegate serve
      sidegate serve --config /etc/sidegate/sidegate.yaml
      SIDEGATE_GATE__LISTEN=unix:/run/sidegate/gate.sock sidegate serve
      sidegate serve --workers 4                   a central one, on a machine of its own
      kill -HUP PID                                after `sidegate config check`
    """
    settings = load(config)
    from sidegate.observability import logs

    logs.configure(settings.logs.level, settings.logs.format)
    if (workers or settings.workers) > 1:
        _supervise(settings.model_copy(update={"workers": workers or settings.workers}), config)
    else:
        from sidegate.runtime import server as app

        run(app.serve(settings, read=lambda: load(config), leash=leash))


def _supervise(settings: "Settings", config: Path | None) -> None:
    from sidegate.runtime import supervisor

    arguments = ["serve", "--leash", "0", *(["--config", str(config)] if config else [])]
    try:
        run(supervisor.supervise(settings, arguments, os.environ))
    except supervisor.WorkerFailed as failed:
        click.get_current_context().exit(failed.status)  # its own words are on stderr


@main.command()
@with_config
def migrate(config: Path | None) -> None:
    """Bring the durable store's tables up to date. Safe to repeat, and while servers run.

    \b
    Examples:
      sidegate migrate --config /etc/sidegate/sidegate.yaml
      SIDEGATE_DATABASE_URL_FILE=/run/secrets/database_url sidegate migrate
    """
    settings = load(config)
    from sidegate.runtime import server as app

    applied = run(app.migrate(settings))
    click.echo("\n".join(f"applied {name}" for name in applied) or "up to date")


@main.command()
@with_config
def cleanup(config: Path | None) -> None:
    """Delete sessions that ended long ago (cleanup.retention), and say how many.

    Servers do so by themselves; this is for whoever does not want to wait.

    \b
    Examples:
      sidegate cleanup
      SIDEGATE_CLEANUP__RETENTION=1d sidegate cleanup
    """
    settings = load(config)
    from sidegate.runtime import server as app

    async def all_of_it() -> int:
        total = 0
        async for purged in app.cleanup(settings):
            total += purged
            click.echo(f"{total} deleted so far", err=True)
        return total

    click.echo(f"{run(all_of_it())} sessions deleted")


@main.command()
@with_config
def healthcheck(config: Path | None) -> None:
    """Ask the server of these settings whether it lives; exit 1 if not. For containers.

    \b
    Examples:
      sidegate healthcheck
      sidegate healthcheck --config /etc/sidegate/sidegate.yaml || restart-it
    """
    from sidegate.runtime.healthcheck import PATIENCE, livez

    address = load(config).ops.listen
    try:
        status = livez(address)
    except OSError as error:
        raise click.ClickException(
            f"no answer from {address} within {PATIENCE:g} s: {error.strerror or error}\n"
            "Does `sidegate serve` run with the same settings?"
        ) from error
    if status != 200:
        raise click.ClickException(f"{address} answers {status}: its log says why.")
    click.echo("ok")


@main.command()
def openapi() -> None:
    """Print the OpenAPI document of the admin API, as the door shows it at /openapi.json.

    \b
    Examples:
      sidegate openapi > openapi.json
      sidegate openapi | jq '.paths | keys'
    """
    from sidegate.web.admin.openapi import document
    from sidegate.web.admin.routes import TABLE

    click.echo(as_json(document(TABLE)))


@main.command()
@with_output
def version(output: str) -> None:
    """Print which Sidegate this is.

    \b
    Examples:
      sidegate version
      sidegate version --output json
    """
    import platform
    from importlib.metadata import version as installed

    number = installed("sidegate")
    if output == "json":
        click.echo(as_json({"version": number, "python": platform.python_version()}))
    else:
        click.echo(f"sidegate {number}, Python {platform.python_version()}")
