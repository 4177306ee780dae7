"""Lists in pages.

A page begins after the last row of the one before, named by the values that the list is ordered by (keyset
pagination), so it stays right while rows come and go. A cursor holds these values and is opaque to callers.
"""

import base64
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import Column, Label, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.http.problems import invalid

T = TypeVar("T")

_DEFAULT_LIMIT = 100
_TEXTS: TypeAdapter[list[str]] = TypeAdapter(list[str])


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: str | None
    """Give it as `cursor` for the page after this one; null: this was the last."""


class Paging(BaseModel):
    """Which page of a list is asked for; `cursor` None: the first."""

    limit: int = _DEFAULT_LIMIT
    cursor: str | None = None


def _paging(*, usual: int, most: int) -> Callable[..., Paging]:
    def paging(
        limit: Annotated[int, Query(ge=1, le=most)] = usual,
        cursor: Annotated[str | None, Query(max_length=4096)] = None,
    ) -> Paging:
        return Paging(limit=limit, cursor=cursor)

    return paging


Paged = Annotated[Paging, Depends(_paging(usual=_DEFAULT_LIMIT, most=500))]
PagedSums = Annotated[Paging, Depends(_paging(usual=1000, most=10_000))]
"""For lists of short rows, which callers mostly want all of."""


async def read_page(
    connection: AsyncConnection,
    query: Select[Any],
    *,
    keys: Sequence[Column[Any] | Label[Any]],
    paging: Paging,
    view: Callable[[Any], T],
    newest_first: bool = False,
) -> Page[T]:
    """One page of `query` in the order of `keys`: columns of text, whole numbers, days, times or UUIDs that together
    are unique. `newest_first`: from the greatest down.
    """
    if paging.cursor is not None:
        place, after = tuple_(*keys), tuple_(*decode(paging.cursor, *(key.type.python_type for key in keys)))
        query = query.where(place < after if newest_first else place > after)
    order = [key.desc() for key in keys] if newest_first else keys
    rows = (await connection.execute(query.order_by(*order).limit(paging.limit + 1))).all()
    more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    after = encode(*(getattr(rows[-1], key.name) for key in keys)) if more else None
    return Page(items=[view(row) for row in rows], next=after)


def encode(*values: object) -> str:
    """The cursor of what comes after `values`."""
    texts = json.dumps([str(value) for value in values], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(texts.encode()).decode().rstrip("=")


def decode(cursor: str, *kinds: type) -> list[Any]:
    """The values of a cursor. Raises a 422 problem."""
    try:
        texts = _TEXTS.validate_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if "\0" in "".join(texts):
            raise ValueError
        return [_value(kind, text) for kind, text in zip(kinds, texts, strict=True)]
    except (ValueError, OverflowError) as exc:
        raise invalid("cursor", "is not a cursor of this list") from exc


def _value(kind: type, text: str) -> Any:
    """One value of a cursor. Raises ValueError, OverflowError for what no column of that kind can hold."""
    if kind is datetime:
        return datetime.fromisoformat(text).astimezone(UTC)
    if kind is date:
        return date.fromisoformat(text)
    if kind is int and not 0 <= int(text) < 2**63:
        raise ValueError
    return kind(text)
