"""The demo: an assistant's day with a year of one user's memories, on one screen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from textwrap import wrap
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from ltm_store import embedded
from ltm_store.accesses import record_access
from ltm_store.adding import add_memory
from ltm_store.cli.demo_tables import USER, has_vectors, import_demo, show_tables
from ltm_store.cli.display import console
from ltm_store.cli.frame import DsnOption, command, reading
from ltm_store.database import Database
from ltm_store.db import dsn as dsns
from ltm_store.db.resources import DEMO_MODEL, demo_vectors
from ltm_store.memories import get_memory
from ltm_store.model.memories import Memory
from ltm_store.model.search import MemoryHit
from ltm_store.render.prompts import format_for_prompt
from ltm_store.render.text import legible
from ltm_store.search import explain_search, search_memories

QUESTION: Final = "Does caffeine cause her pain?"
STRANGER: Final = "demo-tomas"
MISSED: Final = "flickering lights"
WIDTH: Final = 80
PROMPT_CHARS: Final = 280
ACCESSES: Final = 5
_LOOK: Final = (
    (f"ltm-store report --user {USER} --output livia.html", "all of it, on a page"),
    (f"ltm-store graph {{id}} --user {USER}", "what is around it"),
    ("ltm-store psql", "the tables and views"),
    ("ltm-store demo --full", "more, in long tables"),
    ("docs/quickstart.md", "your own assistant"),
)


@command("demo", "demo")
def demo(
    full: Annotated[bool, typer.Option("--full", help="Long tables of all that it does.")] = False,
    dsn: DsnOption = None,
) -> None:
    """Show an assistant's day, on a year of one user's memories that come with the package."""
    asyncio.run(_demo(dsn, console(), full))


async def _demo(dsn: str | None, out: Console, full: bool) -> None:
    async with reading(dsn) as db:  # only the accesses that the demo records are to be counted
        if full:
            await show_tables(db, out)
        else:
            await _Day(db, out).show(_place(dsn))


def _place(dsn: str | None) -> str:
    """Where the data lie."""
    if dsns.target(dsn) is None:
        return f"in {embedded.data_dir()}, a PostgreSQL of its own"
    return "in the database that you named"


class _Day:
    """A question, and all that becomes of it."""

    def __init__(self, db: Database, out: Console) -> None:
        self._db = db
        self._out = out
        self._vector: list[float] | None = None
        self._model: str | None = None

    async def _ask(self, user: str, *, limit: int = 10) -> list[MemoryHit]:
        return await search_memories(
            self._db,
            user,
            QUESTION,
            query_embedding=self._vector,
            embedding_model=self._model,
            limit=limit,
        )

    async def show(self, place: str) -> None:
        """Print it."""
        report = await import_demo(self._db, self._out)
        self._line(f"{report.created} memories of Livia's year. She asks her assistant:")
        self._line(f"  {QUESTION}", "bold")
        if await has_vectors(self._db):
            self._vector, self._model = demo_vectors()[0], DEMO_MODEL
        hits = await self._ask(USER, limit=3)
        self._recalled(hits)
        self._prompt(hits)
        await self._remembered()
        await self._others(hits)
        await self._importance(hits[0])
        self._farther(hits[0], place)

    def _line(self, text: str, style: str = "") -> None:
        """A text of ours; one that is too long goes on further in."""
        inner = " " * (len(text) - len(text.lstrip()) + 2)
        lines = wrap(
            text,
            WIDTH,
            subsequent_indent=inner,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for line in lines or [""]:
            self._out.print(Text(line, style=style), soft_wrap=True)

    def _head(self, text: str) -> None:
        self._line("")
        self._line(text, "bold cyan")

    def _recalled(self, hits: Sequence[MemoryHit]) -> None:
        self._head("Recalled for it, with the score and why")
        for hit in hits:
            self._line(f"  {hit.score:.2f}  {_said(hit)} ({_why(hit)})")

    def _prompt(self, hits: Sequence[MemoryHit]) -> None:
        self._head(f"What goes into the prompt, at most {PROMPT_CHARS} characters")
        for line in format_for_prompt(hits, max_chars=PROMPT_CHARS).splitlines():
            self._line(f"  {line}")

    async def _remembered(self) -> None:
        memory = await add_memory(
            self._db,
            USER,
            "Asked whether caffeine causes her pain.",
            memory_type="fact",
            tags=["caffeine", "health"],
            source_type="conversation",
        )
        self._head("Remembered afterwards")
        self._line(f"  {memory.id}: {_said(memory)} Tags: {', '.join(memory.tags)}.")

    async def _others(self, hits: Sequence[MemoryHit]) -> None:
        theirs = await self._ask(STRANGER)
        self._head("Tomas asks the same")
        self._line(f"  {len(theirs)} memories: what one user stores no other one can find.")
        (missed,) = await search_memories(self._db, USER, MISSED, limit=1)
        told = await explain_search(
            self._db,
            USER,
            QUESTION,
            missed.id,
            query_embedding=self._vector,
            embedding_model=self._model,
            limit=len(hits),
        )
        causes = {
            "query": "it has no word in common with the question",
            "limit": f"it is number {told.rank}, and {len(hits)} were asked for",
        }
        reasons = ", ".join(causes.get(cause, cause) for cause in told.causes)
        self._head("Why was this one not recalled?")
        self._line(f"  {_said(missed)}")
        self._line(f"  Because {reasons}.")

    async def _importance(self, memory: Memory) -> None:
        before = memory.dynamic_importance
        for _ in range(ACCESSES):
            await record_access(self._db, USER, [memory.id], access_context="demo")
        later = datetime.now(UTC) + timedelta(days=365)
        now = await get_memory(self._db, USER, memory.id)
        faded = await get_memory(self._db, USER, memory.id, as_of=later)
        if now is not None and faded is not None:
            self._head("Importance of the first one, 0 to 10")
            self._line(
                f"  {before:.1f} before, {now.dynamic_importance:.1f} after {ACCESSES} accesses, "
                f"{faded.dynamic_importance:.1f} a year later if nobody asks again."
            )

    def _farther(self, memory: Memory, place: str) -> None:
        self._head("Look next")
        for typed, meaning in _LOOK:
            self._line(f"  {typed.format(id=memory.id):<55}{meaning}")
        self._head("The data")
        self._line(f"  lie {place}; `ltm-store forget --user {USER}` removes them.")


def _said(memory: Memory) -> str:
    return legible(memory.content)


def _why(hit: MemoryHit) -> str:
    """What it was found by: its words, the memory that it stands beside, its meaning."""
    reasons = []
    if hit.matched_terms:
        reasons.append(f"words: {', '.join(hit.matched_terms)}")
    if hit.neighbour_of is not None:
        reasons.append(f"beside {hit.neighbour_of}")
    if hit.meaning_score is not None:
        reasons.append(f"meaning: {hit.meaning_score:.2f}")
    return "; ".join(reasons)
