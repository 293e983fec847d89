"""What the control planes of Kubernetes make of a manifest: the configuration of their proxy.

No cluster runs here. Each function translates the fields that the manifests of `sidegate gateway`
use, as the sources of ingress-nginx 1.15, Envoy Gateway 1.9, Istio 1.32 and Contour after 1.33 do,
so that a real nginx or Envoy can be asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Tree = dict[str, Any]

_TYPES = "type.googleapis.com/envoy.extensions"
_MANAGER = "filters.network.http_connection_manager.v3.HttpConnectionManager"


@dataclass(frozen=True)
class Wiring:
    """The addresses that a cluster resolves, `host:port`; `listen` is the proxy's own."""

    listen: str
    gate: str
    upstream: str


def read_objects(files: Mapping[str, str]) -> dict[str, Tree]:
    """Return the objects of some manifests by kind, each kind once but for ConfigMaps."""
    objects = [each for text in files.values() for each in yaml.safe_load_all(text)]
    return {
        each["metadata"]["name"] if each.get("kind") == "ConfigMap" else each.get("kind", ""): each
        for each in objects
    }


# ingress-nginx


def configure_ingress_nginx(files: Mapping[str, str], wiring: Wiring) -> Mapping[str, str]:
    """Return nginx.conf with the lines of its template that concern external authentication."""
    objects = read_objects(files)
    snippets = objects["ingress-nginx-controller"]["data"]
    headers = objects["sidegate-headers"]["data"]
    annotations = {
        name.partition("/")[2]: value
        for name, value in objects["Ingress"]["metadata"]["annotations"].items()
    }
    url = annotations["auth-url"].replace("sidegate.default.svc.cluster.local:7080", wiring.gate)
    sent = "\n".join(f"proxy_set_header '{name}' '{value}';" for name, value in headers.items())
    names = [name.strip() for name in annotations["auth-response-headers"].split(",")]
    taken = "\n".join(map(_take_response_header, range(len(names)), names))
    size = annotations["proxy-buffer-size"]
    return {
        "nginx.conf": _NGINX.format(
            listen=wiring.listen,
            upstream=wiring.upstream,
            http=indent(snippets["http-snippet"], " " * 4),
            server=indent(snippets["server-snippet"], " " * 8),
            url=url,
            sent=indent(sent, " " * 12),
            taken=indent(taken, " " * 12),
            buffers=f"proxy_buffer_size {size}; proxy_buffers 4 {size};",
        )
    }


def _take_response_header(number: int, name: str) -> str:
    variable = name.lower().replace("-", "_")
    return (
        f"auth_request_set $authHeader{number} $upstream_http_{variable};\n"
        f"proxy_set_header '{name}' $authHeader{number};"
    )


_NGINX = """
daemon off;
pid nginx.pid;
worker_processes 1;
events {{}}

http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    access_log off;
    client_header_buffer_size 1k;
    large_client_header_buffers 4 8k;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}

{http}
    server {{
        listen {listen};

{server}
        location = /_external-auth {{
            internal;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Forwarded-Proto "";
            proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_buffering off;
            {buffers}
            proxy_pass_request_headers on;
{sent}
            proxy_http_version 1.1;
            set $target {url};
            proxy_pass $target;
        }}

        location / {{
            auth_request /_external-auth;
            auth_request_set $auth_cookie $upstream_http_set_cookie;
            add_header Set-Cookie $auth_cookie;
{taken}
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_connect_timeout 5s;
            proxy_read_timeout 60s;
            {buffers}
            proxy_http_version 1.1;
            proxy_pass http://{upstream};
        }}

        location /public/ {{
            proxy_set_header Host $http_host;
            proxy_pass http://{upstream};
        }}
    }}
}}
"""


# Envoy


def configure_envoy_gateway(files: Mapping[str, str], wiring: Wiring) -> Mapping[str, str]:
    objects = read_objects(files)
    policy = objects["SecurityPolicy"]["spec"]["extAuth"]
    early = objects["ClientTrafficPolicy"]["spec"]["headers"]["earlyRequestHeaders"]
    retry = policy["http"]["backendSettings"]["retry"]
    back_off = retry["perRetry"]["backOff"]
    mutations = [
        {
            "append": {
                "header": {"key": each["name"], "value": each["value"]},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        }
        for each in early["set"]
    ] + [
        {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": each["value"]}}}}
        for each in early["removeOnMatch"]
    ]
    ext_authz = {
        "failure_mode_allow": policy["failOpen"],
        "status_on_error": {"code": policy["statusOnError"]},
        "allowed_headers": _match_exactly(policy["headersToExtAuth"]),
        "http_service": {
            "path_prefix": policy["http"]["path"],
            "server_uri": _name_server(policy["timeout"]),
            "retry_policy": {
                "retry_on": ",".join(retry["retryOn"]["triggers"]),
                "num_retries": retry["numRetries"],
                "retry_back_off": {
                    "base_interval": _convert_duration(back_off["baseInterval"]),
                    "max_interval": _convert_duration(back_off["maxInterval"]),
                },
            },
            "authorization_response": {
                "allowed_upstream_headers": _match_exactly(policy["http"]["headersToBackend"])
            },
        },
    }
    kind = f"{_TYPES}.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    manager = {
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {"@type": kind, "mutations": mutations},
            }
        ],
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
    }
    return _build_envoy([_build_ext_authz(ext_authz)], wiring, manager=manager)


