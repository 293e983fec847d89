"""Why a request to Redis failed, for operators: the error code and the sentence of the server."""

import re
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisClusterException,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sidegate.stores.network_errors import (
    describe_network_error,
    describe_text,
    iter_causes,
    shorten,
)

# Replies that the client library does not raise as a ResponseError.
_REPLIES: Final = (ResponseError, AuthenticationError, AuthorizationError, BusyLoadingError)

# A server that does not know a command quotes it: AUTH has the password.
_QUOTED_COMMAND: Final = re.compile(r",? with args beginning with.*", re.DOTALL)


class RedisFailure(RedisConnectionError):
    """A failure to connect whose message is meant for operators."""


def describe_error(error: BaseException) -> str:
    """Return what the server, TLS or the operating system says. Contains no secret."""
    if isinstance(error, RedisFailure):
        return str(error)
    causes = [*iter_causes(error)]
    for each in causes:
        if isinstance(each, _REPLIES) or getattr(each, "status_code", None):
            return _describe_reply(each)
    network = describe_network_error(error)
    if network is not None:
        return network
    if any(isinstance(each, TimeoutError | RedisTimeoutError) for each in causes):
        return "no answer in time"
    if isinstance(error, RedisConnectionError | RedisClusterException):
        return describe_text(str(error)) or shorten(str(error)) or "the connection was lost"
    return f"unexpected {type(error).__name__}"


def _describe_reply(error: BaseException) -> str:
    code = getattr(error, "status_code", None)
    sentence = shorten(_QUOTED_COMMAND.sub("", str(error)))
    return f"{code} {sentence}" if code else sentence
