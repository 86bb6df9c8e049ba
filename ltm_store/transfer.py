"""Many memories at once, and whole users: in and out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, nullcontext
from typing import Final, Literal, TypeVar

from pydantic import JsonValue, ValidationError
from pydantic_core import to_jsonable_python

from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_rows,
    fetch_value,
    session_of,
)
from ltm_store.db.identity import User, ensure_user, find_user
from ltm_store.db.transactions import Connection
from ltm_store.embeddings import exported_embeddings, write_embeddings
from ltm_store.errors import InvalidArgument, InvalidMemory, Unavailable
from ltm_store.memories import FORGOTTEN, insert_memory
from ltm_store.model.base import Arguments
from ltm_store.model.memories import Memory, NewMemory
from ltm_store.model.transfer import (
    IMPORT_KEY,
    ExportedMemory,
    ExportedRelationship,
    ExportRow,
    ImportReport,
    RefusedMemory,
    read_line,
)
from ltm_store.model.values import UserId, dump_json, moment

_PAGE: Final = 200  # memories read by one statement
_BEFORE_ALL: Final = -(2**63)
_RELATED_STRENGTH: Final = 0.5  # of a relationship that add_memory makes
_ADDED: Final = set(NewMemory.model_fields) - {"related_memory_ids", "parent_memory_id"}
_COPIED: Final = [
    name for name in ExportedMemory.model_fields if name in ExportRow.model_fields and name != "id"
]

Given = Mapping[str, object]
Numbered = tuple[int, ExportedMemory | Given]
"""A line of a file with its number."""
One = TypeVar("One")


async def _each(memories: Iterable[One] | AsyncIterable[One]) -> AsyncIterator[One]:
    if isinstance(memories, AsyncIterable):
        async for memory in memories:
            yield memory
    else:
        for memory in memories:
            yield memory


async def add_memories(
    db: Executor,
    user_id: UserId,
    memories: Iterable[NewMemory | Given] | AsyncIterable[NewMemory | Given],
    *,
    on_error: Literal["raise", "skip"] = "raise",
) -> ImportReport:
    """Add memories in one transaction; each is a NewMemory or a dict of add_memory's keywords.

    memories: an iterable or an asynchronous one; read one by one, so it may be long. Where others
    write in between so that the server undoes it, a list or tuple is added again.
    on_error: with "raise", the default, the first refused memory undoes all: InvalidMemory, whose
    field begins with its place, "memories[3].tags". With "skip" it is left out and told of in the
    report. The timeout of a Database holds for each statement, not for the whole.
    """
    if on_error not in ("raise", "skip"):
        raise InvalidArgument("on_error", 'should be "raise" or "skip"')
    user = await ensure_user(db, user_id, refresh=True)
    return await _in_locked_transaction(
        db, user, memories, lambda connection: _add_all(connection, user, memories, on_error)
    )


async def _in_locked_transaction(
    db: Executor, user: User, given: object, work: Callable[[Connection], Awaitable[ImportReport]]
) -> ImportReport:
    """Do it in one transaction, while others wait who add many memories of this user.

    Where the server undoes it, it is done again if what is given can be gone through again.
    """

    async def locked(connection: Connection) -> ImportReport:
        await fetch_value(connection, "lock_user", user_id=user.number)
        return await work(connection)

    session = session_of(db)
    if isinstance(given, Sequence):
        report = await session.in_transaction(locked, unbounded=True)
    else:
        async with session.transaction(unbounded=True) as connection:
            report = await locked(connection)
    session.note_contents(user.number, None)
    return report


async def _add_all(
    connection: Connection,
    user: User,
    memories: Iterable[NewMemory | Given] | AsyncIterable[NewMemory | Given],
    on_error: Literal["raise", "skip"],
) -> ImportReport:
    created = existing = related = index = 0
    refused: list[RefusedMemory] = []
    async for given in _each(memories):
        try:
            new = given if isinstance(given, NewMemory) else NewMemory.checked(given)
            async with connection.transaction() if on_error == "skip" else nullcontext():
                memory = await _stored(connection, user, new)
        except InvalidMemory as error:
            if on_error == "raise":
                field = f"memories[{index}].{error.field}"
                raise InvalidMemory(field, error.rule) from None
            refused.append(RefusedMemory(index=index, field=error.field, rule=error.rule))
        else:
            fresh = memory.outcome == "created"
            created += fresh
            existing += not fresh
            related += len(new.related_memory_ids) if fresh else 0
        index += 1
    return ImportReport(
        created=created, existing=existing, relationships=related, refused=tuple(refused)
    )


async def export_user(
    db: Executor, user_id: UserId, *, with_embeddings: bool = False
) -> AsyncIterator[dict[str, JsonValue]]:
    """Everything that is stored of a user's memories, a dict a memory, oldest id first.

    Each dict is a line of JSON Lines that import_user takes: the keywords of add_memory, an `id` of
    its own that the other lines' relationships speak of, and what happened since. What has the
    default is left out, and so are memories that have expired. It all is of one moment: a Database
    or a pool lends a connection until the end, a connection of yours should be in a REPEATABLE READ
    transaction. with_embeddings: with the vectors, which are long; without, they are made anew
    where there is an embedder.
    """
    user = await find_user(db, user_id)
    if user is None:
        return
    now = moment(None)
    async with session_of(db).one_snapshot() as connection:
        ids: list[int] = await fetch_value(
            connection, "exported_ids", user_id=user.number, as_of=now
        )
        after = _BEFORE_ALL
        while ids and after < ids[-1]:
            page = await fetch_many(
                connection,
                "export_memories",
                ExportRow,
                user_id=user.number,
                after_id=after,
                as_of=now,
                row_limit=_PAGE,
            )
            if not page:
                return
            vectors: Mapping[int, Mapping[str, object]] = {}
            if with_embeddings:
                numbers = [row.id for row in page]
                vectors = await exported_embeddings(connection, user.number, numbers)
            for row in page:
                yield _line(row, ids, vectors.get(row.id, {}))
            after = page[-1].id


async def _stored(connection: Connection, user: User, new: NewMemory) -> Memory:
    memory = await insert_memory(connection, user, new)
    if memory is None:
        raise Unavailable(FORGOTTEN)
    return memory


def _place(ids: list[int], memory_id: int | None) -> int | None:
    """The line of a memory, from 1; None when it is not exported."""
    if memory_id is None:
        return None
    index = bisect_left(ids, memory_id)
    return index + 1 if index < len(ids) and ids[index] == memory_id else None


def _line(row: ExportRow, ids: list[int], embeddings: Mapping[str, object]) -> dict[str, JsonValue]:
    related = {outgoing.target_memory_id for outgoing in row.outgoing}
    key = row.idempotency_key
    values: dict[str, object] = {
        "id": _place(ids, row.id),
        "content": row.content,
        **{name: getattr(row, name) for name in _COPIED},
        "idempotency_key": None if key and key.startswith(IMPORT_KEY) else key,
        "enhanced_context": row.enhanced_context and row.enhanced_context.stored(),
        "parent_memory_id": _place(ids, row.parent_memory_id),
        "related_memory_ids": tuple(
            place
            for target in row.related_memory_ids
            if target not in related and (place := _place(ids, target))
        ),
        "relationships": tuple(
            outgoing.model_copy(update={"target_memory_id": place})
            for outgoing in row.outgoing
            if (place := _place(ids, outgoing.target_memory_id))
        ),
        "embeddings": embeddings,
    }
    values["adopted"] = not _can_be_added(values)
    defaults = ExportedMemory.model_fields
    return {
        name: to_jsonable_python(value, exclude_none=True)
        for name, value in values.items()
        if value != defaults[name].default
    }


def _can_be_added(values: Given) -> bool:
    """Whether add_memory takes a line's values, and as they are."""
    try:
        line = NewMemory.model_validate(
            {name: values[name] for name in NewMemory.model_fields if name in values}
        )
    except ValidationError:
        return False
    return (line.tags, line.metadata) == (values["tags"], values["metadata"])


