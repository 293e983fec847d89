"""Services of a Kubernetes cluster: their names in addresses, and what the products need."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidegate.gateway_config.deployment import Deployment

_EXAMPLE: Final = "sidegate.sidegate.svc.cluster.local:7080"
_SERVICE: Final = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc\.[a-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Service:
    """A Service, as manifests name it."""

    name: str
    namespace: str


# What the manifests name if the application's address does not: readers replace it by theirs.
_EXAMPLE_APPLICATION: Final = Service("app", "default")


def parse_service(host: str) -> Service | None:
    """Return the Service of a full name (`NAME.NAMESPACE.svc.cluster.local`), or None."""
    match = _SERVICE.fullmatch(host)
    return None if match is None else Service(match[1], match[2])


def name_application(host: str) -> Service:
    """Return the application's Service; one to replace if `host` is not the full name of one."""
    return parse_service(host) or _EXAMPLE_APPLICATION


def require_one_gate(site: Deployment) -> Iterator[str]:
    if len(site.gates) > 1:
        yield f"--gate: give one address, of a Service ({_EXAMPLE}) or a load balancer"


def require_services(site: Deployment) -> Iterator[str]:
    """The manifests name Services, not addresses."""
    for gate in site.gates:
        if parse_service(gate.host) is None:
            yield f"gate.listen: {gate} is not a Service; name one: --gate {_EXAMPLE}"


def require_full_names(site: Deployment) -> Iterator[str]:
    """The resolver of nginx does not complete a name with the domain of the cluster."""
    for gate in site.gates:
        is_short = re.fullmatch(r"[^.:]+|.*\.svc", gate.host) is not None
        if gate.path is None and is_short:
            yield f"--gate: {gate} is not a full name; write it like {_EXAMPLE}"
