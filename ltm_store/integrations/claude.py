"""The backend of Anthropic's memory tool (extra `anthropic`): its files are memories.

A file below /memories is a memory of the namespace "memories" whose key is the path, so that
searches, tags and importance work on it. A folder is there while there is a file in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote
from uuid import UUID

from anthropic.lib.tools import (
    BetaAbstractMemoryTool,
    BetaAsyncAbstractMemoryTool,
    BetaFunctionToolResultType,
    ToolError,
)
from anthropic.types.beta import (
    BetaMemoryTool20250818CreateCommand,
    BetaMemoryTool20250818DeleteCommand,
    BetaMemoryTool20250818InsertCommand,
    BetaMemoryTool20250818RenameCommand,
    BetaMemoryTool20250818StrReplaceCommand,
    BetaMemoryTool20250818ViewCommand,
)

from ltm_store import (
    Conflict,
    Database,
    InvalidArgument,
    LtmError,
    Memory,
    add_memory,
    delete_by_key,
    get_by_key,
    iterate_memories,
    rename_key,
    sync,
    update_memory,
)

NAMESPACE: Final = "memories"
ROOT: Final = "/memories"
LINES: Final = 999_999  # of a file that is viewed
NUMBER_WIDTH: Final = 6
SNIPPET_LINES: Final = 2  # around a change
DEPTH: Final = 2  # of a folder's listing
ATTEMPTS: Final = 20  # of an edit, where others edit in between
UNITS: Final = "BKMG"

UserId = int | str | UUID
Given = TypeVar("Given")


class MemoryTool(BetaAsyncAbstractMemoryTool):
    """The memory tool of one user, for the asynchronous client."""

    def __init__(self, db: Database, user_id: UserId) -> None:
        super().__init__()
        self._db = db
        self._user_id = user_id

    async def view(self, command: BetaMemoryTool20250818ViewCommand) -> BetaFunctionToolResultType:
        """The lines of a file, numbered, or what is in a folder, two levels deep."""
        return await _told(self._db, _view, self._user_id, command)

    async def create(
        self, command: BetaMemoryTool20250818CreateCommand
    ) -> BetaFunctionToolResultType:
        """Make a file that is not there yet."""
        return await _told(self._db, _create, self._user_id, command)

    async def str_replace(
        self, command: BetaMemoryTool20250818StrReplaceCommand
    ) -> BetaFunctionToolResultType:
        """Replace a text that stands exactly once in a file."""
        return await _told(self._db, _str_replace, self._user_id, command)

    async def insert(
        self, command: BetaMemoryTool20250818InsertCommand
    ) -> BetaFunctionToolResultType:
        """Insert text behind a line of a file; 0 is its beginning."""
        return await _told(self._db, _insert, self._user_id, command)

    async def delete(
        self, command: BetaMemoryTool20250818DeleteCommand
    ) -> BetaFunctionToolResultType:
        """Delete a file, or a folder with all that is in it."""
        return await _told(self._db, _delete, self._user_id, command)

    async def rename(
        self, command: BetaMemoryTool20250818RenameCommand
    ) -> BetaFunctionToolResultType:
        """Give a file or a folder another path, which nothing has yet."""
        return await _told(self._db, _rename, self._user_id, command)

    async def clear_all_memory(self) -> BetaFunctionToolResultType:
        """Delete all files."""
        return await _told(self._db, _clear, self._user_id, None)


class SyncMemoryTool(BetaAbstractMemoryTool):
    """The same for the blocking client, on a Database of ltm_store.sync."""

    def __init__(self, db: sync.Database, user_id: UserId) -> None:
        super().__init__()
        self._db = db
        self._user_id = user_id

    def view(self, command: BetaMemoryTool20250818ViewCommand) -> BetaFunctionToolResultType:
        """The lines of a file, numbered, or what is in a folder, two levels deep."""
        return self._db.run(_told, _view, self._user_id, command)

    def create(self, command: BetaMemoryTool20250818CreateCommand) -> BetaFunctionToolResultType:
        """Make a file that is not there yet."""
        return self._db.run(_told, _create, self._user_id, command)

    def str_replace(
        self, command: BetaMemoryTool20250818StrReplaceCommand
    ) -> BetaFunctionToolResultType:
        """Replace a text that stands exactly once in a file."""
        return self._db.run(_told, _str_replace, self._user_id, command)

    def insert(self, command: BetaMemoryTool20250818InsertCommand) -> BetaFunctionToolResultType:
        """Insert text behind a line of a file; 0 is its beginning."""
        return self._db.run(_told, _insert, self._user_id, command)

    def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> BetaFunctionToolResultType:
        """Delete a file, or a folder with all that is in it."""
        return self._db.run(_told, _delete, self._user_id, command)

    def rename(self, command: BetaMemoryTool20250818RenameCommand) -> BetaFunctionToolResultType:
        """Give a file or a folder another path, which nothing has yet."""
        return self._db.run(_told, _rename, self._user_id, command)

    def clear_all_memory(self) -> BetaFunctionToolResultType:
        """Delete all files."""
        return self._db.run(_told, _clear, self._user_id, None)


async def _told(
    db: Database,
    work: Callable[[Database, UserId, Given], Awaitable[str]],
    user_id: UserId,
    command: Given,
) -> str:
    """What a command answers; whatever goes wrong is told to the model as a ToolError."""
    try:
        return await work(db, user_id, command)
    except InvalidArgument as error:
        raise ToolError(f"Error: {error.field} {error.rule}") from None
    except LtmError:
        raise ToolError("Error: The memory store is not available now.") from None


class _Path(NamedTuple):
    """A path as the model wrote it, and the key that stands for it; "" is the root."""

    told: str
    key: str

    @property
    def inside(self) -> str:
        """The beginning of the keys of what is in it, if it is a folder."""
        return f"{self.key}/" if self.key else ""


def _path(path: object) -> _Path:
    """Raises ToolError for one that leads out of /memories, in whatever disguise."""
    if not isinstance(path, str):
        raise ToolError("Error: A path should be text.")
    if path.rstrip("/") == ROOT:
        return _Path(ROOT, "")
    key = path.removeprefix(f"{ROOT}/").removesuffix("/")
    if not path.startswith(f"{ROOT}/") or not all(map(_is_name, key.split("/"))):
        raise ToolError(f"Error: A path should lead to a file or a folder below {ROOT}.")
    return _Path(f"{ROOT}/{key}", key)


def _is_name(name: str) -> bool:
    """Whether it names a file, also where somebody takes it for encoded."""
    for _ in range(3):
        if name in ("", ".", "..") or any(letter in name for letter in "/\\\0"):
            return False
        name = unquote(name)
    return True


def _text(text: object, name: str) -> str:
    if not isinstance(text, str):
        raise ToolError(f"Error: {name} should be text.")
    return text


async def _files(db: Database, user_id: UserId, beginning: str = "") -> dict[str, int]:
    """The bytes of each file whose key begins so, by its key."""
    found = iterate_memories(
        db,
        user_id,
        namespace=NAMESPACE,
        key_prefix=beginning,
        include_archived=True,
        include_context=False,
    )
    return {memory.key or "": len(memory.content.encode()) async for memory in found}


async def _file(db: Database, user_id: UserId, path: _Path) -> Memory | None:
    if not path.key:
        return None
    return await get_by_key(db, user_id, path.key, namespace=NAMESPACE)


async def _existing(db: Database, user_id: UserId, path: _Path) -> Memory:
    memory = await _file(db, user_id, path)
    if memory is None:
        raise ToolError(f"Error: The path {path.told} does not exist. Please provide a valid path.")
    return memory


async def _view(db: Database, user_id: UserId, command: BetaMemoryTool20250818ViewCommand) -> str:
    path = _path(command.path)
    memory = await _file(db, user_id, path)
    if memory is not None:
        return _viewed(path, memory.content, command.view_range)
    files = await _files(db, user_id, path.inside)
    if path.key and not files:
        raise ToolError(f"The path {path.told} does not exist. Please provide a valid path.")
    return _listed(path, files)


def _viewed(path: _Path, content: str, view_range: object) -> str:
    lines = content.split("\n")
    if len(lines) > LINES:
        raise ToolError(f"File {path.told} exceeds maximum line limit of {LINES:,} lines.")
    first, last = _range(view_range, len(lines))
    shown = _numbered(lines[first - 1 : last], first)
    return f"Here's the content of {path.told} with line numbers:\n{shown}"


def _range(view_range: object, lines: int) -> tuple[int, int]:
    """The first and the last line of a range; -1 is the end of the file."""
    if view_range is None:
        return 1, lines
    match view_range:
        case [int(first), int(last)] if 1 <= first <= lines and (last == -1 or last >= first):
            return first, lines if last == -1 else min(last, lines)
    raise ToolError(
        f"Error: Invalid `view_range`: it should be two line numbers within [1, {lines}], "
        "the second one not before the first, or -1 for the end."
    )


def _numbered(lines: Iterable[str], first: int) -> str:
    return "\n".join(f"{n:>{NUMBER_WIDTH}}\t{line}" for n, line in enumerate(lines, first))


def _listed(path: _Path, files: Mapping[str, int]) -> str:
    """The files and folders of a folder with their sizes; hidden ones are left out."""
    sizes: dict[str, int] = {}
    for key, size in files.items():
        parts = key.removeprefix(path.inside).split("/")
        if any(part.startswith(".") or part == "node_modules" for part in parts):
            continue
        for depth in range(1, min(len(parts), DEPTH) + 1):
            name = "/".join(parts[:depth]) + ("/" if depth < len(parts) else "")
            sizes[name] = sizes.get(name, 0) + size
    rows = [f"{_size(sum(files.values()))}\t{path.told}"]
    rows += [f"{_size(sizes[name])}\t{path.told}/{name}" for name in sorted(sizes)]
    head = f"Here're the files and directories up to 2 levels deep in {path.told}"
    return f"{head}, excluding hidden items and node_modules:\n" + "\n".join(rows)


def _size(size: int) -> str:
    unit = min(max(size.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{size / 1024**unit:.1f}".removesuffix(".0") + UNITS[unit]


async def _create(
    db: Database, user_id: UserId, command: BetaMemoryTool20250818CreateCommand
) -> str:
    path, text = _path(command.path), _text(command.file_text, "file_text")
    taken = ToolError(f"Error: File {path.told} already exists")
    if not path.key:
        raise taken
    await _refuse_folder(db, user_id, path, taken)
    try:
        await add_memory(
            db, user_id, text, key=path.key, namespace=NAMESPACE, created_by="assistant"
        )
    except Conflict:
        raise taken from None
    try:
        await _refuse_folder(db, user_id, path, taken)  # made by another call meanwhile
    except ToolError:
        await delete_by_key(db, user_id, path.key, namespace=NAMESPACE)
        raise
    return f"File created successfully at: {path.told}"


async def _refuse_folder(db: Database, user_id: UserId, path: _Path, taken: ToolError) -> None:
    """Raise where a file with this path would also be a folder, or another file would be one."""
    files = await _files(db, user_id)
    if any(key.startswith(path.inside) for key in files):
        raise taken
    parts = path.key.split("/")
    for depth in range(1, len(parts)):
        if (parent := "/".join(parts[:depth])) in files:
            raise ToolError(f"Error: {ROOT}/{parent} is a file, and no folder.")


async def _edit(
    db: Database, user_id: UserId, path: _Path, change: Callable[[str], tuple[str, str]]
) -> str:
    """Change the content of a file as it is then; `change` gives the new one, and the answer."""
    for _ in range(ATTEMPTS):
        memory = await _existing(db, user_id, path)
        content, answer = change(memory.content)
        try:
            changed = await update_memory(
                db, user_id, memory.id, content=content, expected_version=memory.version
            )
        except Conflict:
            continue
        if changed is not None:
            return answer
    raise ToolError("Error: The file was changed by others each time. Please try again.")


async def _str_replace(
    db: Database, user_id: UserId, command: BetaMemoryTool20250818StrReplaceCommand
) -> str:
    path = _path(command.path)
    old, new = _text(command.old_str, "old_str"), _text(command.new_str or "", "new_str")
    if not old:
        raise ToolError("Error: No replacement was performed, old_str is empty.")

    def replaced(content: str) -> tuple[str, str]:
        places = [place for place in range(len(content)) if content.startswith(old, place)]
        if not places:
            raise ToolError(
                f"No replacement was performed, old_str `{old}` did not appear verbatim in "
                f"{path.told}."
            )
        if len(places) > 1:
            lines = ", ".join(str(content.count("\n", 0, place) + 1) for place in places)
            raise ToolError(
                f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines: "
                f"{lines}. Please ensure it is unique: it occurs {len(places)} times."
            )
        after = content[: places[0]] + new + content[places[0] + len(old) :]
        first = content.count("\n", 0, places[0])
        last = first + new.count("\n")
        begin = max(first - SNIPPET_LINES, 0)
        shown = _numbered(after.split("\n")[begin : last + SNIPPET_LINES + 1], begin + 1)
        told = "The memory file has been edited. Here is the snippet showing the change"
        return after, f"{told} (with line numbers):\n{shown}"

    return await _edit(db, user_id, path, replaced)


async def _insert(
    db: Database, user_id: UserId, command: BetaMemoryTool20250818InsertCommand
) -> str:
    path, text = _path(command.path), _text(command.insert_text, "insert_text")
    line = command.insert_line

    def inserted(content: str) -> tuple[str, str]:
        lines = content.removesuffix("\n").split("\n") if content else []
        if type(line) is not int or not 0 <= line <= len(lines):
            raise ToolError(
                "Error: Invalid `insert_line` parameter: it should be within the range of lines "
                f"of the file: [0, {len(lines)}]"
            )
        after = [*lines[:line], text.removesuffix("\n"), *lines[line:]]
        return "\n".join(after) + "\n", f"The file {path.told} has been edited."

    return await _edit(db, user_id, path, inserted)


async def _delete(
    db: Database, user_id: UserId, command: BetaMemoryTool20250818DeleteCommand
) -> str:
    path = _path(command.path)
    if not path.key:
        raise ToolError("Error: Cannot delete the /memories directory itself")
    if not await delete_by_key(
        db, user_id, path.key, namespace=NAMESPACE
    ) and not await _delete_all(db, user_id, path.inside):
        raise ToolError(f"Error: The path {path.told} does not exist")
    return f"Successfully deleted {path.told}"


async def _delete_all(db: Database, user_id: UserId, beginning: str) -> int:
    keys = sorted(await _files(db, user_id, beginning))
    async with db.transaction() as connection:
        for key in keys:
            await delete_by_key(connection, user_id, key, namespace=NAMESPACE)
    return len(keys)


async def _clear(db: Database, user_id: UserId, _: None) -> str:
    await _delete_all(db, user_id, "")
    return "All memory cleared"


async def _rename(
    db: Database, user_id: UserId, command: BetaMemoryTool20250818RenameCommand
) -> str:
    old, new = _path(command.old_path), _path(command.new_path)
    taken = ToolError(f"Error: The destination {new.told} already exists")
    if not old.key:
        raise ToolError("Error: Cannot rename the /memories directory itself")
    if new.key in ("", old.key):
        raise taken
    if new.key.startswith(old.inside):
        raise ToolError(f"Error: The destination {new.told} is inside of {old.told}")
    await _refuse_folder(db, user_id, new, taken)
    try:
        renamed = await rename_key(db, user_id, old.key, new.key, namespace=NAMESPACE)
        if not renamed:
            if await _file(db, user_id, new) is not None:
                raise taken
            renamed = await rename_key(
                db, user_id, old.inside, new.inside, namespace=NAMESPACE, prefix=True
            )
    except Conflict:
        raise taken from None
    if not renamed:
        raise ToolError(f"Error: The path {old.told} does not exist")
    return f"Successfully renamed {old.told} to {new.told}"
