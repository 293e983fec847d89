"""What every group of settings is built of."""

from typing import Final

from pydantic import BaseModel, BeforeValidator, ConfigDict

from sidegate.settings.values import parse_null

Nullable: Final = BeforeValidator(parse_null)


class Section(BaseModel):
    """A group of settings: frozen, without unknown fields, and without input in its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
