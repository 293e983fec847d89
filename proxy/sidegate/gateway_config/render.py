"""Render the templates of a product for a deployment."""

import re
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sidegate.core.address import Address
from sidegate.gateway_config.deployment import Deployment
from sidegate.gateway_config.kubernetes import name_application, parse_service
from sidegate.gateway_config.limits import ODD_CHARACTERS
from sidegate.gateway_config.products import Part, Product

_TEMPLATES: Final = Path(__file__).with_name("templates")


def render_part(part: Part, deployment: Deployment) -> str:
    """Return the lines of a part, after a comment that says where they belong."""
    return f"{part.comment} Sidegate: {part.place}\n{_render(part.template, deployment)}"


def render_files(product: Product, deployment: Deployment) -> Mapping[str, str]:
    """Return the texts of a whole configuration by the names of its files."""
    return {file.name: _render(file.template, deployment) for file in product.files}


def _render(template: str, deployment: Deployment) -> str:
    return _build_environment().get_template(template).render(site=deployment)


def _build_environment() -> Environment:
    environment = Environment(  # noqa: S701  # configuration files, not HTML
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["odd_characters"] = ODD_CHARACTERS
    environment.filters |= {
        "regex": _escape_regex,
        "caddy_address": partial(_format_address, socket_prefix="unix/"),
        "haproxy_address": partial(_format_address, socket_prefix="unix@"),
        "lua": _quote_lua,
        "service": parse_service,
        "application": name_application,
    }
    environment.tests["ip_address"] = _is_ip_address
    return environment


def _format_address(address: Address, *, socket_prefix: str) -> str:
    return str(address) if address.path is None else f"{socket_prefix}{address.path}"


def _escape_regex(text: str) -> str:
    """Escape a cookie name for a regular expression: only these of its characters are special."""
    return re.sub(r"[$*+.^|]", r"\\\g<0>", text)


def _quote_lua(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
