"""A program like the original one: SQLAlchemy over the same tables, all columns, explicit NULLs."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    String,
    Text,
    make_url,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The program's models."""


class LTMMemory(Base):
    """Columns in the types that the program believes them to have."""

    __tablename__ = "ltm_memories"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[int] = mapped_column(Integer)
    content: Mapped[str] = mapped_column(Text)
    tags: Mapped[Any] = mapped_column(JSON)
    memory_type: Mapped[str | None] = mapped_column(String(50))
    category: Mapped[str | None] = mapped_column(String(100))
    importance_score: Mapped[int | None] = mapped_column(Integer)
    confidence_score: Mapped[float | None] = mapped_column(Float)
    dynamic_importance: Mapped[float | None] = mapped_column(Float)
    context: Mapped[str | None] = mapped_column(Text)
    context_data: Mapped[Any] = mapped_column(JSON)
    source_type: Mapped[str | None] = mapped_column(String(50))
    source_id: Mapped[str | None] = mapped_column(String(100))
    created_by: Mapped[str | None] = mapped_column(String(50))
    created_at: Mapped[datetime | None] = mapped_column(DateTime)
    last_accessed: Mapped[datetime | None] = mapped_column(DateTime)
    last_modified: Mapped[datetime | None] = mapped_column(DateTime)
    access_count: Mapped[int | None] = mapped_column(Integer)
    last_access_context: Mapped[str | None] = mapped_column(Text)
    related_memory_ids: Mapped[Any] = mapped_column(JSON)
    parent_memory_id: Mapped[int | None] = mapped_column(ForeignKey("ltm_memories.id"))
    memory_metadata: Mapped[Any] = mapped_column(JSON)
    is_archived: Mapped[bool | None] = mapped_column(Boolean)
    archive_reason: Mapped[str | None] = mapped_column(Text)


class LTMMemoryTag(Base):
    """One tag; the program knows no user here."""

    __tablename__ = "ltm_memory_tags"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    memory_id: Mapped[int] = mapped_column(Integer)
    tag_name: Mapped[str] = mapped_column(String(100))


class LTMMemoryRelationship(Base):
    """One relationship."""

    __tablename__ = "ltm_memory_relationships"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    source_memory_id: Mapped[int] = mapped_column(Integer)
    target_memory_id: Mapped[int] = mapped_column(Integer)
    relationship_type: Mapped[str] = mapped_column(String(50))
    strength: Mapped[float | None] = mapped_column(Float)


NULLS = {
    column.name: None
    for column in LTMMemory.__table__.columns
    if column.name not in ("id", "user_id", "content", "tags")
}


DETAILS = (
    "SELECT * FROM ltm_contexts WHERE memory_id = :id",
    "SELECT * FROM ltm_memory_tags WHERE memory_id = :id",
    "SELECT * FROM ltm_memory_access WHERE memory_id = :id ORDER BY access_timestamp DESC LIMIT 10",
    "SELECT * FROM ltm_memory_relationships WHERE source_memory_id = :id OR target_memory_id = :id",
)


class OldProgram:
    """What the program does with memories, of user 1 unless told, through pooled connections."""

    def __init__(self, dsn: str, statements_kept: int = 0) -> None:
        url = make_url(dsn).set(drivername="postgresql+asyncpg")
        self.engine = create_async_engine(
            url.update_query_dict({"prepared_statement_cache_size": str(statements_kept)})
        )

    async def add(
        self, content: str, tags: list[str], related: list[int] | None = None, **columns: object
    ) -> int:
        """Store a memory, then its tags and relationships, each in a transaction of its own."""
        given = {**NULLS, **columns, "related_memory_ids": related}
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            memory = LTMMemory(user_id=1, content=content, tags=tags, **given)
            session.add(memory)
            await session.commit()
            id_ = memory.id
            session.add_all(LTMMemoryTag(memory_id=id_, tag_name=tag) for tag in tags)
            await session.commit()
            session.add_all(
                LTMMemoryRelationship(
                    source_memory_id=id_,
                    target_memory_id=r,
                    relationship_type="related",
                    strength=0.5,
                )
                for r in related or ()
            )
            await session.commit()
        return id_

    async def get(self, id_: int, user: int = 1) -> dict[str, Any]:
        """Every column of a memory of a user, or nothing."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            query = select(LTMMemory).where(LTMMemory.user_id == user, LTMMemory.id == id_)
            memory = (await session.execute(query)).scalar_one_or_none()
            if memory is None:
                return {}
            return {c.name: getattr(memory, c.name) for c in LTMMemory.__table__.columns}

    async def details(self, id_: int) -> int:
        """How many details a memory has, found by its id alone."""
        async with AsyncSession(self.engine) as session:
            found = [(await session.execute(text(query), {"id": id_})).all() for query in DETAILS]
        return sum(map(len, found))

    async def remove_details(self, id_: int) -> None:
        """Delete the contexts and, one by one, the tags of a memory."""
        async with AsyncSession(self.engine) as session:
            await session.execute(
                text("DELETE FROM ltm_contexts WHERE memory_id = :id"), {"id": id_}
            )
            query = select(LTMMemoryTag).where(LTMMemoryTag.memory_id == id_)
            for tag in (await session.execute(query)).scalars():
                await session.delete(tag)
            await session.commit()

    async def touch(self, id_: int, **columns: object) -> None:
        """Change columns of a memory, found by its primary key alone."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            memory = await session.get_one(LTMMemory, id_)
            for name, value in columns.items():
                setattr(memory, name, value)
            memory.last_accessed = datetime(2026, 1, 1)
            await session.commit()

    async def remove(self, id_: int) -> None:
        """Delete a memory by its primary key."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            await session.delete(await session.get_one(LTMMemory, id_))
            await session.commit()

    async def close(self) -> None:
        """Close the pool."""
        await self.engine.dispose()
