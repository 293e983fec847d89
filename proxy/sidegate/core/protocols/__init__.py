"""The contracts of the stores, by role. None means absent; an error means an outage.

Every method raises StoreUnavailable, and nothing else, if the store does not answer. A method that
changes something raises OutcomeUnknown, a subclass, if the change may have been made or may still
be made; a method of the database returns after its change is durable. A method that reads records
raises UnreadableRecord if one cannot be decoded, unless its description says that it omits such
records.
"""

from sidegate.core.protocols.analytics import AnalyticsStore
from sidegate.core.protocols.audit import AuditLog
from sidegate.core.protocols.cache_trust import CacheTrust, FollowedTrust, RoundStart
from sidegate.core.protocols.changes import ChangeLog, Feed, PendingRevocationStore
from sidegate.core.protocols.durable_store import DurableStore, StoreLifecycle
from sidegate.core.protocols.locks import SessionLocks
from sidegate.core.protocols.logout_tokens import LogoutTokenStore
from sidegate.core.protocols.lookup import (
    BatchFinder,
    Fill,
    Found,
    MemoryCache,
    OnFound,
    OnPrefetched,
    Prefetched,
    RemoteBatchCache,
    RemoteCache,
    SealedCache,
    SealedServer,
    SessionCache,
    SessionFinder,
)
from sidegate.core.protocols.reference_clock import ReferenceClock
from sidegate.core.protocols.sessions import (
    ActivityStore,
    Cursor,
    Purger,
    RotatedOut,
    SessionRepository,
    Touch,
)

__all__ = [
    "ActivityStore",
    "AnalyticsStore",
    "AuditLog",
    "BatchFinder",
    "CacheTrust",
    "ChangeLog",
    "Cursor",
    "DurableStore",
    "Feed",
    "Fill",
    "FollowedTrust",
    "Found",
    "LogoutTokenStore",
    "MemoryCache",
    "OnFound",
    "OnPrefetched",
    "PendingRevocationStore",
    "Prefetched",
    "Purger",
    "ReferenceClock",
    "RemoteBatchCache",
    "RemoteCache",
    "RotatedOut",
    "RoundStart",
    "SealedCache",
    "SealedServer",
    "SessionCache",
    "SessionFinder",
    "SessionLocks",
    "SessionRepository",
    "StoreLifecycle",
    "Touch",
]
