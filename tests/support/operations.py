"""The session operations on the stores of a test, connected as the container does it."""

from collections.abc import Sequence
from typing import NamedTuple

from uuid_utils import uuid7

from sidegate.core.clock import Clock
from sidegate.core.protocols import DurableStore, Feed, SessionCache
from sidegate.core.session import SessionId
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.publisher import ChangePublisher, NullFeed, SessionEvents
from sidegate.services.rotation import Rotation
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.session_reader import SessionReader
from sidegate.services.sessions import Sessions


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
    caches: Sequence[SessionCache] = (),
    feed: Feed | None = None,
    pending: PendingRevocations | None = None,
) -> Operations:
    """Build the operations of one instance. `caches` begins with its memory."""
    in_force = RulesInForce(rules)
    reader = SessionReader(store, pending=pending)
    publisher = ChangePublisher(caches, feed=feed or NullFeed(), events=events)
    sessions = Sessions(
        store,
        activity=store,
        reader=reader,
        publisher=publisher,
        rules=in_force,
        clock=clock,
        new_id=lambda: SessionId(str(uuid7())),
        pending=pending,
    )
    rotation = Rotation(store, reader=reader, publisher=publisher, rules=in_force, clock=clock)
    return Operations(sessions, rotation, in_force)
