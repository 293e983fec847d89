"""Addresses of a cluster: the Services that they name, and what the products there can reach."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidegate.gateway_config.deployment import Deployment

_EXAMPLE: Final = "sidegate.default.svc.cluster.local:7080"
_SERVICE: Final = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc\.[a-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Service:
    """A Service, as manifests name it."""

    name: str
    namespace: str


def find_service(host: str) -> Service | None:
    """Return the Service that a full name (`NAME.NAMESPACE.svc.cluster.local`) stands for."""
    match = _SERVICE.fullmatch(host)
    return None if match is None else Service(match[1], match[2])


def require_one_gate(site: Deployment) -> Iterator[str]:
    if len(site.gates) > 1:
        yield f"--gate: this gateway takes one address; name a Service: --gate {_EXAMPLE}"


def require_services(site: Deployment) -> Iterator[str]:
    """The manifests name Services, not addresses."""
    for gate in site.gates:
        if find_service(gate.host) is None:
            yield f"gate.listen: {gate} is not a Service; name one: --gate {_EXAMPLE}"


def require_full_names(site: Deployment) -> Iterator[str]:
    """The resolver of nginx does not complete a name with the domain of the cluster."""
    for gate in site.gates:
        is_short = re.fullmatch(r"[^.:]+|.*\.svc", gate.host) is not None
        if gate.path is None and is_short:
            yield f"--gate: {gate} is not a full name; write it like {_EXAMPLE}"
