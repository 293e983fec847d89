"""Writes of copies that depend on the seal of their bucket: one script, and its steps.

A key of a copy is `sidegate:v2:{<bucket>}:<namespace>:<digest>`, that of a seal
`sidegate:v2:{<bucket>}:seal`. The braces put a bucket into one slot of a Cluster.
"""

import secrets
from binascii import b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from sidegate.core.digest import Digest
from sidegate.core.seal import build_prefix
from sidegate.core.session import EPOCH, Session
from sidegate.stores.codec import HEADER_SIZE, encode
from sidegate.stores.redis.pipelines import PipelinedConnection, check_replies, pack

CLUSTER_BUCKETS: Final = 128

# Milliseconds after which a copy expires: those of a namespace that was left go by themselves.
_MAX_AGE: Final = 3_600_000

# Longer than any record in bytes: a huge value that another program has written under the key must
# not be read as a whole.
MAX_RECORD_SIZE: Final = 16 * 1024

# The first argument comes back with the reply, so that no other reply is taken for it. Nothing is
# written unless the seal is the expected one or, for steps that only take something away, belongs
# to the expected namespace (the third argument; else empty).
#
# A record's header compares as text by freshness. A value without such a header, of whatever type,
# is overwritten; so is the value that the caller could not read, if it is still there.
_SCRIPT: Final = b"""
local seal = redis.pcall('GETRANGE', KEYS[1], 0, %(max)d)
if type(seal) ~= 'string' then seal = '' end
local is_same = seal == ARGV[2]
local namespace = ARGV[3]
if not is_same and (namespace == '' or string.sub(seal, 1, #namespace) ~= namespace) then
  return {ARGV[1], 0, seal}
end
local replies = {ARGV[1], 1, seal}
for i = 2, #KEYS do
  local step, record, unreadable = ARGV[i * 3 - 1], ARGV[i * 3], ARGV[i * 3 + 1]
  local head = string.sub(record, 1, %(head)d)
  local kept = redis.pcall('GETRANGE', KEYS[i], 0, %(head)d - 1)
  local is_fresher = type(kept) == 'string' and #kept >= %(head)d
    and string.find(kept, '^[01]%%d+$') and kept > head
  local reply = ''
  if step == 'fill' then
    if is_fresher then reply = redis.call('GETRANGE', KEYS[i], 0, %(max)d) end
    if not is_fresher or reply == unreadable then
      redis.call('SET', KEYS[i], record, 'PX', %(age)d)
      reply = record
    end
  elseif step == 'delete' then
    redis.call('DEL', KEYS[i])
  elseif not is_fresher then
    redis.call('SET', KEYS[i], record, 'PX', %(age)d)
  end
  replies[i + 2] = reply
end
if is_same and ARGV[4] ~= '' then redis.call('SET', KEYS[1], ARGV[4]) end
return replies
""" % {b"head": HEADER_SIZE, b"max": MAX_RECORD_SIZE, b"age": _MAX_AGE}
_URL_ALPHABET: Final = bytes.maketrans(b"+/", b"-_")
_ANY_DIGEST: Final = bytes(43)  # occurs nowhere else in a command

