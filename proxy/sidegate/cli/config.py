"""`sidegate config`: check and show the settings."""

import os
from pathlib import Path

import click

from sidegate.cli.command import config_option, load_settings


@click.group()
def config() -> None:
    """Check and show the settings.

    \b
    Examples:
      sidegate config check --config sidegate.yaml
      sidegate config show
    """


@config.command("check")
@config_option
def config_check(config: Path | None) -> None:
    """Print ok, or list every error and exit 78.

    \b
    Examples:
      sidegate config check --config sidegate.yaml
      SIDEGATE_GATE__DEADLINE=100ms sidegate config check
    """
    load_settings(config)
    click.echo("ok")


@config.command("show")
@config_option
def config_show(config: Path | None) -> None:
    """Print the settings in force as YAML, each with its origin. Secrets are masked.

    \b
    Examples:
      sidegate config show
      sidegate config show --config sidegate.yaml | grep -v '# default'
    """
    from sidegate.settings.show import render_settings

    click.echo(render_settings(config, os.environ), nl=False)


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the settings file, for editors.

    \b
    Examples:
      sidegate config schema > sidegate.schema.json
    """
    from sidegate.settings.show import build_schema

    click.echo(build_schema(), nl=False)
