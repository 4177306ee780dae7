"""What pydantic finds wrong, as one line that a person reads."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from contracts.wire import StrictWireModel, errors_in_one_line


def _even(number: int) -> int:
    if number % 2:
        raise ValueError("must be\neven")
    return number


class Small(StrictWireModel):
    kind: Literal["small"] = "small"
    even: Annotated[int, AfterValidator(_even)] = 0


class Large(StrictWireModel):
    kind: Literal["large"] = "large"


class Box(StrictWireModel):
    name: str
    things: tuple[Annotated[Small | Large, Field(discriminator="kind")], ...] = ()


def refused(model: type[BaseModel], value: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return caught.value


def said(value: Any, model: type[BaseModel] = Box, **how: Any) -> str:
    return errors_in_one_line(refused(model, value), **how)


def test_names_the_field_and_what_is_wrong_with_it() -> None:
    assert said({"name": "b", "things": [{"kind": "small", "even": 3}]}) == "things.0.small.even: must be even"


def test_names_no_field_where_the_whole_is_wrong() -> None:
    assert said(5).startswith("Input should be a valid dictionary")


def test_what_stands_in_a_field_is_not_repeated() -> None:
    assert "hunter2" not in said({"name": ["hunter2"], "things": ["hunter2", {"kind": "small", "even": "hunter2"}]})


def test_five_are_named_and_the_others_counted() -> None:
    unknown = said({"name": "b", **{f"f{n}": 0 for n in range(8)}})

    assert unknown.startswith("f0: Extra inputs are not permitted; f1: ")
    assert unknown.endswith("f4: Extra inputs are not permitted; and 3 more")


@pytest.mark.parametrize(("unknown", "tells"), [(1000, "; and 995 more"), (1001, "it has 1001 problems, too many")])
def test_of_more_than_a_thousand_only_the_number_is_told(unknown: int, tells: str) -> None:
    assert tells in said({"name": "b", **{f"f{n}": 0 for n in range(unknown)}})


def test_is_short_however_long_the_names_and_tags_are() -> None:
    many = {"x" * 10_000 + str(n): 0 for n in range(10)}

    assert len(said({"name": "b", "things": [{"kind": "k" * 10_000}], **many})) < 2000


def test_a_setting_is_named_as_its_variable() -> None:
    assert said({}, name=str.upper, missing="is not set") == "NAME: is not set"
