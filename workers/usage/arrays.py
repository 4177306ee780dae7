"""Many rows as a few parameters: an array for each column, so that one statement serves a batch of any size."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Column, TableValuedAlias, Text, bindparam, column, func
from sqlalchemy.dialects.postgresql import ARRAY


def given(columns: Iterable[Column[Any]]) -> TableValuedAlias:
    """The rows that `parameters` hands over, typed as the columns are; to select from, or to join with."""
    types = {c.key: c.type for c in columns}
    # One dimension: a value that is a JSON list is no further array.
    kinds = ((n, ARRAY(Text() if isinstance(t, Text) else t, dimensions=1)) for n, t in types.items())
    arrays = (bindparam(n, type_=kind) for n, kind in kinds)
    return func.unnest(*arrays).table_valued(*(column(n, t) for n, t in types.items()), name="given").render_derived()


def parameters(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    """One array for each column, by its name. There is at least one row, its values in the order of `columns`."""
    return dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
