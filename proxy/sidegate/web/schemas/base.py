"""Read a JSON document as a payload: every mistake in it is told, at once."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from sidegate.core.lifetimes import Lifetimes
from sidegate.core.session_type import SessionType
from sidegate.web.schemas.problems import FieldError, invalid


class Payload(BaseModel):
    """What came in: taken only as what it is, frozen, without unknown members.

    The docstrings of a payload and of its members are what the OpenAPI document says of them.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


PayloadT = TypeVar("PayloadT", bound=Payload)


def example(**members: Any) -> ConfigDict:
    """Return the configuration of a payload that shows itself by an example; it joins the rest."""
    return ConfigDict(json_schema_extra={"examples": [members]})


def read(
    kind: type[PayloadT],
    document: dict[str, Any],
    lifetimes: Mapping[SessionType, Lifetimes] | None = None,
) -> PayloadT:
    """Return `document` as a payload. Problem: every mistake in it, at once."""
    try:
        return kind.model_validate(document, context=lifetimes)
    except ValidationError as error:
        mistakes = [_mistake(each) for each in error.errors(include_url=False, include_input=False)]
        raise invalid("invalid_request", mistakes) from None


def _mistake(error: ErrorDetails) -> FieldError:
    path = ".".join(str(step) for step in error["loc"])
    own = error.get("ctx", {}).get("error")  # one of ours, without pydantic's "Value error, "
    return FieldError(path, str(own) if own is not None else error["msg"])
