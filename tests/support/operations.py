"""The session operations on the stores of a test, connected as the container does it."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from uuid_utils import uuid7

from sidegate.core.clock import Clock
from sidegate.core.protocols import DurableStore, Feed, MemoryCache, RemoteCache
from sidegate.core.session import Session, SessionId
from sidegate.services.cache_filler import CacheFiller
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.publisher import ChangePublisher, NullFeed, SessionEvents
from sidegate.services.rotation import Rotation
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.session_reader import SessionReader
from sidegate.services.sessions import Sessions
from tests.support.fakes import FakeCacheTrust, FakeMemory, know_idleness


class Operations(NamedTuple):
    """The services of one instance, and the rules that they read."""

    sessions: Sessions
    rotation: Rotation
    rules: RulesInForce


def build_operations(
    store: DurableStore,
    rules: Rules,
    *,
    clock: Clock,
    events: SessionEvents,
    memory: MemoryCache | None = None,
    remote: RemoteCache | None = None,
    feed: Feed | None = None,
    pending: PendingRevocations | None = None,
    require_idle_known: Callable[[Session, datetime], None] = know_idleness,
    count_refresh: Callable[[str], None] = lambda _: None,
) -> Operations:
    """Build the operations of one instance. `memory` is its own one if it is None."""
    in_force, trust = RulesInForce(rules), FakeCacheTrust({})
    memory = FakeMemory() if memory is None else memory
    reader = SessionReader(store, pending=pending, require_idle_known=require_idle_known)
    publisher = ChangePublisher(
        memory, remote=remote, trust=trust, feed=feed or NullFeed(), events=events
    )
    sessions = Sessions(
        store,
        activity=store,
        reader=reader,
        publisher=publisher,
        filler=CacheFiller(memory, remote=remote, trust=trust, clock=clock),
        rules=in_force,
        clock=clock,
        new_id=lambda: SessionId(str(uuid7())),
        pending=pending,
    )
    rotation = Rotation(
        store,
        reader=reader,
        publisher=publisher,
        rules=in_force,
        clock=clock,
        count=count_refresh,
    )
    return Operations(sessions, rotation, in_force)
