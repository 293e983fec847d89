"""The manifests: accepted by Kubernetes, confined, with valid settings."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.deploy.files import (
    DEPLOY,
    Tree,
    load_settings,
    read_document,
    read_documents,
    read_version,
)
from tests.deploy.secret_files import write_secret_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = DEPLOY / "kubernetes"
OBJECTS = [
    (file.name, each)
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for each in read_documents(file)
]
GATE, ADMIN, OPS = 7080, 7081, 7082


def iter_pod_templates() -> Iterator[tuple[str, Tree]]:
    for file, each in OBJECTS:
        if "template" in each.get("spec", {}):
            yield f"{file} {each['kind']} {each['metadata']['name']}", each["spec"]["template"]


def list_containers(pod: Tree) -> list[Tree]:
    return [*pod.get("initContainers", []), *pod["containers"]]


PODS = list(iter_pod_templates())
CONTAINERS = [
    (f"{where} {container['name']}", template["spec"], container)
    for where, template in PODS
    for container in list_containers(template["spec"])
]
OURS = [each for each in CONTAINERS if each[2]["image"].startswith("sidegate:")]
SIDEGATES = [each for each in CONTAINERS if each[2]["name"] == "sidegate"]

# Custom resources have schemas of the Operator, not of Kubernetes.
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


def find_objects(kind: str, name: str | None = None) -> list[Tree]:
    return [
        each
        for _, each in OBJECTS
        if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]


@core_objects
def test_object_matches_the_schema_of_its_kind(each: Tree) -> None:
    kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


@objects
def test_object_has_a_namespace(each: Tree) -> None:
    assert each["kind"] == "Namespace" or each["metadata"]["namespace"]


# The restricted profile of Kubernetes' Pod Security Standards


@pytest.mark.parametrize(
    "namespace", find_objects("Namespace"), ids=lambda n: n["metadata"]["name"]
)
def test_namespace_enforces_the_restricted_profile(namespace: Tree) -> None:
    labels = namespace["metadata"]["labels"]

    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pods
def test_pod_is_restricted(pod: Tree) -> None:
    context = pod["securityContext"]

    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


@pods
def test_pod_does_not_mount_from_the_host(pod: Tree) -> None:
    kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}

    assert kinds <= {"configMap", "secret", "emptyDir"}


@every_container
def test_container_is_restricted(pod: Tree, container: Tree) -> None:  # noqa: ARG001 - a pair
    context = container["securityContext"]

    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
    assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile"} & context.keys()
    assert not any("hostPort" in port for port in container.get("ports", ()))


@every_container
def test_container_has_requests_and_no_cpu_limit(
    pod: Tree,  # noqa: ARG001 - a pair
    container: Tree,
) -> None:
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert set(container["resources"]["limits"]) == {"memory"}


@every_container
def test_mounted_volumes_exist(pod: Tree, container: Tree) -> None:
    volumes = {volume["name"] for volume in pod.get("volumes", ())}

    assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


@every_container
def test_image_has_a_version(pod: Tree, container: Tree) -> None:  # noqa: ARG001 - a pair
    assert re.fullmatch(r"[a-z0-9/.-]+:\d+(\.\d+)+", container["image"])


# Sidegate's own containers


def test_sidecar_and_central_service_exist() -> None:
    assert len(SIDEGATES) == 2


@every_sidegate
def test_probes_use_the_ops_listener(pod: Tree, container: Tree) -> None:  # noqa: ARG001 - a pair
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
def test_termination_grace_period_is_longer_than_draining(pod: Tree, container: Tree) -> None:
    drain = load_settings({}, {}).drain
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)

    needed = before + drain.delay.total_seconds() + drain.timeout.total_seconds()
    assert pod["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize(
    ("pod", "container"), [each[1:] for each in OURS], ids=[each[0] for each in OURS]
)
def test_settings_are_valid(pod: Tree, container: Tree, tmp_path: Path) -> None:
    environ = {each["name"]: each["value"] for each in container["env"]}

    known = load_settings(
        environ,
        write_mounted_secrets(pod, container, tmp_path),
        write_config(pod, container, tmp_path),
    )

    assert known.database_url is not None
    assert known.token.keys


@every_sidegate
def test_listeners_are_reachable_only_where_needed(
    pod: Tree, container: Tree, tmp_path: Path
) -> None:
    environ = {each["name"]: each["value"] for each in container["env"]}
    files = write_mounted_secrets(pod, container, tmp_path)

    known = load_settings(environ, files, write_config(pod, container, tmp_path))

    assert str(known.ops.listen) == f":{OPS}"
    assert str(known.admin.listen) == f"127.0.0.1:{ADMIN}"
    assert known.admin.keys
    assert all(network.prefixlen >= 8 for network in known.gate.trusted_peers)
    if known.gate.listen.path is not None:
        assert find_socket_folder(pod, container) == known.gate.listen.path.rpartition("/")[0]
    else:
        assert str(known.gate.listen) == f":{GATE}"
        assert ip_network("127.0.0.0/8") not in known.gate.trusted_peers


def write_mounted_secrets(pod: Tree, container: Tree, tmp_path: Path) -> dict[str, Path]:
    """Write the secrets, and return each file by its path in the container."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    folders = [
        mount["mountPath"]
        for mount in container["volumeMounts"]
        if "secret" in volumes[mount["name"]] and mount["readOnly"]
    ]
    files = write_secret_files(tmp_path)
    return {f"{folder}/{name}": file for folder in folders for name, file in files.items()}