async def import_user(
    db: Executor,
    user_id: UserId,
    lines: Iterable[ExportedMemory | Given] | AsyncIterable[ExportedMemory | Given],
) -> ImportReport:
    """Store the lines of an export, or of a file in its format, as memories of this user.

    They come beside what the user has, under new ids, all or nothing. A line whose idempotency_key
    the user has used is passed over. What add_memory refuses is refused, unless the line says
    `adopted`, as an export does of what an older program has left. Where others write in between
    so that the server undoes it, a list or tuple is stored again. Raises InvalidMemory naming the
    line and the field.
    """

    if isinstance(lines, Sequence):
        return await import_numbered(db, user_id, list(enumerate(lines, 1)))

    async def numbered() -> AsyncIterator[Numbered]:
        number = 0
        async for line in _each(lines):
            number += 1
            yield number, line

    return await import_numbered(db, user_id, numbered())


async def import_numbered(
    db: Executor,
    user_id: UserId,
    lines: Sequence[Numbered] | AsyncIterable[Numbered],
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> ImportReport:
    """What import_user does, for lines with the numbers that errors name them by.

    progress: is told how many lines were read.
    """
    user = await ensure_user(db, user_id, refresh=True)
    return await _in_locked_transaction(
        db, user, lines, lambda connection: _import_all(connection, user, lines, progress)
    )


async def _import_all(
    connection: Connection,
    user: User,
    lines: Iterable[Numbered] | AsyncIterable[Numbered],
    progress: Callable[[int], None],
) -> ImportReport:
    created = existing = related = 0
    ids: dict[int, int] = {}
    detailed: list[tuple[int, int, ExportedMemory]] = []
    async for number, given in _each(lines):
        with _told_of_line(number):
            line = given if isinstance(given, ExportedMemory) else _read(given)
            if line.id in ids:
                raise InvalidMemory("id", "another line has it")
            alone = line.model_copy(update={"related_memory_ids": (), "parent_memory_id": None})
            memory = await _stored(connection, user, alone)
        if line.id is not None:
            ids[line.id] = memory.id
        fresh = memory.outcome == "created"
        created += fresh
        existing += not fresh
        progress(created + existing)
        if fresh and line.model_fields_set - _ADDED - {"id", "adopted"}:
            detailed.append((number, memory.id, line))
    for number, memory_id, line in detailed:
        with _told_of_line(number):
            related += await _import_details(connection, user, memory_id, line, ids)
    return ImportReport(created=created, existing=existing, relationships=related)


def _read(given: Given) -> ExportedMemory:
    line = read_line(given)
    if isinstance(line, ExportedMemory):
        return line
    raise InvalidMemory(*line[0])


@contextmanager
def _told_of_line(number: int) -> Iterator[None]:
    try:
        yield
    except InvalidMemory as error:
        raise InvalidMemory(f"line {number}, {error.field}", error.rule) from None


async def _import_details(
    connection: Connection,
    user: User,
    memory_id: int,
    line: ExportedMemory,
    ids: dict[int, int],
) -> int:
    """Write what a line says beyond an add; return how many relationships it has."""
    for field, target in line.references():
        if target not in ids:
            raise InvalidMemory(field, f"no line has the id {target}")
        if ids[target] == memory_id:
            raise InvalidMemory(field, "should be another memory")
    relationships = [
        ExportedRelationship(target_memory_id=ids[target], strength=_RELATED_STRENGTH)
        for target in line.related_memory_ids
    ]
    relationships += [
        known.model_copy(update={"target_memory_id": ids[known.target_memory_id]})
        for known in line.relationships
    ]
    parent = line.parent_memory_id
    await fetch_rows(
        connection,
        "import_details",
        user_id=user.number,
        memory_id=memory_id,
        parent_memory_id=None if parent is None else ids[parent],
        related_memory_ids=list(dict.fromkeys(r.target_memory_id for r in relationships)) or None,
        version=line.version,
        access_count=line.access_count,
        last_accessed=line.last_accessed,
        last_access_context=line.last_access_context,
        last_modified=line.last_modified,
        is_archived=line.is_archived,
        archive_reason=line.archive_reason,
        relationships=_as_json(relationships),
        accesses=_as_json(line.accesses),
        tag_details=_as_json(line.tag_details),
        now=moment(None),
    )
    for model, vectors in line.embeddings.items():
        await write_embeddings(connection, model, user.number, [(memory_id, None, vectors)])
    return len(relationships)


def _as_json(rows: Iterable[Arguments]) -> str:
    return dump_json([row.model_dump(mode="json") for row in rows])
