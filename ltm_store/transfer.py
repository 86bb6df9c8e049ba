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
from typing import Final, Literal, TypeVar, cast

from pydantic import JsonValue, ValidationError
from pydantic_core import to_jsonable_python

from ltm_store.bulk import Batches, Draft, copy_links, related_to, write_vectors
from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_rows,
    fetch_value,
    session_of,
)
from ltm_store.db.identity import User, ensure_user, find_user
from ltm_store.db.transactions import Connection, begun
from ltm_store.db.vectors import model_of
from ltm_store.embeddings import exported_embeddings
from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.base import Arguments
from ltm_store.model.memories import Memory, NewMemory
from ltm_store.model.transfer import (
    IMPORT_KEY,
    ExportedMemory,
    ImportReport,
    RefusedMemory,
    read_line,
)
from ltm_store.model.values import UserId, dump_json, moment

_PAGE: Final = 200  # memories read by one statement
_BEFORE_ALL: Final = -(2**63)
_ADDED: Final = set(NewMemory.model_fields) - {"related_memory_ids", "parent_memory_id"}
_COPIED: Final = [
    name for name in ExportedMemory.model_fields if name in Memory.model_fields and name != "id"
]
_DETAILS: Final = {  # the statement that gives each
    "relationships": "export_relationships",
    "accesses": "export_accesses",
    "tag_details": "export_tags",
}
Details = Mapping[str, list[dict[str, object]]]
"""What hangs on a memory, as an export says it."""

Given = Mapping[str, object]
Numbered = tuple[int, ExportedMemory | Given]
"""A line of a file with its number."""
One = TypeVar("One")


def _check_iterable(value: object, field: str) -> None:
    if not isinstance(value, Iterable | AsyncIterable) or isinstance(value, str | bytes | Mapping):
        raise InvalidArgument(field, "should be a list, or another iterable of memories")


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
    _check_iterable(memories, "memories")
    user = await ensure_user(db, user_id, refresh=True)
    return await _in_locked_transaction(
        db, user, memories, lambda connection: _add_all(db, connection, user, memories, on_error)
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
    db: Executor,
    connection: Connection,
    user: User,
    memories: Iterable[NewMemory | Given] | AsyncIterable[NewMemory | Given],
    on_error: Literal["raise", "skip"],
) -> ImportReport:
    adding = _Adding(connection, user, on_error)
    index = 0
    async for given in _each(memories):
        try:
            new = given if isinstance(given, NewMemory) else NewMemory.checked(given)
            draft = Draft(index, _of_a_model(db, new))
        except InvalidMemory as error:
            if on_error == "raise":
                await adding.write()  # of which one may be refused that stands before this one
            adding.refuse(index, error)
        else:
            await adding.take(draft)
        index += 1
    await adding.write()
    refused = sorted(adding.refused, key=lambda one: one.index)
    return adding.report().model_copy(update={"refused": tuple(refused)})


def _of_a_model(db: Executor, new: NewMemory) -> NewMemory:
    """The memory, with the model that its vector is of."""
    if new.embedding is None:
        return new
    model = model_of(db, new.embedding, new.embedding_model, "embedding")
    return new.model_copy(update={"embedding_model": model})


class _Adding(Batches):
    """What add_memories does."""

    def __init__(
        self, connection: Connection, user: User, on_error: Literal["raise", "skip"]
    ) -> None:
        super().__init__(connection, user)
        self._on_error = on_error
        self.refused: list[RefusedMemory] = []

    def refuse(self, index: int, error: InvalidMemory) -> None:
        """Leave a memory out, or raise the error with its place."""
        if self._on_error == "raise":
            raise InvalidMemory(f"memories[{index}].{error.field}", error.rule) from None
        self.refused.append(RefusedMemory(index=index, field=error.field, rule=error.rule))

    def link(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            draft.parent_memory_id = draft.new.parent_memory_id
            draft.links = [related_to(target) for target in draft.new.related_memory_ids]

    async def add_alone(self, draft: Draft) -> None:
        skips = self._on_error == "skip"
        try:
            async with begun(self.connection) if skips else nullcontext():
                await draft.add(self.connection, self.user, draft.new)
        except InvalidMemory as error:
            self.refuse(draft.place, error)
        else:
            self.count(draft)


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
                Memory,
                user_id=user.number,
                after_id=after,
                as_of=now,
                row_limit=_PAGE,
            )
            if not page:
                return
            numbers = [memory.id for memory in page]
            details = await _details(connection, user, numbers)
            vectors: Mapping[int, Mapping[str, object]] = {}
            if with_embeddings:
                vectors = await exported_embeddings(connection, user.number, numbers)
            for memory in page:
                yield _line(memory, ids, details[memory.id], vectors.get(memory.id, {}))
            after = numbers[-1]


