"""Base class of request payloads, and the parser that reports all errors of one at once."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from sidegate.core.lifetimes import Lifetimes
from sidegate.core.session_type import SessionType
from sidegate.web.schemas.problems import FieldError, validation_problem


class Payload(BaseModel):
    """A request document: frozen, without type coercion or unknown members.

    The docstrings of a payload and its members become descriptions in the OpenAPI document.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


PayloadT = TypeVar("PayloadT", bound=Payload)


def example_config(**members: Any) -> ConfigDict:
    """Return a model configuration that adds an example to the payload's schema."""
    return ConfigDict(json_schema_extra={"examples": [members]})


def parse_payload(
    kind: type[PayloadT],
    document: dict[str, Any],
    *,
    lifetimes: Mapping[SessionType, Lifetimes] | None = None,
) -> PayloadT:
    """Return `document` as a payload of class `kind`. Raise Problem with all its errors.

    `lifetimes` limit `expires_in`; without them it is not checked.
    """
    try:
        return kind.model_validate(document, context=lifetimes)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        errors = [_build_field_error(each) for each in details]
        raise validation_problem("invalid_request", errors) from None


def _build_field_error(error: ErrorDetails) -> FieldError:
    path = ".".join(str(step) for step in error["loc"])
    # The ValueError of our own check: pydantic's "msg" puts "Value error, " before its text.
    cause = error.get("ctx", {}).get("error")
    return FieldError(path, error["msg"] if cause is None else str(cause))
