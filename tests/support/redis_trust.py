"""Trust in Redis without a change poller."""

from sidegate.stores.client.redis_trust import RedisTrust


def build_redis_trust(generation: int = 0) -> RedisTrust:
    """Return a trust that is confirmed."""
    trust = RedisTrust()
    trust.complete_startup()
    trust.confirm(generation, since=trust.mark())
    return trust
