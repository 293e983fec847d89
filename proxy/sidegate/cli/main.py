"""The command line, `sidegate`: its exit codes and error messages.

Exit codes: 0 success, 1 failure, 2 usage error, 75 another process is doing it, 78 wrong settings.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.analytics import analytics
from sidegate.cli.audit import audit
from sidegate.cli.command import TryAgainLater, config_option, load_settings, run_async
from sidegate.cli.config import config
from sidegate.cli.gateway import gateway
from sidegate.cli.keys import key
from sidegate.cli.output import format_json, output_option
from sidegate.cli.rules import rules
from sidegate.cli.services import report_database
from sidegate.cli.sessions import session
from sidegate.core.errors import (
    CannotListen,
    Conflict,
    IdentityTooLarge,
    LimitReached,
    OutcomeUnknown,
    PurgeInProgress,
    RevocationPending,
    SchemaMismatch,
    SettingsError,
    SidegateError,
    StoreUnavailable,
    UnsupportedByGateway,
)
from sidegate.observability.bounded_stderr import install_bounded_stderr

if TYPE_CHECKING:
    from sidegate.settings import Settings

EX_CONFIG: Final = 78  # sysexits.h: configuration error


class _ErrorReportingGroup(click.Group):
    """Prints errors to stderr, with what to do next."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            click.echo(_format_settings_error(error), err=True)
            ctx.exit(EX_CONFIG)
        except RevocationPending as pending:
            click.echo(f"pending: {pending}")
        except SidegateError as error:
            raise click.ClickException(f"{error}\n{_advice(error)}") from error


def _format_settings_error(error: SettingsError) -> str:
    lines = "\n".join(f"  {line}" for line in error.errors)
    if isinstance(error, UnsupportedByGateway):
        summary = f"{error.gateway} cannot be configured with these settings"
        advice = "Change them, or the options of the command: `sidegate gateway --help`."
    else:
        summary = "the settings are wrong"
        advice = "Correct them; `sidegate config check` checks them again."
    return f"Error: {summary}:\n{lines}\n{advice}"


def _advice(error: SidegateError) -> str:
    match error:
        case OutcomeUnknown():
            return (
                "The change may have been made: check (`sidegate session list USER`), or try again."
            )
        case StoreUnavailable():
            return "Is the store running, and its address correct? See `sidegate config show`."
        case Conflict():
            return "Try again."
        case LimitReached():
            return "`sidegate session list USER` lists them: revoke one, or raise the limit."
        case IdentityTooLarge():
            return "Give it fewer scopes, or raise gate.max_identity."
        case CannotListen():
            return "Set another address (gate.listen, admin.listen, ops.listen), or free this one."
        case SchemaMismatch():
            return "`sidegate migrate` updates an older schema."
        case _:
            return "`sidegate config check` checks the settings."