_SCRIPT_SHA: Final = sha1(_SCRIPT, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """What to do with the copy of one digest.

    fill     keep the fresher copy, and reply it
    put      keep the fresher copy
    delete   delete any copy

    A record that is only a header blocks older copies: it is found as a miss.
    """

    name: str
    digest: Digest
    record: bytes = b""
    unreadable: bytes = b""

    @classmethod
    def restrict(cls, copy: Session) -> "Step":
        """Return the step that applies what a changed copy takes away, and nothing else.

        A copy that can open is not stored: the seal does not cover it.
        """
        record = encode(copy)
        never_opens = copy.valid_until == EPOCH
        return cls("put", copy.digest, record if never_opens else record[:HEADER_SIZE])


@dataclass(frozen=True, slots=True)
class SealedWrite:
    """Steps in one bucket. They are done only if it has the `expected` seal, as stored.

    With `namespace`, those that take something away are done under any seal of that namespace.
    `moved_to` replaces the seal.
    """

    bucket: int
    namespace: str
    steps: Sequence[Step]
    expected: bytes
    under_any_seal: bool = False
    moved_to: bytes = b""

    def build_arguments(self, nonce: bytes) -> tuple[Any, ...]:
        """Return the arguments of EVAL and EVALSHA after the script."""
        keys = [
            build_key(self.bucket, step.digest, namespace=self.namespace) for step in self.steps
        ]
        prefix = build_prefix(self.namespace) if self.under_any_seal else b""
        arguments: list[bytes | str] = [nonce, self.expected, prefix, self.moved_to]
        for step in self.steps:
            arguments += (step.name, step.record, step.unreadable)
        return (1 + len(keys), build_seal_key(self.bucket), *keys, *arguments)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Whether the steps were done, the seal that the bucket had, and the reply of each step."""

    done: bool
    seal: bytes
    replies: Sequence[bytes] = ()


async def run_writes(
    connection: PipelinedConnection, writes: Sequence[SealedWrite]
) -> list[WriteResult]:
    """Run the writes in one round trip. Each of them is done as a whole or not at all."""
    nonce = secrets.token_bytes(8)
    arguments = [write.build_arguments(nonce) for write in writes]
    replies = await connection.execute(*(("EVALSHA", _SCRIPT_SHA, *each) for each in arguments))
    if any(isinstance(reply, NoScriptError) for reply in replies):
        replies = await connection.execute(*(("EVAL", _SCRIPT, *each) for each in arguments))
    check_replies(replies)
    results = []
    for write, reply in zip(writes, replies, strict=True):
        result = _read_result(reply, nonce, steps=len(write.steps))
        if result is None:
            connection.close()
            raise RedisConnectionError("reply to another command")
        connection.seals[write.bucket] = result.seal
        results.append(result)
    return results


def _read_result(reply: Any, nonce: bytes, *, steps: int) -> WriteResult | None:
    match reply:
        case [first, 0, bytes(seal)] if first == nonce:
            return WriteResult(False, seal)
        case [first, 1, bytes(seal), *replies] if first == nonce and len(replies) == steps:
            if all(isinstance(each, bytes) for each in replies):
                return WriteResult(True, seal, replies)
    return None


def bucket_of(digest: Digest, buckets: int) -> int:
    """Return the bucket of a digest, out of so many."""
    return digest[0] % buckets


def build_hash_tag(bucket: int) -> str:
    """Return the part of a key that determines its slot in a Cluster."""
    return f"{{{bucket}}}"


def build_seal_key(bucket: int) -> str:
    return f"sidegate:v2:{build_hash_tag(bucket)}:seal"


def build_key(bucket: int, digest: Digest, *, namespace: str) -> bytes:
    return _build_key_prefix(bucket, namespace) + _encode_digest(digest)


def pack_reads(bucket: int, digests: Sequence[Digest], *, namespace: str) -> bytes:
    """Return the commands that read the seal, the copies of these digests, and the seal again.

    Each of them replies at most MAX_RECORD_SIZE bytes.
    """
    read_seal, begin, end = _pack_parts(bucket, namespace)
    reads = [begin + _encode_digest(digest) + end for digest in digests]
    return b"".join((read_seal, *reads, read_seal))


@lru_cache(maxsize=2 * CLUSTER_BUCKETS)
def _pack_parts(bucket: int, namespace: str) -> tuple[bytes, bytes, bytes]:
    """Return the command that reads the seal, and what is around the digest in those for copies."""
    read_seal = pack("GETRANGE", build_seal_key(bucket), 0, MAX_RECORD_SIZE)
    key = _build_key_prefix(bucket, namespace) + _ANY_DIGEST
    begin, end = pack("GETRANGE", key, 0, MAX_RECORD_SIZE).split(_ANY_DIGEST)
    return read_seal, begin, end


def _build_key_prefix(bucket: int, namespace: str) -> bytes:
    return f"sidegate:v2:{build_hash_tag(bucket)}:{namespace}:".encode()


def _encode_digest(digest: Digest) -> bytes:
    """Return the digest in Base64 for URLs, without padding."""
    return b2a_base64(digest)[:43].translate(_URL_ALPHABET)


def build_key_pattern(namespace: str) -> str:
    """Return the pattern of the keys of all copies under a namespace, in whatever bucket."""
    return f"sidegate:v2:{{*}}:{namespace}:*"
