"""The gateways that `sidegate gateway` knows, and the parts of their configurations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidegate.core.errors import UnsupportedByGateway
from sidegate.gateway_config.deployment import Deployment
from sidegate.gateway_config.kubernetes import (
    require_full_names,
    require_one_gate,
    require_services,
)
from sidegate.gateway_config.limits import (
    Limit,
    refuse_odd_client_headers,
    refuse_odd_identity_headers,
    refuse_odd_socket_paths,
    refuse_remote_internal_address,
    refuse_unix_sockets,
    refuse_unreadable_identity_headers,
)


@dataclass(frozen=True, slots=True)
class Part:
    """Lines to paste into an existing configuration, in `place`."""

    name: str
    place: str
    template: str
    comment: str = "#"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a whole configuration."""

    name: str
    template: str


@dataclass(frozen=True, slots=True)
class Product:
    """A gateway. Its whole configuration are `files`; the first is the main one."""

    name: str
    files: Sequence[File]
    parts: Sequence[Part] = ()
    limits: Sequence[Limit] = ()

    def check(self, deployment: Deployment) -> None:
        """Raise UnsupportedByGateway if no configuration of it would work."""
        limits = (refuse_odd_socket_paths, *self.limits)
        errors = [error for limit in limits for error in limit(deployment)]
        if errors:
            raise UnsupportedByGateway(self.name, errors)

    def find_part(self, name: str) -> Part | None:
        """Return the part of this name, or None."""
        return next((part for part in self.parts if part.name == name), None)


_PLAIN_NAMES: Final = (refuse_odd_client_headers, refuse_odd_identity_headers)

_NGINX: Final = Product(
    "nginx",
    files=(File("nginx.conf", "nginx/nginx.conf"),),
    parts=(
        Part("http", "in http { }, once", "nginx/http.conf"),
        Part("server", "at the top of server { }", "nginx/server.conf"),
        Part(
            "location",
            "in a location that has proxy_set_header lines of its own",
            "nginx/location.conf",
        ),
        Part(
            "location-full",
            "in a location that has none",
            "nginx/location_full.conf",
        ),
        Part("fastcgi", "in a location with fastcgi_pass, as its last lines", "nginx/fastcgi.conf"),
    ),
    limits=(refuse_odd_client_headers, refuse_unreadable_identity_headers),
)

_TRAEFIK: Final = Product(
    "traefik",
    files=(
        File("traefik.yaml", "traefik/traefik.yaml"),
        File("dynamic.yaml", "traefik/dynamic.yaml"),
    ),
    parts=(
        Part("static", "in entryPoints of the static configuration", "traefik/static.yaml"),
        Part(
            "entry-point",
            "in http of the entry point of the site, in the static configuration",
            "traefik/entry_point.yaml",
        ),
        Part(
            "dynamic",
            "sidegate.yaml, a file of its own in the directory of the file provider",
            "traefik/sidegate.yaml",
        ),
    ),
    limits=(refuse_unix_sockets, refuse_remote_internal_address, refuse_odd_client_headers),
)

_ENVOY: Final = Product(
    "envoy",
    files=(File("envoy.yaml", "envoy/envoy.yaml"),),
    parts=(
        Part("http-filters", "in http_filters, before the router", "envoy/http_filters.yaml"),
        Part("local-reply", "first in local_reply_config.mappers", "envoy/local_reply.yaml"),
        Part("cluster", "in clusters", "envoy/cluster.yaml"),
        Part(
            "connection-manager",
            "in the typed_config of the HTTP connection manager",
            "envoy/connection_manager.yaml",
        ),
        Part("route", "in a route or virtual host that needs no session", "envoy/route.yaml"),
    ),
)

_CADDY: Final = Product(
    "caddy",
    files=(File("Caddyfile", "caddy/Caddyfile"),),
    parts=(
        Part(
            "snippets", "sidegate.caddy, imported below the global options", "caddy/snippets.caddy"
        ),
        Part("site", "in the block of the site", "caddy/site.caddy"),
        Part(
            "route",
            "in each handle and route that is protected, or in the block of the site",
            "caddy/route.caddy",
        ),
        Part("errors", "in handle_errors with 5xx codes", "caddy/errors.caddy"),
    ),
    limits=_PLAIN_NAMES,
)