async def _details(connection: Connection, user: User, ids: list[int]) -> dict[int, Details]:
    found: dict[int, Details] = {number: {name: [] for name in _DETAILS} for number in ids}
    for name, statement in _DETAILS.items():
        rows = await fetch_rows(connection, statement, user_id=user.number, memory_ids=ids)
        for row in rows:
            said = {column: value for column, value in row.items() if value is not None}
            found[said.pop("memory_id")][name].append(said)
    return found


def _place(ids: list[int], memory_id: int | None) -> int | None:
    """The line of a memory, from 1; None when it is not exported."""
    if memory_id is None:
        return None
    index = bisect_left(ids, memory_id)
    return index + 1 if index < len(ids) and ids[index] == memory_id else None


def _line(
    memory: Memory, ids: list[int], details: Details, embeddings: Mapping[str, object]
) -> dict[str, JsonValue]:
    related = {link["target_memory_id"] for link in details["relationships"]}
    key = memory.idempotency_key
    values: dict[str, object] = {
        "id": _place(ids, memory.id),
        "content": memory.content,
        **{name: getattr(memory, name) for name in _COPIED},
        **{name: tuple(found) for name, found in details.items()},
        "idempotency_key": None if key and key.startswith(IMPORT_KEY) else key,
        "enhanced_context": memory.enhanced_context and memory.enhanced_context.stored(),
        "parent_memory_id": _place(ids, memory.parent_memory_id),
        "related_memory_ids": tuple(
            place
            for target in memory.related_memory_ids
            if target not in related and (place := _place(ids, target))
        ),
        "relationships": tuple(
            {**link, "target_memory_id": place}
            for link in details["relationships"]
            if (place := _place(ids, cast("int", link["target_memory_id"])))
        ),
        "embeddings": embeddings,
    }
    values["adopted"] = not _can_be_added(values)
    defaults = ExportedMemory.model_fields
    said = {name: value for name, value in values.items() if value != defaults[name].default}
    return cast("dict[str, JsonValue]", to_jsonable_python(said))


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
    _check_iterable(lines, "lines")
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
    importing = _Importing(connection, user)
    async for number, given in _each(lines):
        try:
            with _told_of_line(number):
                draft = importing.draft(number, given)
        except InvalidMemory:
            await importing.write()  # of which one may be refused that stands before this one
            raise
        await importing.take(draft)
        progress(importing.written)
    await importing.write()
    progress(importing.written)
    await importing.finish()
    return importing.report()


