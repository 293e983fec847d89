"""The Compose file: no default passwords, little published, settings that exist."""

from __future__ import annotations

import re
import stat
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.deploy.files import DEPLOY, caddyfile, document, settings, version
from tests.deploy.secret_files import make_secrets, secret_files
from tests.support.processes import Child, chown_to_child_user, is_listening
from tests.support.servers import start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = DEPLOY / "compose"
COMPOSE = document(FOLDER / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("sidegate:")]

services = pytest.mark.parametrize("name", SERVICES)


@services
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert set(service.get("cap_add", ())) <= {"NET_BIND_SERVICE"}
    assert not {"privileged", "pid", "ipc", "devices"} & service.keys()


@services
def test_an_image_has_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9/-]+:v?\d+(\.\d+)*", SERVICES[name]["image"])


def test_our_image_is_built_here_and_carries_our_version() -> None:
    for name in OURS:
        assert SERVICES[name]["image"] == f"sidegate:{version()}"
        assert (FOLDER / SERVICES[name]["build"] / "Dockerfile").is_file()


@services
def test_what_is_published_is_published_on_loopback(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


def test_of_sidegate_and_the_stores_nothing_is_published() -> None:
    publishing = {name for name, service in SERVICES.items() if "ports" in service}

    assert publishing == {"gateway", "prometheus", "grafana"}
    assert SERVICES["gateway"]["ports"] == ["127.0.0.1:8080:8080"]
    assert COMPOSE["networks"]["stores"] == {"internal": True}


@services
def test_what_a_service_mounts_from_here_is_here(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert rest.endswith(":ro")
            assert (FOLDER / source).exists()
        else:
            assert source in COMPOSE["volumes"]


@services
def test_a_secret_is_given_as_a_file_the_service_mounts(name: str) -> None:
    service = SERVICES[name]
    given = {
        key: value
        for key, value in service.get("environment", {}).items()
        if re.search(r"PASSWORD|SECRET|_URL|KEYS", key)
    }

    assert all(key.endswith("_FILE") for key in given)
    mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
    assert set(given.values()) <= mounted


def test_every_secret_is_one_the_script_makes_and_none_is_optional() -> None:
    made = set(make_secrets().texts())

    assert COMPOSE["secrets"] == {
        name: {"file": f"./secrets/{name}"} for name in made - {"api-key"}
    }


def test_a_password_is_wanted_by_whoever_would_have_a_default_one() -> None:
    assert "GF_SECURITY_ADMIN_PASSWORD__FILE" in SERVICES["grafana"]["environment"]
    assert "POSTGRES_PASSWORD_FILE" in SERVICES["postgres"]["environment"]
    assert "POSTGRES_HOST_AUTH_METHOD" not in SERVICES["postgres"]["environment"]
    assert "--aclfile" in SERVICES["redis"]["command"]


def test_the_secrets_are_new_each_time_and_the_folder_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = make_secrets()
    monkeypatch.setattr(script, "FOLDER", tmp_path / "secrets")

    script.main()

    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {file.name for file in (tmp_path / "secrets").iterdir()} == set(script.texts())
    for name, text in script.texts().items():
        assert (tmp_path / "secrets" / name).read_text() != text + "\n"


def test_secrets_that_are_there_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = make_secrets()
    monkeypatch.setattr(script, "FOLDER", tmp_path)

    with pytest.raises(FileExistsError):
        script.main()


def test_the_secrets_stay_out_of_git_and_of_the_image() -> None:
    assert "/secrets/" in (FOLDER / ".gitignore").read_text().splitlines()
    assert "*" in (DEPLOY.parent / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("name", OURS)
def test_every_setting_is_one_that_sidegate_knows(name: str, tmp_path: Path) -> None:
    files = {f"/run/secrets/{name}": file for name, file in secret_files(tmp_path).items()}

    known = settings(SERVICES[name]["environment"], files)

    assert known.database_url is not None
    assert known.token.keys


def test_gate_and_admin_stay_on_the_loopback_they_share_with_the_gateway(tmp_path: Path) -> None:
    files = {f"/run/secrets/{name}": file for name, file in secret_files(tmp_path).items()}

    known = settings(SERVICES["sidegate"]["environment"], files)

    assert SERVICES["sidegate"]["network_mode"] == "service:gateway"
    assert str(known.gate.listen) == "127.0.0.1:7080"
    assert str(known.admin.listen) == "127.0.0.1:7081"
    assert known.admin.keys


def test_sidegate_has_time_to_finish(tmp_path: Path) -> None:
    files = {f"/run/secrets/{name}": file for name, file in secret_files(tmp_path).items()}
    drain = settings(SERVICES["sidegate"]["environment"], files).drain

    grace = int(SERVICES["sidegate"]["stop_grace_period"].removesuffix("s"))

    assert grace > drain.delay.total_seconds() + drain.timeout.total_seconds()


def test_prometheus_finds_the_ops_listener(tmp_path: Path) -> None:
    files = {f"/run/secrets/{name}": file for name, file in secret_files(tmp_path).items()}
    (scrape,) = document(DEPLOY / "prometheus/prometheus.yaml")["scrape_configs"]
    (targets,) = scrape["static_configs"]
    host, _, port = targets["targets"][0].partition(":")

    known = settings(SERVICES["sidegate"]["environment"], files)

    assert str(known.ops.listen) == f"0.0.0.0:{port}"
    assert host in SERVICES["gateway"]["networks"]["edge"]["aliases"]
    assert "edge" in SERVICES["prometheus"]["networks"]
    assert "--config.file=/etc/prometheus/prometheus.yaml" in SERVICES["prometheus"]["command"]


def test_the_gateway_is_configured_as_the_verified_one() -> None:
    here = (FOLDER / "Caddyfile").read_text("utf-8")
    verified = (DEPLOY / "caddy/Caddyfile").read_text("utf-8")

    assert caddyfile(here) == caddyfile(verified)
    assert "forward_auth 127.0.0.1:7080" in here


def test_redis_asks_for_the_password_that_sidegate_has(workdir: Path) -> None:
    files = secret_files(workdir)
    url = files["redis-url"].read_text().strip()
    chown_to_child_user(workdir)
    with redis_with(["--aclfile", files["redis-acl"]], workdir) as port:
        with redis.from_url(url.replace("redis:6379", f"127.0.0.1:{port}")) as client:
            answered = client.ping()
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("anything")

    assert answered


@contextmanager
def redis_with(arguments: list[str | Path], directory: Path) -> Iterator[int]:
    """A Redis on a free port that counts as ready when it listens: a stranger gets no answer."""
    open_to_all = start_redis(directory)
    open_to_all.stop()
    port = open_to_all.port
    child = Child(
        "redis-acl", [*open_to_all.child.argv, *arguments], directory, partial(is_listening, port)
    )
    child.start()
    try:
        yield port
    finally:
        child.stop()
