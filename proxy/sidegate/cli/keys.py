"""`sidegate key`: generate API keys and token keys."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sidegate.cli.keys_file import InvalidKeysFile, append_key
from sidegate.cli.output import format_json, output_option
from sidegate.cli.services import report_usage_errors


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
@click.option("--expires-at", metavar="TIME", help="Refuse the key from then on.")
@click.option(
    "--keys-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add the hash to this file, for SIDEGATE_ADMIN__KEYS_FILE, and print only the key. A new"
    " file has mode 0600.",
)
@output_option
def key_new(
    name: str,
    scopes: Sequence[str],
    *,
    expires_at: str | None,
    keys_file: Path | None,
    output: str,
) -> None:
    """Generate an admin API key. It is shown only once; the settings hold its hash.

    \b
    Examples:
      sidegate key new billing --scope read
      sidegate key new migration --scope write --expires-at 2027-01-31T00:00:00Z
      sidegate key new login-service --scope read --scope write --scope revoke -o json
      KEY=$(sidegate key new backend --scope write --keys-file /run/secrets/admin-keys)
    """
    from sidegate.web.admin.auth import ApiKey, Scope
    from sidegate.web.schemas.values import parse_timestamp

    unique_scopes = list(dict.fromkeys(scopes))
    try:
        text, api_key = ApiKey.mint(name, map(Scope, unique_scopes))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    setting: dict[str, Any] = {
        "name": api_key.name,
        "sha256": api_key.sha256,
        "scopes": unique_scopes,
    }
    if expires_at is not None:
        with report_usage_errors("--expires-at"):
            setting["expires_at"] = parse_timestamp(expires_at).isoformat()
    if keys_file is not None:
        try:
            append_key(keys_file, setting)
        except InvalidKeysFile as error:
            raise click.BadParameter(str(error), param_hint="--keys-file") from None
    if output == "json":
        click.echo(format_json({"key": text} | setting))
    elif keys_file is not None:
        click.echo(text)
    else:
        click.echo(_format_yaml(text, setting))


def _format_yaml(text: str, setting: Mapping[str, Any]) -> str:
    return (
        f"{text}\n\n"
        "# The key is above, and is not shown again. Add these lines to the settings:\n"
        f"admin:\n  keys:\n    - name: {json.dumps(setting['name'])}\n"
        f"      sha256: {json.dumps(setting['sha256'])}\n"
        f"      scopes: [{', '.join(setting['scopes'])}]"
        + (f"\n      expires_at: {setting['expires_at']}" if "expires_at" in setting else "")
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
      sidegate key token > /run/secrets/token-keys
      sidegate key token --id 2
    """
    from sidegate.core.token import TokenKey

    click.echo(TokenKey.generate(key_id).format())
