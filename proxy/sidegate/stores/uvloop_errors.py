"""What uvloop says of a connection that ended in the moment before somebody wrote to it."""


def ended_under_the_writer(error: object) -> bool:
    """Say whether that is what this error means.

    asyncio's own transports let such a write pass, and the next read fails; uvloop's raise a
    RuntimeError, which no vendor's library knows.
    """
    return isinstance(error, RuntimeError) and str(error).endswith("the handler is closed")
