"""`sidegate gateway`: print the configuration of a gateway for this deployment."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sidegate.cli.command import config_option, load_settings
from sidegate.cli.files import write_files
from sidegate.core.address import Address
from sidegate.core.errors import SettingsError
from sidegate.gateway_config.deployment import Deployment, HeaderName, Origin
from sidegate.gateway_config.products import PRODUCTS, Product
from sidegate.gateway_config.render import render_files, render_part

if TYPE_CHECKING:
    from sidegate.settings import Settings

_ALL: Final = "all"
_NAME_WIDTH: Final = max(map(len, PRODUCTS))
_PART_WIDTH: Final = max(len(part.name) for each in PRODUCTS.values() for part in each.parts)


def _format_parts(product: Product) -> str:
    """Return a line for each part of a product."""
    return "\n".join(
        f"  {product.name:<{_NAME_WIDTH}}  {part.name:<{_PART_WIDTH}}  {part.place}"
        for part in product.parts
    )


_HELP: Final = """Print a configuration of the gateway NAME for these settings.

A part is pasted into the configuration of an existing site, where its first line says. Without
--part: a whole configuration to start from. docs/gateways/ has a page for each gateway.

\b
Examples:
  sidegate gateway nginx --part http
  sidegate gateway caddy --upstream http://127.0.0.1:3000 > Caddyfile
  sidegate gateway traefik --directory /etc/traefik
  sidegate gateway envoy --gate 10.0.0.5:7080 --gate 10.0.0.6:7080

\b
Parts:
""" + "\n".join(_format_parts(product) for product in PRODUCTS.values() if product.parts)


class _Text(click.ParamType[object]):
    """An option's text, read by `parse`, which raises ValueError with the format."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: object, param: click.Parameter | None, *rest: click.Context | None
    ) -> object:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, *rest)


def _parse_gate(text: str) -> Address:
    address = Address.parse(text)
    if address.path is None and not (address.host and address.port):
        raise ValueError("write host:port, [IPv6]:port or unix:/path")
    return address


def _parse_tcp(text: str) -> Address:
    address = Address.parse(text)
    if not address.port:
        raise ValueError("write host:port or [IPv6]:port")
    return address


@click.command(help=_HELP, short_help="Print the configuration of a gateway.")
@click.argument("name", metavar="NAME", type=click.Choice(list(PRODUCTS)))
@click.option("--part", default=_ALL, help="A part from the list below, or all (the default).")
@click.option(
    "--upstream",
    type=_Text("URL", Origin.parse),
    default="http://127.0.0.1:9000",
    show_default=True,
    help="The application, in a whole configuration.",
)
@click.option(
    "--gate",
    "gates",
    type=_Text("ADDRESS", _parse_gate),
    multiple=True,
    help="Sidegate as the gateway reaches it; repeat the option for several instances. Without it:"
    " gate.listen.",
)
@click.option(
    "--listen",
    type=_Text("ADDRESS", _parse_tcp),
    default="127.0.0.1:8080",
    show_default=True,
    help="Where the gateway listens, in a whole configuration.",
)
@click.option(
    "--internal",
    type=_Text("ADDRESS", _parse_tcp),
    default="127.0.0.1:8079",
    show_default=True,
    help="A free local address of the gateway: Traefik and HAProxy reach Sidegate through a"
    " listener of their own.",
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Write the files of the whole configuration there, instead of printing them.",
)
@click.option(
    "--force",
    is_flag=True,
    help="With --directory, replace files whose text differs, and links in their place.",
)
@config_option
def gateway(
    name: str,
    part: str,
    *,
    upstream: Origin,
    gates: Sequence[Address],
    listen: Address,
    internal: Address,
    directory: Path | None,
    force: bool,
    config: Path | None,
) -> None:
    if part != _ALL and directory is not None:
        raise click.UsageError("--directory takes the whole configuration: print a --part instead")
    product = PRODUCTS[name]
    deployment = build_deployment(
        load_settings(config), upstream=upstream, gates=gates, listen=listen, internal=internal
    )
    product.check(deployment)
    if part != _ALL:
        click.echo(_render_part(product, part, deployment=deployment), nl=False)
    elif directory is None:
        _print_files(render_files(product, deployment))
    else:
        for line in write_files(directory, render_files(product, deployment), force=force):
            click.echo(line)


def build_deployment(
    settings: "Settings",
    *,
    upstream: Origin,
    gates: Sequence[Address],
    listen: Address,
    internal: Address,
) -> Deployment:
    """Return what a configuration depends on. No `gates`: the listener of these settings."""
    gate = settings.gate
    header = None if gate.header is None else HeaderName(gate.header)
    return Deployment(
        gates=gates or [_find_gate(gate.listen)],
        upstream=upstream,
        listen=listen,
        internal=internal,
        identity=[HeaderName(name) for name in gate.identity.model_dump().values()],
        signals=_list_signals(settings),
        cookie=gate.cookie,
        bearer=gate.bearer,
        basic=gate.basic,
        websocket_protocol=gate.websocket_protocol,
        header=header,
        max_identity=gate.max_identity,
        deadline=round(gate.deadline.total_seconds() * 1000),
    )


def _list_signals(settings: "Settings") -> Sequence[HeaderName]:
    """Return the headers that sessions may be bound to."""
    own = settings.binding.header.name
    names = ["User-Agent", "Accept-Language", *([] if own is None else [own])]
    return [HeaderName(name) for name in names]


def _find_gate(listen: Address) -> Address:
    """Return the local address of a listener. Raise SettingsError if it is not fixed."""
    if listen.fd is not None or (listen.path is None and not listen.port):
        raise SettingsError(["gate.listen: no fixed address; name one with --gate"])
    return listen.local


def _render_part(product: Product, name: str, *, deployment: Deployment) -> str:
    part = product.find_part(name)
    if part is None:
        parts = _format_parts(product) or "  none: only the whole configuration"
        raise click.BadParameter(f"{product.name} has these parts:\n{parts}", param_hint="--part")
    return render_part(part, deployment)


def _print_files(files: Mapping[str, str]) -> None:
    """Print one file as it is; name each of several."""
    for name, text in files.items():
        if len(files) > 1:
            click.echo(f"{'--' if name.endswith('.lua') else '#'} File: {name}")
        click.echo(text, nl=False)
