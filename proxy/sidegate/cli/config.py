"""`sidegate config`: look at the settings."""

import os
from pathlib import Path

import click

from sidegate.cli.options import load, with_config


@click.group()
def config() -> None:
    """Look at the settings.

    \b
    Examples:
      sidegate config check --config sidegate.yaml
      sidegate config show
    """


@config.command("check")
@with_config
def config_check(config: Path | None) -> None:
    """Say ok, or list every mistake and exit 78.

    \b
    Examples:
      sidegate config check --config sidegate.yaml
      SIDEGATE_GATE__DEADLINE=100ms sidegate config check
    """
    load(config)
    click.echo("ok")


@config.command("show")
@with_config
def config_show(config: Path | None) -> None:
    """Print the settings in force as YAML, each with where it came from. Secrets are masked.

    \b
    Examples:
      sidegate config show
      sidegate config show --config sidegate.yaml | grep -v '# default'
    """
    from sidegate.settings.show import shown

    click.echo(shown(config, os.environ), nl=False)


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the settings file, for editors.

    \b
    Examples:
      sidegate config schema > sidegate.schema.json
    """
    from sidegate.settings.show import schema

    click.echo(schema(), nl=False)
