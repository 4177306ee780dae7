"""Lists in pages: keyset order, so that a page stays right while rows come and go. A cursor is opaque to callers."""

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import Column, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.problems import invalid

T = TypeVar("T")

_MAX_LIMIT = 500
_DEFAULT_LIMIT = 100
_TEXTS: TypeAdapter[list[str]] = TypeAdapter(list[str])


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: str | None
    """Give it as `cursor` for the page after this one; null: this was the last."""


class Paging(BaseModel):
    limit: int = _DEFAULT_LIMIT
    cursor: str | None = None


def paging(
    limit: Annotated[int, Query(ge=1, le=_MAX_LIMIT)] = _DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> Paging:
    return Paging(limit=limit, cursor=cursor)


Paged = Annotated[Paging, Depends(paging)]


async def read_page(
    connection: AsyncConnection,
    query: Select[Any],
    *,
    keys: Sequence[Column[Any]],
    paging: Paging,
    view: Callable[[Any], T],
) -> Page[T]:
    """One page of `query` in the order of `keys`: columns of text or UUIDs that together are unique."""
    if paging.cursor is not None:
        query = query.where(tuple_(*keys) > tuple_(*_decode(paging.cursor, keys)))
    rows = (await connection.execute(query.order_by(*keys).limit(paging.limit + 1))).all()
    more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    after = _encode([str(getattr(rows[-1], key.name)) for key in keys]) if more else None
    return Page(items=[view(row) for row in rows], next=after)


def _encode(values: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode(cursor: str, keys: Sequence[Column[Any]]) -> list[Any]:
    try:
        texts = _TEXTS.validate_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if "\0" in "".join(texts):
            raise ValueError
        return [key.type.python_type(text) for key, text in zip(keys, texts, strict=True)]
    except ValueError as exc:
        raise invalid("cursor", "is not a cursor of this list") from exc
