"""The error that uvloop raises for a write to a connection that has just been closed."""


def is_closed_transport_error(error: object) -> bool:
    """Return whether `error` is uvloop's error for a write to a closed connection.

    asyncio's own transports ignore such a write, and the next read fails. uvloop raises a
    RuntimeError, which the client libraries do not handle.
    """
    return isinstance(error, RuntimeError) and str(error).endswith("the handler is closed")
