"""What every body of a request is: a model that refuses unknown fields, and tells of a few mistakes at most."""

from typing import Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError

MOST_PROBLEMS = 100


class Body(BaseModel):
    """A body, or an object within one. It never repeats what was sent."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _few_problems_are_named(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """pydantic counts mistakes fast and tells of them slowly: 45 µs each, and a body has room for 50,000."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + MOST_PROBLEMS:
            raise PydanticCustomError(
                "too_many_fields", "has {count} fields, too many to be known", {"count": len(value)}
            )
        try:
            return validate(value)
        except ValidationError as exc:
            if exc.error_count() <= MOST_PROBLEMS:
                raise
            raise PydanticCustomError(
                "too_many_problems", "has {count} problems, too many to name them", {"count": exc.error_count()}
            ) from None


def at_most(members: int) -> BeforeValidator:
    """Bounds a dict before its members are looked at; pydantic's own `max_length` counts them afterwards."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > members:
            raise ValueError(f"must have at most {members} members")
        return value

    return BeforeValidator(check)