class _Importing(Batches):
    """What import_user does."""

    def __init__(self, connection: Connection, user: User) -> None:
        super().__init__(connection, user)
        self._seen: set[int] = set()
        self._ids: dict[int, int] = {}  # of the memories that lines have become
        self._unfinished: list[Draft] = []  # what they say beyond an add, or of others, is missing

    def draft(self, number: int, given: ExportedMemory | Given) -> Draft:
        """A line that is checked."""
        line = given if isinstance(given, ExportedMemory) else _read(given)
        if line.id is not None:
            if line.id in self._seen:
                raise InvalidMemory("id", "another line has it")
            self._seen.add(line.id)
        return Draft(number, line, line)

    def link(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            self._remember(draft)
        for draft in drafts:
            if draft.is_new and self._dangling(draft) is None:
                self._link(draft)

    async def add_alone(self, draft: Draft) -> None:
        bare = draft.new.model_copy(update={"related_memory_ids": (), "parent_memory_id": None})
        with _told_of_line(draft.place):
            await draft.add(self.connection, self.user, bare)
        self._remember(draft)
        self.count(draft)

    def count(self, draft: Draft) -> None:
        super().count(draft)
        line = _line_of(draft)
        if draft.is_copied:
            is_finished = draft.is_linked or not any(line.references())
        else:
            is_finished = not line.model_fields_set - _ADDED - {"id", "adopted"}
        if draft.is_new and not is_finished:
            self._unfinished.append(draft)

    async def finish(self) -> None:
        """Write what is missing of lines that are there, in their order."""
        late = self._unfinished
        are_copied = all(draft.is_copied for draft in late)
        if are_copied and await self._are_linked(late):
            return
        for draft in late:
            with _told_of_line(draft.place):
                await self._finish(draft)

    async def _are_linked(self, late: list[Draft]) -> bool:
        """Whether lines that speak of others further down are linked to them now, all at once."""
        if not late:
            return True
        if any(map(self._dangling, late)):
            return False
        now = moment(None)
        try:
            async with begun(self.connection):
                for draft in late:
                    self._link(draft)
                await copy_links(self.connection, self.user, late, now)
                await fetch_rows(
                    self.connection,
                    "link_memories",
                    user_id=self.user.number,
                    memory_ids=[draft.memory_id for draft in late],
                    parent_memory_ids=[draft.parent_memory_id for draft in late],
                    related_lists=[draft.related_memory_ids for draft in late],
                )
        except InvalidMemory:
            return False
        return True

    async def _finish(self, draft: Draft) -> None:
        """Write what a line says beyond an add."""
        if refusal := self._dangling(draft):
            raise refusal
        now = moment(None)
        self._link(draft)
        line = _line_of(draft)
        await fetch_rows(
            self.connection,
            "import_details",
            user_id=self.user.number,
            memory_id=draft.memory_id,
            parent_memory_id=draft.parent_memory_id,
            related_memory_ids=draft.targets or None,
            version=line.version,
            access_count=line.access_count,
            last_accessed=line.last_accessed,
            last_access_context=line.last_access_context,
            last_modified=line.last_modified,
            is_archived=line.is_archived,
            archive_reason=line.archive_reason,
            relationships=_as_json(draft.links),
            accesses=_as_json(() if draft.is_copied else line.accesses),
            tag_details=_as_json(() if draft.is_copied else line.tag_details),
            now=now,
        )
        if line.embeddings and not draft.is_copied:
            await write_vectors(self.connection, self.user, [draft])

    def _remember(self, draft: Draft) -> None:
        if (line_id := _line_of(draft).id) is not None:
            self._ids[line_id] = draft.memory_id

    def _dangling(self, draft: Draft) -> InvalidMemory | None:
        """What is wrong with what it says of other lines, as far as these are known."""
        for field, target in _line_of(draft).references():
            if target not in self._ids:
                return InvalidMemory(field, f"no line has the id {target}")
            if self._ids[target] == draft.memory_id:
                return InvalidMemory(field, "should be another memory")
        return None

    def _link(self, draft: Draft) -> None:
        line = _line_of(draft)
        parent = line.parent_memory_id
        draft.parent_memory_id = None if parent is None else self._ids[parent]
        draft.links = [related_to(self._ids[target]) for target in line.related_memory_ids]
        draft.links += [
            known.model_copy(update={"target_memory_id": self._ids[known.target_memory_id]})
            for known in line.relationships
        ]
        draft.is_linked = True


def _line_of(draft: Draft) -> ExportedMemory:
    if draft.line is None:
        raise AssertionError("what is imported are lines")
    return draft.line


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


def _as_json(rows: Iterable[Arguments]) -> str:
    return dump_json([row.model_dump(mode="json") for row in rows])
