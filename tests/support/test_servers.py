"""The test servers themselves, on which all other tests depend."""

from __future__ import annotations

import os
from pathlib import Path

import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from tests.support.processes import Server, child_user
from tests.support.servers import start_cluster_node, start_redis, start_sentinel

NO_RETRY = Retry(NoBackoff(), 0)


def test_killed_redis_restarts_empty_on_the_same_port(own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port, retry=NO_RETRY) as client:
        client.set("key", "value")
        own_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        own_redis.restart()
        assert client.get("key") is None


def test_paused_redis_keeps_connections_without_replies(own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port, socket_timeout=0.1, retry=NO_RETRY) as client:
        client.set("key", "value")
        own_redis.pause()
        with pytest.raises(redis.TimeoutError):
            client.get("key")
        own_redis.resume()
        assert client.get("key") == b"value"


@pytest.mark.parametrize("turn", [1, 2])
def test_shared_redis_is_empty_at_the_start_of_each_test(redis_url: str, turn: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left behind by turn", turn)


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_has_its_own_empty_database(empty_database_url: str, turn: int) -> None:
    connection = await asyncpg.connect(empty_database_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_stat_user_tables") == 0
    await connection.execute(f"CREATE TABLE of_turn_{turn} ()")
    await connection.close()


async def test_killed_postgres_restarts_with_committed_data(own_postgres: Server) -> None:
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute("CREATE TABLE kept ()")
    own_postgres.kill()
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.execute("SELECT 1")
    connection.terminate()
    own_postgres.restart()
    connection = await asyncpg.connect(own_postgres.url)
    assert await connection.fetchval("SELECT count(*) FROM kept") == 0
    await connection.close()


async def test_paused_postgres_does_not_reply_until_resumed(own_postgres: Server) -> None:
    connection = await asyncpg.connect(own_postgres.url)
    own_postgres.pause()
    with pytest.raises(TimeoutError):
        await connection.execute("SELECT 1", timeout=0.1)
    own_postgres.resume()
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


def test_cluster_of_one_node_stores_any_key(workdir: Path) -> None:
    node = start_cluster_node(workdir)
    with RedisCluster(host="127.0.0.1", port=node.port) as client:
        assert all(client.set(f"key-{number}", "value") for number in range(20))
    node.stop()


def test_sentinel_knows_the_primary(workdir: Path, own_redis: Server) -> None:
    sentinel = start_sentinel(workdir, own_redis.port)
    with redis.Redis(port=sentinel.port, decode_responses=True) as client:
        primary = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME mymaster")
        assert primary == ["127.0.0.1", str(own_redis.port)]
    sentinel.stop()


def test_snapshot_is_restored_if_persistence_is_enabled(workdir: Path) -> None:
    server = start_redis(workdir, extra_args=["--save", "3600 1"])
    with redis.Redis(port=server.port) as client:
        client.set("key", "value")
        client.save()
        server.kill()
        server.restart()
        assert client.get("key") == b"value"
    server.stop()


@pytest.mark.skipif(
    os.getuid() != 0, reason="children are unprivileged only if the tests run as root"
)
def test_children_do_not_run_as_root(redis_server: Server) -> None:
    user = child_user()
    assert user is not None
    assert Path(f"/proc/{redis_server.process.pid}").stat().st_uid == user.pw_uid
