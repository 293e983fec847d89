"""The manifests: accepted by Kubernetes, confined as they claim, with settings that exist."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.deploy.files import DEPLOY, Tree, caddyfile, document, documents, settings, version
from tests.deploy.secret_files import secret_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = DEPLOY / "kubernetes"
OBJECTS = [
    (file.name, each)
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for each in documents(file)
]
GATE, ADMIN, OPS = 7080, 7081, 7082


def pod_templates() -> Iterator[tuple[str, Tree]]:
    for file, each in OBJECTS:
        if "template" in each.get("spec", {}):
            yield f"{file} {each['kind']} {each['metadata']['name']}", each["spec"]["template"]


def containers(pod: Tree) -> list[Tree]:
    return [*pod.get("initContainers", []), *pod["containers"]]


PODS = list(pod_templates())
CONTAINERS = [
    (f"{where} {container['name']}", template["spec"], container)
    for where, template in PODS
    for container in containers(template["spec"])
]
OURS = [each for each in CONTAINERS if each[2]["image"].startswith("sidegate:")]
SIDEGATES = [each for each in CONTAINERS if each[2]["name"] == "sidegate"]

# Custom resources have the Operator's schema, not Kubernetes'.
CORE = [each for each in OBJECTS if not each[1]["apiVersion"].startswith("monitoring.coreos.com/")]

objects = pytest.mark.parametrize(
    "each", [each for _, each in OBJECTS], ids=[f"{f}-{o['kind']}" for f, o in OBJECTS]
)
core_objects = pytest.mark.parametrize(
    "each", [each for _, each in CORE], ids=[f"{f}-{o['kind']}" for f, o in CORE]
)
pods = pytest.mark.parametrize(
    "pod", [template["spec"] for _, template in PODS], ids=[where for where, _ in PODS]
)
every_container = pytest.mark.parametrize(
    ("pod", "container"), [each[1:] for each in CONTAINERS], ids=[each[0] for each in CONTAINERS]
)
every_sidegate = pytest.mark.parametrize(
    ("pod", "container"), [each[1:] for each in SIDEGATES], ids=[each[0] for each in SIDEGATES]
)


def of_kind(kind: str, name: str | None = None) -> list[Tree]:
    return [
        each
        for _, each in OBJECTS
        if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]


@core_objects
def test_an_object_is_what_its_kind_allows_and_nothing_more(each: Tree) -> None:
    kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


@objects
def test_an_object_says_in_which_namespace_it_lies(each: Tree) -> None:
    assert each["kind"] == "Namespace" or each["metadata"]["namespace"]


# The restricted profile of Kubernetes' Pod Security Standards


@pytest.mark.parametrize("namespace", of_kind("Namespace"), ids=lambda n: n["metadata"]["name"])
def test_a_namespace_enforces_the_restricted_profile(namespace: Tree) -> None:
    labels = namespace["metadata"]["labels"]

    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pods
def test_a_pod_is_restricted(pod: Tree) -> None:
    context = pod["securityContext"]

    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


@pods
def test_a_pod_mounts_nothing_of_its_host(pod: Tree) -> None:
    kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}

    assert kinds <= {"configMap", "secret", "emptyDir"}


@every_container
def test_a_container_is_restricted(pod: Tree, container: Tree) -> None:  # noqa: ARG001 - a pair
    context = container["securityContext"]

    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
    assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile"} & context.keys()
    assert not any("hostPort" in port for port in container.get("ports", ()))


@every_container
def test_a_container_says_what_it_needs_and_is_not_throttled(
    pod: Tree,  # noqa: ARG001 - a pair
    container: Tree,
) -> None:
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert set(container["resources"]["limits"]) == {"memory"}


@every_container
def test_what_a_container_mounts_is_there(pod: Tree, container: Tree) -> None:
    there = {volume["name"] for volume in pod.get("volumes", ())}

    assert {mount["name"] for mount in container.get("volumeMounts", ())} <= there


@every_container
def test_an_image_has_a_version(pod: Tree, container: Tree) -> None:  # noqa: ARG001 - a pair
    assert re.fullmatch(r"[a-z0-9/.-]+:\d+(\.\d+)+", container["image"])


# Sidegate's own containers


def test_there_is_a_sidecar_and_a_service() -> None:
    assert len(SIDEGATES) == 2


@every_sidegate
def test_probes_ask_the_ops_listener(pod: Tree, container: Tree) -> None:  # noqa: ARG001 - a pair
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    for probe, path in (
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ):
        assert container[probe]["httpGet"] == {"path": path, "port": "ops"}
    assert ports["ops"] == OPS
    assert ADMIN not in ports.values()


@every_sidegate
def test_a_stopping_pod_has_time_to_finish(pod: Tree, container: Tree) -> None:
    drain = settings({}, {}).drain
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)

    needed = before + drain.delay.total_seconds() + drain.timeout.total_seconds()
    assert pod["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize(
    ("pod", "container"), [each[1:] for each in OURS], ids=[each[0] for each in OURS]
)
def test_every_setting_is_one_that_sidegate_knows(
    pod: Tree, container: Tree, tmp_path: Path
) -> None:
    environ = {each["name"]: each["value"] for each in container["env"]}

    known = settings(environ, mounted(pod, container, tmp_path), config(pod, container, tmp_path))

    assert known.database_url is not None
    assert known.token.keys


@every_sidegate
def test_the_listeners_are_where_they_may_be_reached_and_no_further(
    pod: Tree, container: Tree, tmp_path: Path
) -> None:
    environ = {each["name"]: each["value"] for each in container["env"]}
    files = mounted(pod, container, tmp_path)

    known = settings(environ, files, config(pod, container, tmp_path))

    assert str(known.ops.listen) == f"0.0.0.0:{OPS}"
    assert str(known.admin.listen) == f"127.0.0.1:{ADMIN}"
    assert known.admin.keys
    assert all(network.prefixlen >= 8 for network in known.gate.trusted_peers)
    if known.gate.listen.path is not None:
        assert socket_folder(pod, container) == known.gate.listen.path.rpartition("/")[0]
    else:
        assert str(known.gate.listen) == f"0.0.0.0:{GATE}"
        assert ip_network("127.0.0.0/8") not in known.gate.trusted_peers


def mounted(pod: Tree, container: Tree, tmp_path: Path) -> dict[str, Path]:
    """The paths of the secret's files in the container, each with a file that is there."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    folders = [
        mount["mountPath"]
        for mount in container["volumeMounts"]
        if "secret" in volumes[mount["name"]] and mount["readOnly"]
    ]
    files = secret_files(tmp_path)
    return {f"{folder}/{name}": file for folder in folders for name, file in files.items()}


