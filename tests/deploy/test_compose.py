"""The Compose file: no default passwords, few published ports, valid settings."""

from __future__ import annotations

import re
import stat
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.deploy.files import DEPLOY, load_settings, read_document, read_version
from tests.deploy.secret_files import load_script, write_secret_files
from tests.support.processes import Child, chown_to_child_user, is_listening
from tests.support.servers import start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = DEPLOY / "compose"
COMPOSE = read_document(FOLDER / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("sidegate:")]

services = pytest.mark.parametrize("name", SERVICES)


@services
def test_service_is_confined(name: str) -> None:
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert set(service.get("cap_add", ())) <= {"NET_BIND_SERVICE"}
    assert not {"privileged", "pid", "ipc", "devices"} & service.keys()


@services
def test_image_has_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9/-]+:v?\d+(\.\d+)*", SERVICES[name]["image"])


def test_sidegate_image_is_built_here_with_the_current_version() -> None:
    for name in OURS:
        assert SERVICES[name]["image"] == f"sidegate:{read_version()}"
        assert (FOLDER / SERVICES[name]["build"] / "Dockerfile").is_file()


@services
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


def test_ports_of_sidegate_and_stores_are_not_published() -> None:
    publishing = {name for name, service in SERVICES.items() if "ports" in service}

    assert publishing == {"gateway", "prometheus", "grafana"}
    assert SERVICES["gateway"]["ports"] == ["127.0.0.1:8080:8080"]
    assert COMPOSE["networks"]["stores"] == {"internal": True}


@services
def test_mounted_files_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert rest.endswith(":ro")
            assert (FOLDER / source).exists()
        else:
            assert source in COMPOSE["volumes"]


@services
def test_secrets_are_mounted_files(name: str) -> None:
    service = SERVICES[name]
    given = {
        key: value
        for key, value in service.get("environment", {}).items()
        if re.search(r"PASSWORD|SECRET|_URL|KEYS", key)
    }

    assert all(key.endswith("_FILE") for key in given)
    mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
    assert set(given.values()) <= mounted


def test_secrets_are_those_that_the_script_generates() -> None:
    made = set(load_script().generate_secrets())

    assert COMPOSE["secrets"] == {
        name: {"file": f"./secrets/{name}"} for name in made - {"api-key"}
    }


def test_services_with_default_passwords_have_a_password() -> None:
    assert "GF_SECURITY_ADMIN_PASSWORD__FILE" in SERVICES["grafana"]["environment"]
    assert "POSTGRES_PASSWORD_FILE" in SERVICES["postgres"]["environment"]
    assert "POSTGRES_HOST_AUTH_METHOD" not in SERVICES["postgres"]["environment"]
    assert "--aclfile" in SERVICES["redis"]["command"]


def test_secrets_are_new_at_each_run_and_only_for_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script()
    monkeypatch.setattr(script, "FOLDER", tmp_path / "secrets")

    script.main()

    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {file.name for file in (tmp_path / "secrets").iterdir()} == set(
        script.generate_secrets()
    )
    for name, text in script.generate_secrets().items():
        assert (tmp_path / "secrets" / name).read_text() != text + "\n"


def test_existing_secrets_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script()
    monkeypatch.setattr(script, "FOLDER", tmp_path)

    with pytest.raises(FileExistsError):
        script.main()


def test_secrets_are_ignored_by_git_and_docker() -> None:
    assert "/secrets/" in (FOLDER / ".gitignore").read_text().splitlines()
    assert "*" in (DEPLOY.parent / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("name", OURS)
def test_settings_are_valid(name: str, tmp_path: Path) -> None:
    files = {f"/run/secrets/{name}": file for name, file in write_secret_files(tmp_path).items()}

    known = load_settings(SERVICES[name]["environment"], files)

    assert known.database_url is not None
    assert known.token.keys


def test_gate_and_admin_listen_on_the_loopback_of_the_gateway(tmp_path: Path) -> None:
    files = {f"/run/secrets/{name}": file for name, file in write_secret_files(tmp_path).items()}

    known = load_settings(SERVICES["sidegate"]["environment"], files)

    assert SERVICES["sidegate"]["network_mode"] == "service:gateway"
    assert str(known.gate.listen) == "127.0.0.1:7080"
    assert str(known.admin.listen) == "127.0.0.1:7081"
    assert known.admin.keys


def test_stop_grace_period_is_longer_than_draining(tmp_path: Path) -> None:
    files = {f"/run/secrets/{name}": file for name, file in write_secret_files(tmp_path).items()}
    drain = load_settings(SERVICES["sidegate"]["environment"], files).drain

    grace = int(SERVICES["sidegate"]["stop_grace_period"].removesuffix("s"))

    assert grace > drain.delay.total_seconds() + drain.timeout.total_seconds()


def test_prometheus_scrapes_the_ops_listener(tmp_path: Path) -> None:
    files = {f"/run/secrets/{name}": file for name, file in write_secret_files(tmp_path).items()}
    (scrape,) = read_document(DEPLOY / "prometheus/prometheus.yaml")["scrape_configs"]
    (targets,) = scrape["static_configs"]
    host, _, port = targets["targets"][0].partition(":")

    known = load_settings(SERVICES["sidegate"]["environment"], files)

    assert str(known.ops.listen) == f":{port}"
    assert host in SERVICES["gateway"]["networks"]["edge"]["aliases"]
    assert "edge" in SERVICES["prometheus"]["networks"]
    assert "--config.file=/etc/prometheus/prometheus.yaml" in SERVICES["prometheus"]["command"]


def test_redis_requires_the_password_that_sidegate_has(workdir: Path) -> None:
    files = write_secret_files(workdir)
    url = files["redis-url"].read_text().strip()
    chown_to_child_user(workdir)
    with run_redis(["--aclfile", files["redis-acl"]], workdir) as port:
        with redis.from_url(url.replace("redis:6379", f"127.0.0.1:{port}")) as client:
            answered = client.ping()
        with redis.Redis(port=port) as unauthenticated, pytest.raises(redis.AuthenticationError):
            unauthenticated.get("anything")

    assert answered


@contextmanager
def run_redis(arguments: list[str | Path], directory: Path) -> Iterator[int]:
    """Run a Redis on a free port. It is ready when it listens: a ping would need the password."""
    without_password = start_redis(directory)
    without_password.stop()
    port = without_password.port
    child = Child(
        "redis-acl",
        [*without_password.child.argv, *arguments],
        directory,
        partial(is_listening, port),
    )
    child.start()
    try:
        yield port
    finally:
        child.stop()