def configure_istio(files: Mapping[str, str], wiring: Wiring) -> Mapping[str, str]:
    (provider,) = yaml.safe_load(files["mesh-config.yaml"])["meshConfig"]["extensionProviders"]
    objects = read_objects({"sidegate.yaml": files["sidegate.yaml"]})
    assert objects["AuthorizationPolicy"]["spec"]["provider"] == {"name": provider["name"]}
    settings = provider["envoyExtAuthzHttp"]
    added = settings["includeAdditionalHeadersInCheck"]
    ext_authz = {
        "failure_mode_allow": settings["failOpen"],
        "status_on_error": {"code": int(settings["statusOnError"])},
        "allowed_headers": _match_exactly(settings["includeRequestHeadersInCheck"]),
        "http_service": {
            "path_prefix": settings["pathPrefix"],
            "server_uri": _name_server(settings["timeout"]),
            "authorization_request": {
                "headers_to_add": [{"key": key, "value": value} for key, value in added.items()]
            },
            "authorization_response": {
                "allowed_upstream_headers": _match_exactly(settings["headersToUpstreamOnAllow"]),
                "allowed_client_headers": _match_exactly(settings["headersToDownstreamOnDeny"]),
            },
        },
    }
    patches = {
        each["applyTo"]: each["patch"] for each in objects["EnvoyFilter"]["spec"]["configPatches"]
    }
    assert patches["HTTP_FILTER"]["operation"] == "INSERT_FIRST"
    assert patches["NETWORK_FILTER"]["operation"] == "MERGE"
    return _build_envoy(
        [patches["HTTP_FILTER"]["value"], _build_ext_authz(ext_authz)],
        wiring,
        manager=patches["NETWORK_FILTER"]["value"]["typed_config"],
    )


def configure_contour(files: Mapping[str, str], wiring: Wiring) -> Mapping[str, str]:
    objects = read_objects(files)
    assert objects["ExtensionService"]["spec"]["protocol"] == "http/1.1"
    proxy = objects["HTTPProxy"]["spec"]
    settings = proxy["virtualhost"]["authorization"]
    http = settings["httpSettings"]
    ext_authz = {
        "clear_route_cache": True,
        "failure_mode_allow": settings["failOpen"],
        "status_on_error": {"code": 403},  # Contour has no setting for it
        "allowed_headers": {"patterns": http["allowedAuthorizationHeaders"]},
        "http_service": {
            "path_prefix": http["pathPrefix"],
            "server_uri": _name_server(settings["responseTimeout"]),
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": http["allowedUpstreamHeaders"]}
            },
        },
    }
    checked, public = (each["requestHeadersPolicy"]["remove"] for each in proxy["routes"])
    assert proxy["routes"][1]["authPolicy"] == {"disabled": True}
    return _build_envoy(
        [_build_ext_authz(ext_authz)], wiring, removed=checked, removed_from_public=public
    )


def _build_ext_authz(settings: Tree) -> Tree:
    kind = f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthz"
    typed = {"@type": kind, "transport_api_version": "V3"} | settings
    return {"name": "envoy.filters.http.ext_authz", "typed_config": typed}


def _build_envoy(
    filters: Sequence[Tree],
    wiring: Wiring,
    *,
    manager: Tree | None = None,
    removed: Iterable[str] = (),
    removed_from_public: Iterable[str] = (),
) -> Mapping[str, str]:
    """Return envoy.yaml; `manager` is merged into the HTTP connection manager.

    `removed`: the headers that the route removes, and that without a check.
    """
    route = {"cluster": "app", "upgrade_configs": [{"upgrade_type": "websocket"}]}
    disabled = {"@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
    public = {
        "match": {"prefix": "/public/"},
        "route": route,
        "request_headers_to_remove": list(removed_from_public),
        "typed_per_filter_config": {"envoy.filters.http.ext_authz": disabled},
    }
    checked = {"match": {"prefix": "/"}, "route": route, "request_headers_to_remove": list(removed)}
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
    }
    typed = {
        "@type": f"{_TYPES}.{_MANAGER}",
        "stat_prefix": "web",
        "use_remote_address": True,
        "normalize_path": True,
        "http_filters": [*filters, router],
        "route_config": {
            "virtual_hosts": [{"name": "app", "domains": ["*"], "routes": [public, checked]}]
        },
    } | (manager or {})
    chain = {"filters": [{"name": _MANAGER, "typed_config": typed}]}
    listener = {"address": _build_address(wiring.listen), "filter_chains": [chain]}
    clusters = [_build_cluster("app", wiring.upstream), _build_cluster("sidegate", wiring.gate)]
    resources = {"listeners": [listener], "clusters": clusters}
    return {"envoy.yaml": json.dumps({"static_resources": resources})}


def _build_cluster(name: str, address: str) -> Tree:
    endpoint = {"endpoint": {"address": _build_address(address)}}
    return {
        "name": name,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _build_address(address: str) -> Tree:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _match_exactly(names: Iterable[str]) -> Tree:
    return {"patterns": [{"exact": name, "ignore_case": True} for name in names]}


def _name_server(timeout: str) -> Tree:
    duration = _convert_duration(timeout)
    return {"uri": "http://sidegate", "cluster": "sidegate", "timeout": duration}


def _convert_duration(text: str) -> str:
    """Return a duration of Go as one of protobuf, in seconds."""
    return f"{int(text[:-2]) / 1000}s" if text.endswith("ms") else text


CONTROL_PLANES: Mapping[str, Callable[[Mapping[str, str], Wiring], Mapping[str, str]]] = {
    "ingress-nginx": configure_ingress_nginx,
    "envoy-gateway": configure_envoy_gateway,
    "istio": configure_istio,
    "contour": configure_contour,
}
"""By product. The proxy of the first is nginx, that of the others Envoy."""
