"""`sidegate key`: make API keys and token keys."""

import json
from collections.abc import Sequence

import click

from sidegate.cli.options import with_output
from sidegate.cli.writing import as_json


@click.group()
def key() -> None:
    """Make keys.

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
    help="What the key may do; give it once for each.",
)
@with_output
def key_new(name: str, scopes: Sequence[str], output: str) -> None:
    """Make an admin API key. It is shown this once; the settings keep only its hash.

    \b
    Examples:
      sidegate key new billing --scope read
      sidegate key new login-service --scope read --scope write --scope revoke -o json
    """
    from sidegate.web.admin.auth import ApiKey, Scope

    wanted = list(dict.fromkeys(scopes))
    try:
        text, kept = ApiKey.mint(name, map(Scope, wanted))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    if output == "json":
        click.echo(
            as_json({"key": text, "name": kept.name, "sha256": kept.sha256, "scopes": wanted})
        )
        return
    click.echo(
        f"{text}\n\n"
        "# The key is above, and is not shown again. The settings take these lines:\n"
        f"admin:\n  keys:\n    - name: {json.dumps(kept.name)}\n"
        f"      sha256: {json.dumps(kept.sha256)}\n      scopes: [{', '.join(wanted)}]"
    )


@key.command("token")
@click.option(
    "--id",
    "key_id",
    type=click.IntRange(0, 255),
    default=1,
    show_default=True,
    help="A number no key in use has.",
)
def key_token(key_id: int) -> None:
    """Make a token key, a secret that all instances share. The newest stands first.

    \b
    Examples:
      sidegate key token > /run/secrets/token_keys
      sidegate key token --id 2
    """
    from sidegate.core.token import TokenKey

    click.echo(TokenKey.generate(key_id).formatted())