@click.group(cls=_ErrorReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Session validation beside your API gateway.

    \b
    Examples:
      sidegate serve                               one machine, with an SQLite file
      sidegate config check --config sidegate.yaml
      sidegate session create alice
    """
    install_bounded_stderr()


for command in (analytics, audit, config, gateway, key, rules, session):
    main.add_command(command)


@main.command()
@config_option
@click.option("--workers", type=click.IntRange(1, 64), help="Number of processes (workers).")
@click.option("--parent-pipe-fd", type=int, hidden=True)  # set by the supervisor of workers
def serve(config: Path | None, workers: int | None, *, parent_pipe_fd: int | None) -> None:
    """Run the server until SIGTERM or SIGINT; on SIGHUP, reload the settings.

    \b
    Examples:
      sidegate serve
      sidegate serve --config /etc/sidegate/sidegate.yaml
      SIDEGATE_GATE__LISTEN=unix:/run/sidegate/gate.sock sidegate serve
      sidegate serve --workers 4                   central service, on a machine of its own
      kill -HUP PID                                after `sidegate config check`
    """
    settings = load_settings(config)
    from sidegate.observability import logs

    logs.configure(settings.logs.level, settings.logs.format)
    if parent_pipe_fd is None:  # else the supervisor has warned
        from sidegate.runtime.store_security import warn_about_insecure_stores

        warn_about_insecure_stores(settings)
    if (workers or settings.workers) > 1:
        _supervise(settings.model_copy(update={"workers": workers or settings.workers}), config)
    else:
        from sidegate.runtime import server

        run_async(
            server.serve(
                settings,
                read_settings=lambda: load_settings(config),
                parent_pipe_fd=parent_pipe_fd,
            )
        )


def _supervise(settings: "Settings", config: Path | None) -> None:
    from sidegate.runtime import supervisor

    arguments = ["serve", "--parent-pipe-fd", "0", *(["--config", str(config)] if config else [])]
    try:
        run_async(supervisor.supervise(settings, arguments, environ=os.environ))
    except supervisor.WorkerFailed as failed:
        click.get_current_context().exit(failed.status)  # the worker has reported why


@main.command()
@config_option
def migrate(config: Path | None) -> None:
    """Migrate the tables of the database. Safe to repeat, and while servers run.

    \b
    Examples:
      sidegate migrate --config /etc/sidegate/sidegate.yaml
      SIDEGATE_DATABASE_URL_FILE=/run/secrets/database_url sidegate migrate
    """
    settings = load_settings(config)
    from sidegate.runtime import server

    applied = run_async(server.migrate(settings))
    click.echo("\n".join(f"applied {name}" for name in applied) or "up to date")
    report_database(settings)


@main.command()
@config_option
def cleanup(config: Path | None) -> None:
    """Delete sessions that ended long ago (cleanup.retention), and print how many.

    Servers do so in the background; this command does it at once. Exit 75 if another process is
    doing it: sessions may be left then.

    \b
    Examples:
      sidegate cleanup
      SIDEGATE_CLEANUP__RETENTION=1d sidegate cleanup
    """
    settings = load_settings(config)
    from sidegate.runtime import server

    async def clean_up() -> tuple[int, bool]:
        total = 0
        try:
            async for purged in server.cleanup(settings):
                total += purged
                click.echo(f"{total} deleted so far", err=True)
        except PurgeInProgress:
            return total, False
        return total, True

    total, has_finished = run_async(clean_up())
    report_database(settings)
    if not has_finished:
        raise TryAgainLater(
            f"another process is cleaning up; this one has deleted {total} sessions.\n"
            "Try again later."
        )
    click.echo(f"{total} sessions deleted")


@main.command()
@config_option
def healthcheck(config: Path | None) -> None:
    """Check that the server of these settings responds; exit 1 if not. For containers.

    \b
    Examples:
      sidegate healthcheck
      sidegate healthcheck --config /etc/sidegate/sidegate.yaml || restart-it
    """
    from sidegate.runtime.healthcheck import TIMEOUT, get_livez

    address = load_settings(config).ops.listen
    try:
        status = get_livez(address)
    except OSError as error:
        raise click.ClickException(
            f"no response from {address} within {TIMEOUT:g} s: {error.strerror or error}\n"
            "Is `sidegate serve` running with the same settings?"
        ) from error
    if status != 200:
        raise click.ClickException(
            f"{address} responded with status {status}; see the log of the server."
        )
    click.echo("ok")


@main.command()
def openapi() -> None:
    """Print the OpenAPI document of the admin API, as served at /openapi.json.

    \b
    Examples:
      sidegate openapi > openapi.json
      sidegate openapi | jq '.paths | keys'
    """
    from sidegate.web.admin.openapi import build_document
    from sidegate.web.admin.routes import ROUTES

    click.echo(format_json(build_document(ROUTES)))


@main.command()
@output_option
def version(output: str) -> None:
    """Print the version.

    \b
    Examples:
      sidegate version
      sidegate version --output json
    """
    import platform
    from importlib.metadata import version as installed_version

    number = installed_version("sidegate")
    if output == "json":
        click.echo(format_json({"version": number, "python": platform.python_version()}))
    else:
        click.echo(f"sidegate {number}, Python {platform.python_version()}")
