"""A check for schemathesis: requests that match the schema are accepted, with known exceptions.

It replaces schemathesis' `positive_data_acceptance`, which has no exceptions.
"""

from typing import Any, Final

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.specs.openapi.checks import positive_data_acceptance

# Paths of validation errors that the schema cannot represent, each with the reason.
PATHS: Final = {
    "attributes": "integers of 64 bits, no NUL characters, 16 KiB",
    "binding.ip": "the pattern also matches texts that are not addresses",
    "condition": "at least one member that is not null",
    "condition.created_before": "dates such as 30 February match",
    "condition.ip_prefix": "no host bits",
    "condition.last_seen_before": "dates such as 30 February match",
    "cursor": "it is authenticated",
    "include_ended": "not together with `state`",
    "metadata": "integers of 64 bits, no NUL characters, 16 KiB",
    "provider": "only for sessions of type sso",
    "provider_session_id": "in a query required without `provider_subject`; in a body only with "
    "`provider`",
    "provider_subject": "only with `provider`",
    "scopes": "2048 bytes in total",
    "since": "dates such as 30 February match",
    "until": "dates such as 30 February match",
}
MESSAGES: Final = {
    "give scopes or metadata": "at least one member that is not null",
    "Input should be a valid integer": "1.0 is an integer in JSON Schema, and a float in Python",
}
CODES: Final = {
    "idempotency_key_reused": "the key was used before with another body",
    "invalid_token": "valid tokens cannot be generated from a pattern",
}


@schemathesis.check
def valid_data_is_accepted(
    ctx: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> None:
    """Fail if a request that matches the schema is refused, unless the reason is an exception."""
    try:
        positive_data_acceptance(ctx, response, case)
    except RejectedPositiveData:
        problem = response.json()
        if problem["code"] not in CODES and not _are_exceptions(problem.get("errors", [])):
            raise


def _are_exceptions(errors: list[dict[str, str]]) -> bool:
    return bool(errors) and all(
        error["path"] in PATHS or error["message"] in MESSAGES for error in errors
    )