def config(pod: Tree, container: Tree, tmp_path: Path) -> Path | None:
    """The file of --config, as the ConfigMap mounted there holds it."""
    if "--config" not in container.get("args", ()):
        return None
    folder, _, name = container["args"][container["args"].index("--config") + 1].rpartition("/")
    (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == folder)
    (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
    (config_map,) = of_kind("ConfigMap", volume["configMap"]["name"])
    file = tmp_path / str(name)
    file.write_text(config_map["data"][name])
    return file


def socket_folder(pod: Tree, container: Tree) -> str | None:
    """Where the container mounts the volume in memory that the gateway mounts too."""
    volumes = {v["name"] for v in pod["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"}
    folders = [
        {m["mountPath"] for m in each["volumeMounts"] if m["name"] in volumes}
        for each in (container, pod["containers"][0])
    ]
    shared = set.intersection(*folders)
    return shared.pop() if shared else None


def test_secrets_are_files_and_no_manifest_holds_one() -> None:
    assert of_kind("Secret") == []
    for _, _, container in CONTAINERS:
        for each in container.get("env", ()):
            assert "valueFrom" not in each
            assert each["name"].endswith("_FILE") or "secret" not in each["value"]


def test_the_service_runs_more_than_once_and_is_spread() -> None:
    (deployment,) = of_kind("Deployment", "sidegate")
    (budget,) = of_kind("PodDisruptionBudget", "sidegate")
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]

    assert deployment["spec"]["replicas"] >= 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["spec"]["maxUnavailable"] == 1
    assert {each["topologyKey"] for each in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }


def test_the_service_offers_the_gate_and_nothing_else() -> None:
    (service,) = of_kind("Service", "sidegate")

    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [
        (GATE, "gate")
    ]


def test_the_sidecars_gateway_is_configured_as_the_verified_one() -> None:
    (config_map,) = of_kind("ConfigMap", "shop-gateway")
    verified = (DEPLOY / "caddy/Caddyfile").read_text("utf-8")

    assert caddyfile(config_map["data"]["Caddyfile"]) == caddyfile(verified)
    assert "unix//run/sidegate/gate.sock" in config_map["data"]["Caddyfile"]


# The network


def matches(selector: Tree, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "this test reads matchLabels only"
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def policies_for(template: Tree, namespace: str, direction: str) -> list[Tree]:
    return [
        each["spec"]
        for each in of_kind("NetworkPolicy")
        if each["metadata"]["namespace"] == namespace
        and direction in each["spec"]["policyTypes"]
        and matches(each["spec"]["podSelector"], template["metadata"]["labels"])
    ]


def allowed_ports(template: Tree, namespace: str, direction: str) -> set[int]:
    rules = [
        rule
        for spec in policies_for(template, namespace, direction)
        for rule in spec.get(direction.lower(), ())
    ]
    assert all(rule.get("ports") and rule.get("from", rule.get("to")) for rule in rules)
    return {port["port"] for rule in rules for port in rule["ports"]}


@pytest.mark.parametrize(
    ("kind", "name", "ingress", "egress"),
    [
        ("Deployment", "sidegate", {GATE, OPS}, {53, 6379, 5432}),
        ("Deployment", "shop", {8080, OPS}, {53, 6379, 5432}),
        ("Job", f"sidegate-migrate-{version().replace('.', '-')}", set(), {53, 6379, 5432}),
    ],
)
def test_nobody_reaches_the_admin_listener(
    kind: str, name: str, ingress: set[int], egress: set[int]
) -> None:
    (workload,) = of_kind(kind, name)
    template, namespace = workload["spec"]["template"], workload["metadata"]["namespace"]

    assert policies_for(template, namespace, "Ingress"), "without a policy everything is open"
    assert allowed_ports(template, namespace, "Ingress") == ingress
    assert allowed_ports(template, namespace, "Egress") == egress


# Monitoring and kustomize


def test_the_operator_scrapes_the_port_and_the_pods_there_are() -> None:
    (monitor,) = of_kind("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    scraped = {
        template["spec"]["containers"][0]["name"]
        for _, template in PODS
        if matches(monitor["spec"]["selector"], template["metadata"]["labels"])
    }

    assert (endpoint["port"], endpoint["path"]) == ("ops", "/metrics")
    assert scraped == {"sidegate", "gateway"}
    assert monitor["spec"]["namespaceSelector"] == {"any": True}


def test_kustomize_finds_its_files_and_the_image() -> None:
    kustomization: dict[str, Any] = document(FOLDER / "kustomization.yaml")
    images = {container["image"] for _, _, container in CONTAINERS}
    (image,) = kustomization["images"]

    assert all((FOLDER / resource).is_file() for resource in kustomization["resources"])
    assert image["newTag"] == version()
    assert f"{image['name']}:{version()}" in images
