"""Descriptors: the system's limit is raised as far as it goes, and who connects must fit in.

A process that has none left accepts nobody, and reaches no store either: it is better to turn away
the connections that are too many.
"""

import logging
import resource
import sys
from contextlib import suppress
from typing import Final

from sidegate.web.server.listener import DEFAULT_MAX_CONNECTIONS, MAX_UNTRUSTED

# Two doors with the usual room, strangers at the gate, those who are told that there is no room,
# and the stores: 64 connections to Redis, 9 to Postgres, the files of SQLite.
_ALL_ELSE: Final = 2 * DEFAULT_MAX_CONNECTIONS + MAX_UNTRUSTED + 300

_log: Final = logging.getLogger("sidegate")


def raise_limit() -> int:
    """Raise this process's limit as far as it goes, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has no hard limit, and yet one that is lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def connections_that_fit(wanted: int, *, limit: int) -> int:
    """Return how many of the connections wanted at the gate fit into `limit` open files.

    That is `wanted`, or less, which the log tells; never less than half of the limit, for nobody
    who grants us so few will use all else to the full.
    """
    fit = max(limit - _ALL_ELSE, limit // 2)
    if fit < wanted:
        advice = (
            "the limit of open files leaves room for %d connections to the gate, not %d: "
            "raise it to %d (LimitNOFILE=, ulimit -Hn), or lower gate.max_connections"
        )
        _log.warning(advice, fit, wanted, wanted + _ALL_ELSE)
    return min(fit, wanted)
