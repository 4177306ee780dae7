"""The outbox: a notice is written in the transaction of what it tells of, and delivered by whoever finds it."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.notices import Notice
from migrations.schema import notices


async def append(connection: AsyncConnection, notice: Notice) -> None:
    """Once for each id."""
    statement = insert(notices).values(
        id=notice.id, kind=notice.kind, tenant=notice.tenant, event=notice.to_json().decode()
    )
    await connection.execute(statement.on_conflict_do_nothing(index_elements=[notices.c.id]))
