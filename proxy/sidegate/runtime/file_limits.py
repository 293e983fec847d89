"""The limit of open files: raise it, and fit the number of connections into it.

A process without free file descriptors cannot accept connections, and cannot reach a store either.
It is better to refuse connections above a limit.
"""

import logging
import resource
import sys
from contextlib import suppress
from typing import Final

from sidegate.web.server.listener import (
    DEFAULT_MAX_CONNECTIONS,
    MAX_UNTRUSTED_CONNECTIONS,
)

# Untrusted peers at the gate, connections that are refused with 503, and the stores: 64 connections
# to Redis, 9 to Postgres, the files of SQLite.
_OTHER_FILES: Final = MAX_UNTRUSTED_CONNECTIONS + 300
# Connections to ops and admin, unless their settings allow more.
_SHARED_CONNECTIONS: Final = 2 * DEFAULT_MAX_CONNECTIONS
# ops and admin may each use one of so many parts of the open files.
_SHARED_PART: Final = 8

_log: Final = logging.getLogger("sidegate")


def raise_open_file_limit() -> int:
    """Raise this process's soft limit to the hard limit, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports no hard limit, but enforces a lower one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def fit_connections(requested: int, *, limit: int, shared: int = 0) -> int:
    """Return how many of the requested gate connections fit into `limit` open files.

    `shared`: the connections that ops and admin may have. Log a warning if they are fewer than
    requested. The result is at least half of the limit, because a small deployment never uses the
    full reserve.
    """
    reserved = max(shared, _SHARED_CONNECTIONS) + _OTHER_FILES
    fitting = max(limit - reserved, limit // 2)
    if fitting < requested:
        _log.warning(
            "open file limit too low",
            extra={
                "max_connections": fitting,
                "requested": requested,
                "limit_needed": requested + reserved,
                "advice": "raise LimitNOFILE= (ulimit -Hn) or lower gate.max_connections",
            },
        )
    return min(fitting, requested)


def fit_shared(total: int, *, limit: int) -> int:
    """Return how many of the connections to ops or admin `limit` open files allow."""
    return min(total, max(1, limit // _SHARED_PART))