def write_config(pod: Tree, container: Tree, tmp_path: Path) -> Path | None:
    """Write the file of --config from the mounted ConfigMap, and return its path."""
    if "--config" not in container.get("args", ()):
        return None
    folder, _, name = container["args"][container["args"].index("--config") + 1].rpartition("/")
    (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == folder)
    (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
    (config_map,) = find_objects("ConfigMap", volume["configMap"]["name"])
    file = tmp_path / str(name)
    file.write_text(config_map["data"][name])
    return file


def find_socket_folder(pod: Tree, container: Tree) -> str | None:
    """Return the mount path of the volume in memory that container and gateway share."""
    volumes = {v["name"] for v in pod["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"}
    folders = [
        {m["mountPath"] for m in each["volumeMounts"] if m["name"] in volumes}
        for each in (container, pod["containers"][0])
    ]
    shared = set.intersection(*folders)
    return shared.pop() if shared else None


def test_secrets_are_files_and_not_in_manifests() -> None:
    assert find_objects("Secret") == []
    for _, _, container in CONTAINERS:
        for each in container.get("env", ()):
            assert "valueFrom" not in each
            assert each["name"].endswith("_FILE") or "secret" not in each["value"]


def test_central_service_is_replicated_and_spread() -> None:
    (deployment,) = find_objects("Deployment", "sidegate")
    (budget,) = find_objects("PodDisruptionBudget", "sidegate")
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]

    assert deployment["spec"]["replicas"] >= 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["spec"]["maxUnavailable"] == 1
    assert {each["topologyKey"] for each in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }


def test_service_exposes_only_the_gate() -> None:
    (service,) = find_objects("Service", "sidegate")

    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [
        (GATE, "gate")
    ]


# The network


def matches(selector: Tree, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "this test supports only matchLabels"
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def find_policies(template: Tree, namespace: str, direction: str) -> list[Tree]:
    return [
        each["spec"]
        for each in find_objects("NetworkPolicy")
        if each["metadata"]["namespace"] == namespace
        and direction in each["spec"]["policyTypes"]
        and matches(each["spec"]["podSelector"], template["metadata"]["labels"])
    ]


def find_allowed_ports(template: Tree, namespace: str, direction: str) -> set[int]:
    rules = [
        rule
        for spec in find_policies(template, namespace, direction)
        for rule in spec.get(direction.lower(), ())
    ]
    assert all(rule.get("ports") and rule.get("from", rule.get("to")) for rule in rules)
    return {port["port"] for rule in rules for port in rule["ports"]}


@pytest.mark.parametrize(
    ("kind", "name", "ingress", "egress"),
    [
        ("Deployment", "sidegate", {GATE, OPS}, {53, 6379, 5432}),
        ("Deployment", "shop", {8080, OPS}, {53, 6379, 5432}),
        ("Job", f"sidegate-migrate-{read_version().replace('.', '-')}", set(), {53, 6379, 5432}),
    ],
)
def test_network_policies_do_not_allow_the_admin_port(
    kind: str, name: str, ingress: set[int], egress: set[int]
) -> None:
    (workload,) = find_objects(kind, name)
    template, namespace = workload["spec"]["template"], workload["metadata"]["namespace"]

    assert find_policies(template, namespace, "Ingress"), "without a policy all is allowed"
    assert find_allowed_ports(template, namespace, "Ingress") == ingress
    assert find_allowed_ports(template, namespace, "Egress") == egress


# Monitoring and kustomize


def test_pod_monitor_selects_the_ops_port_of_the_pods() -> None:
    (monitor,) = find_objects("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    scraped = {
        template["spec"]["containers"][0]["name"]
        for _, template in PODS
        if matches(monitor["spec"]["selector"], template["metadata"]["labels"])
    }

    assert (endpoint["port"], endpoint["path"]) == ("ops", "/metrics")
    assert scraped == {"sidegate", "gateway"}
    assert monitor["spec"]["namespaceSelector"] == {"any": True}


def test_kustomization_has_existing_files_and_the_current_image() -> None:
    kustomization: dict[str, Any] = read_document(FOLDER / "kustomization.yaml")
    images = {container["image"] for _, _, container in CONTAINERS}
    (image,) = kustomization["images"]

    assert all((FOLDER / resource).is_file() for resource in kustomization["resources"])
    assert image["newTag"] == read_version()
    assert f"{image['name']}:{read_version()}" in images
