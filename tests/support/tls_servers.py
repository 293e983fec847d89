"""Stores with TLS of their own: Redis alone, behind a Sentinel or as a Cluster, and Postgres."""

from __future__ import annotations

import functools
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import redis

from tests.support.processes import (
    Child,
    Server,
    child_user,
    chown_to_child_user,
    find_free_port,
    skip_or_fail,
    start_on_free_port,
)
from tests.support.servers import find_redis

if TYPE_CHECKING:
    from tests.support.authority import Authority, Certificate

# Debian's. Those of the wheels are built without TLS.
_REDIS_KIND: Final = "redis-7"

_SLOTS: Final = 16_384


class TlsRedis:
    """A Redis with TLS on `tls_port`, and plain text on its port, for the tests."""

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        *,
        cluster: bool = False,
    ) -> None:
        self.tls_port = find_free_port()
        arguments = [
            *("--tls-port", str(self.tls_port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--save", "", "--appendonly", "no", "--tls-replication", "yes"),
            *_tls_options(authority, authority.issue("redis"), prefix="--"),
        ]
        if cluster:
            arguments += ["--cluster-enabled", "yes", "--tls-cluster", "yes"]
        binary = find_redis(_REDIS_KIND)

        def launch(port: int) -> Server:
            argv: list[str | Path] = [binary, "--port", str(port), *arguments]
            ready = functools.partial(_is_ready, port, cluster=cluster)
            child = Child("redis-tls", argv, directory, ready)
            return Server("redis-tls", port, f"redis://127.0.0.1:{port}/0", child)

        self.server = start_on_free_port(launch, None, *([10_000] if cluster else []))

    def execute(
        self, *command: str | int, username: str | None = None, password: str | None = None
    ) -> object:
        with redis.Redis(port=self.server.port, username=username, password=password) as client:
            return client.execute_command(*command)

    def use(self, certificate: Certificate) -> None:
        """Present another certificate to new connections."""
        self.execute(
            *("CONFIG", "SET"),
            *("tls-cert-file", str(certificate.cert_file)),
            *("tls-key-file", str(certificate.key_file)),
        )


def start_tls_sentinel(
    directory: Path, authority: Authority, primary: TlsRedis, *, password: str = ""
) -> Server:
    """Start a Sentinel with TLS for the Redis, called mymaster. The password is its own."""
    binary = find_redis(_REDIS_KIND)
    options = list(_tls_options(authority, authority.issue("sentinel"), prefix=""))
    lines = [f"{name} {value}" for name, value in zip(options[::2], options[1::2], strict=True)]

    def launch(port: int) -> Server:
        config = directory / f"sentinel-{port}.conf"
        config.write_text(
            "\n".join(
                [
                    f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {directory}",
                    "tls-replication yes",
                    *lines,
                    f"sentinel monitor mymaster 127.0.0.1 {primary.tls_port} 1",
                    *([f"requirepass {password}"] if password else []),
                ]
            )
            + "\n"
        )
        chown_to_child_user(directory)
        ready = functools.partial(_knows_primary, port, authority, password)
        argv: list[str | Path] = [binary, config, "--sentinel"]
        child = Child(f"sentinel-{port}", argv, directory, ready)
        url = f"rediss+sentinel://127.0.0.1:{port}/mymaster"
        return Server("sentinel-tls", port, url, child)

    return start_on_free_port(launch, None)


def start_tls_postgres(
    directory: Path, authority: Authority, *, hba: str = "hostssl all all all scram-sha-256"
) -> Server:
    """Start a Postgres with TLS; its superuser `postgres` has the password `hunter2`.

    The wheel's is built without TLS, so that a distribution's is needed.
    """
    binaries, data = _tls_postgres_binaries(), directory / "pg"
    user = child_user()
    password = directory / "password"
    password.write_text("hunter2")
    chown_to_child_user(directory)
    subprocess.run(
        [
            *(binaries / "initdb", "-D", data, "-U", "postgres", "--auth=scram-sha-256"),
            *(f"--pwfile={password}", "-E", "UTF8", "--locale=C", "--no-sync"),
        ],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        check=True,
        capture_output=True,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    (data / "pg_hba.conf").write_text(f"{hba}\n")
    certificate = authority.issue("postgres")
    settings = [
        *("ssl=on", f"ssl_cert_file={certificate.cert_file}"),
        *(f"ssl_key_file={certificate.key_file}", f"ssl_ca_file={authority.ca_file}"),
        *("fsync=off", "full_page_writes=off", "shared_buffers=32MB"),
    ]

    def launch(port: int) -> Server:
        argv: list[str | Path] = [binaries / "postgres", "-D", data, "-h", "127.0.0.1"]
        argv += ["-p", str(port), "-k", directory]
        for setting in settings:
            argv += ["-c", setting]
        ready = functools.partial(_is_started, data)
        child = Child("postgres", argv, directory, ready, stop_signal=signal.SIGINT)
        url = f"postgresql://postgres:hunter2@127.0.0.1:{port}/postgres"
        return Server("postgres-tls", port, url, child)

    return start_on_free_port(launch, None)


def _tls_options(authority: Authority, certificate: Certificate, *, prefix: str) -> list[str]:
    options = {
        "tls-ca-cert-file": authority.ca_file,
        "tls-cert-file": certificate.cert_file,
        "tls-key-file": certificate.key_file,
        "tls-auth-clients": "no",
    }
    return [text for name, value in options.items() for text in (f"{prefix}{name}", str(value))]


def _is_ready(port: int, *, cluster: bool) -> bool:
    client = redis.Redis(port=port, socket_timeout=1, decode_responses=True)
    with suppress(redis.ConnectionError, redis.TimeoutError), client:
        if not cluster:
            return bool(client.ping())
        state = client.execute_command("CLUSTER INFO")
        if state["cluster_slots_assigned"] == "0":
            client.execute_command("CLUSTER ADDSLOTS", *range(_SLOTS))
        return bool(state["cluster_state"] == "ok")
    return False


def _knows_primary(port: int, authority: Authority, password: str) -> bool:
    ca_file = str(authority.ca_file)
    client = redis.Redis(port=port, ssl=True, ssl_ca_certs=ca_file, password=password or None)
    with suppress(redis.ConnectionError, redis.TimeoutError), client:
        state = client.sentinel_master("mymaster")
        assert isinstance(state, dict)
        return bool(state["is_master"] and not state["is_sdown"])
    return False


def _is_started(data: Path) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text().split("\n")
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"


def _tls_postgres_binaries() -> Path:
    versions = Path("/usr/lib/postgresql").glob("*/bin")  # Debian's are built with TLS
    newest = max(versions, key=lambda path: int(path.parent.name), default=None)
    return newest or skip_or_fail("a Postgres with TLS is not installed (apt-get install)")