_HAPROXY: Final = Product(
    "haproxy",
    files=(
        File("haproxy.cfg", "haproxy/haproxy.cfg"),
        File("sidegate.lua", "haproxy/sidegate.lua"),
    ),
    parts=(
        Part("global", "in global", "haproxy/global.cfg"),
        Part(
            "rules",
            "in the backend of each protected application, or in the frontend",
            "haproxy/rules.cfg",
        ),
        Part("listen", "a section of its own", "haproxy/listen.cfg"),
        Part("lua", "sidegate.lua, a file of its own", "haproxy/sidegate.lua", comment="--"),
    ),
)

_INGRESS_NGINX: Final = Product(
    "ingress-nginx",
    files=(
        File("ingress.yaml", "ingress-nginx/ingress.yaml"),
        File("controller.yaml", "ingress-nginx/config_map.yaml"),
    ),
    parts=(
        Part(
            "annotations",
            "in metadata.annotations of the Ingress",
            "ingress-nginx/annotations.yaml",
        ),
        Part(
            "headers",
            "an object of its own, in the namespace of the Ingress",
            "ingress-nginx/headers.yaml",
        ),
        Part(
            "controller", "in data of the controller's ConfigMap", "ingress-nginx/controller.yaml"
        ),
    ),
    limits=(require_one_gate, refuse_unix_sockets, require_full_names, *_PLAIN_NAMES),
)

_ENVOY_GATEWAY: Final = Product(
    "envoy-gateway",
    files=(File("sidegate.yaml", "envoy-gateway/envoy-gateway.yaml"),),
    parts=(
        Part(
            "ext-auth",
            "in spec.extAuth of the SecurityPolicy of a route",
            "envoy-gateway/ext_auth.yaml",
        ),
        Part(
            "headers",
            "in spec.headers of the ClientTrafficPolicy of the Gateway",
            "envoy-gateway/headers.yaml",
        ),
    ),
    limits=(require_one_gate, require_services, *_PLAIN_NAMES),
)

_ISTIO: Final = Product(
    "istio",
    files=(
        File("sidegate.yaml", "istio/istio.yaml"),
        File("mesh-config.yaml", "istio/mesh_config.yaml"),
    ),
    parts=(
        Part("provider", "in meshConfig.extensionProviders", "istio/provider.yaml"),
        Part(
            "policy", "an object of its own, in the namespace of the gateway", "istio/policy.yaml"
        ),
        Part(
            "filter", "an object of its own, in the namespace of the gateway", "istio/filter.yaml"
        ),
    ),
    limits=(require_one_gate, require_services, *_PLAIN_NAMES),
)

_CONTOUR: Final = Product(
    "contour",
    files=(File("sidegate.yaml", "contour/contour.yaml"),),
    parts=(
        Part(
            "extension",
            "an object of its own, in the namespace of Sidegate",
            "contour/extension.yaml",
        ),
        Part(
            "authorization",
            "in spec.virtualhost.authorization of the HTTPProxy",
            "contour/authorization.yaml",
        ),
        Part("route", "in a route that is protected", "contour/route.yaml"),
        Part("open-route", "in a route that needs no session", "contour/open_route.yaml"),
    ),
    limits=(require_one_gate, require_services, *_PLAIN_NAMES),
)

_APISIX: Final = Product(
    "apisix",
    files=(File("route.json", "apisix/route.json"),),
    limits=(require_one_gate, refuse_unix_sockets, *_PLAIN_NAMES),
)

PRODUCTS: Final = {
    product.name: product
    for product in (
        _NGINX,
        _TRAEFIK,
        _ENVOY,
        _CADDY,
        _HAPROXY,
        _INGRESS_NGINX,
        _ENVOY_GATEWAY,
        _ISTIO,
        _CONTOUR,
        _APISIX,
    )
}
