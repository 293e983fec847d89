"""The limits of ops and admin, the listeners without a list of peers, from their settings."""

from functools import partial
from typing import Final

from sidegate.observability.metrics import Metrics
from sidegate.runtime.file_limits import fit_shared, raise_open_file_limit
from sidegate.settings.sections import AdminSection, OpsSection
from sidegate.web.server.fast_path import ConnectionTimeouts
from sidegate.web.server.listener import ConnectionLimits, ListenerOptions

# Seconds between two requests to ops while more wait: a thousand a second take a fifth of a core.
_OPS_INTERVAL: Final = 0.001


def build_listener_options(
    name: str, section: OpsSection | AdminSection, *, metrics: Metrics
) -> ListenerOptions:
    """Return the options of one of these listeners."""
    total = fit_shared(section.max_connections, limit=raise_open_file_limit())
    return ListenerOptions(
        on_bad_request=partial(metrics.count_bad_request, name),
        timeouts=ConnectionTimeouts(idle=section.idle_timeout.total_seconds()),
        limits=ConnectionLimits(
            total,
            min(section.max_connections_per_peer, total),
            protects_others=True,
            interval=_OPS_INTERVAL if isinstance(section, OpsSection) else 0.0,
        ),
        on_full=partial(metrics.count_refused_connection, name),
        on_evicted=partial(metrics.count_evicted_connection, name),
    )
