"""`sidegate key`: generate API keys and token keys."""

import json
from collections.abc import Sequence

import click

from sidegate.cli.output import format_json, output_option


@click.group()
def key() -> None:
    """Generate keys.

    \b
    Examples:
      sidegate key new billing --scope read --scope revoke
      sidegate key token
    """


@key.command("new")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["read", "write", "revoke"]),
    help="A scope of the key; repeat the option for several.",
)
@output_option
def key_new(name: str, scopes: Sequence[str], output: str) -> None:
    """Generate an admin API key. It is shown only once; the settings hold its hash.

    \b
    Examples:
      sidegate key new billing --scope read
      sidegate key new login-service --scope read --scope write --scope revoke -o json
    """
    from sidegate.web.admin.auth import ApiKey, Scope

    unique_scopes = list(dict.fromkeys(scopes))
    try:
        text, api_key = ApiKey.mint(name, map(Scope, unique_scopes))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    if output == "json":
        click.echo(
            format_json(
                {
                    "key": text,
                    "name": api_key.name,
                    "sha256": api_key.sha256,
                    "scopes": unique_scopes,
                }
            )
        )
        return
    click.echo(
        f"{text}\n\n"
        "# The key is above, and is not shown again. Add these lines to the settings:\n"
        f"admin:\n  keys:\n    - name: {json.dumps(api_key.name)}\n"
        f"      sha256: {json.dumps(api_key.sha256)}\n      scopes: [{', '.join(unique_scopes)}]"
    )


@key.command("token")
@click.option(
    "--id",
    "key_id",
    type=click.IntRange(0, 255),
    default=1,
    show_default=True,
    help="A number that no other key in use has.",
)
def key_token(key_id: int) -> None:
    """Generate a token key, a secret that all instances share. Put the newest first.

    \b
    Examples:
      sidegate key token > /run/secrets/token_keys
      sidegate key token --id 2
    """
    from sidegate.core.token import TokenKey

    click.echo(TokenKey.generate(key_id).format())
