"""A check for schemathesis: what the schema allows is accepted, but for what no schema can say.

It stands in for schemathesis' own `positive_data_acceptance`, which knows no exceptions.
"""

from typing import Any, Final

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.specs.openapi.checks import positive_data_acceptance

# Where `errors` may find a mistake in what the schema allows, and why that is.
PATHS: Final = {
    "attributes": "integers of 64 bits, no NUL characters, 16 KiB",
    "binding.ip": "not all that is spelled like an address is one",
    "condition": "at least one member that is not null",
    "condition.created_before": "not every day is in the calendar",
    "condition.ip_prefix": "no host bits",
    "condition.last_seen_before": "not every day is in the calendar",
    "cursor": "it is signed",
    "include_ended": "not with `state`",
    "metadata": "integers of 64 bits, no NUL characters, 16 KiB",
    "provider": "only for sessions of type sso",
    "provider_session_id": "in a query it or `provider_subject`; in a body only with `provider`",
    "provider_subject": "only with `provider`",
    "scopes": "2048 bytes together",
    "since": "not every day is in the calendar",
    "until": "not every day is in the calendar",
}
MESSAGES: Final = {
    "Input should be a valid integer": "1.0 is one to a schema, and a float to everybody else",
}
CODES: Final = {
    "idempotency_key_reused": "it was sent before, with another body",
    "invalid_token": "only Sidegate can spell a token",
}


@schemathesis.check
def valid_data_is_accepted(
    ctx: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> None:
    """Fail where the door refuses what the schema allows, for a reason the schema could tell."""
    try:
        positive_data_acceptance(ctx, response, case)
    except RejectedPositiveData:
        problem = response.json()
        if problem["code"] not in CODES and not _beyond(problem.get("errors", [])):
            raise


def _beyond(mistakes: list[dict[str, str]]) -> bool:
    return bool(mistakes) and all(
        each["path"] in PATHS or each["message"] in MESSAGES for each in mistakes
    )
