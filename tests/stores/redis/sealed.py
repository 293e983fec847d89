"""What tests of sealed copies do with Redis beside the store: keys, seals, commands in between."""

from collections.abc import Callable
from typing import Final

from sidegate.core.digest import Digest
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.codec import decode, encode
from sidegate.stores.redis.sealed_write import MAX_RECORD_SIZE, build_key, build_seal_key
from tests.stores.conftest import RawClient
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy

SEAL_KEY: Final = build_seal_key(0)


def pack(*arguments: str | bytes) -> bytes:
    """Return a command as it is sent to Redis."""
    texts = [each.encode() if isinstance(each, str) else each for each in arguments]
    return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%s\r\n" % (len(t), t) for t in texts)


async def read_bytes(raw_client: RawClient, key: str) -> bytes:
    """Return a string in Redis; empty: there is none."""
    value: bytes | None = await raw_client.execute_command("GET", key)
    return value or b""


async def read_seal(raw_client: RawClient) -> Seal:
    return Seal.decode(await read_bytes(raw_client, SEAL_KEY))


async def write_seal(raw_client: RawClient, seal: Seal) -> None:
    await raw_client.set(SEAL_KEY, seal.encode())


async def find_key(raw_client: RawClient, digest: Digest) -> str:
    """Return the key of a digest in the present namespace."""
    return build_key(0, digest, namespace=(await read_seal(raw_client)).namespace).decode()


async def read_copy(
    raw_client: RawClient, digest: Digest, *, namespace: str | None = None
) -> Session | None:
    """Return the copy under a namespace; None: that of the present seal."""
    if namespace is None:
        namespace = (await read_seal(raw_client)).namespace
    record = await read_bytes(raw_client, build_key(0, digest, namespace=namespace).decode())
    return decode(record) if record else None


async def write_copy(raw_client: RawClient, session: Session) -> None:
    """Write a copy as another program would, into the present namespace."""
    await raw_client.set(await find_key(raw_client, session.digest), encode(session))


class CommandBetween:
    """Lets Redis run a command between the reads of each lookup, as if another client had sent it.

    Its reply must be OK. At most `times`; `done` counts.
    """

    def __init__(
        self,
        proxy: TcpProxy,
        build: Callable[[], bytes],
        *,
        before: bytes,
        last: bool = False,
        times: int = 1,
    ) -> None:
        """Insert what `build` returns before the first (or the last) command that starts so."""
        self.done = 0
        self._build = build
        self._before = before
        self._find = bytes.rfind if last else bytes.find
        self._times = times
        self._unread = 0
        proxy.client_filter = self._insert
        proxy.server_filter = self._remove_reply

    def _insert(self, _: ProxiedConnection, chunk: bytes) -> bytes:
        at = self._find(chunk, self._before)
        if at < 0 or self.done == self._times:
            return chunk
        self.done += 1
        self._unread += 1
        return chunk[:at] + self._build() + chunk[at:]

    def _remove_reply(self, _: ProxiedConnection, chunk: bytes) -> bytes:
        if self._unread and b"+OK\r\n" in chunk:
            self._unread -= 1
            return chunk.replace(b"+OK\r\n", b"", 1)
        return chunk


READ_SEAL: Final = pack("GETRANGE", SEAL_KEY, "0", str(MAX_RECORD_SIZE))
# Their keys are longer than that of the seal.
READ_COPY: Final = b"*4\r\n$8\r\nGETRANGE\r\n$76\r\n"
