"""What a Database does with its embedder: vectors of questions at once, of memories later."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from itertools import islice
from typing import Final

from ltm_store import limits
from ltm_store.db.execute import Executor, Session, session_of
from ltm_store.db.identity import find_user
from ltm_store.db.standby import unawaited
from ltm_store.embedders import Embedder, Purpose, in_thread
from ltm_store.embeddings import (
    Claim,
    Vectors,
    claim_embeddings,
    pages_of_unembedded,
    release_embeddings,
    unembedded,
    write_embeddings,
)
from ltm_store.errors import InvalidArgument, LtmError, Unavailable
from ltm_store.model.values import UserId
from ltm_store.model.vectors import GivenEmbedding, checked_vector, parts_of

STEP: Final = "embeddings"
QUERY_SECONDS: Final = 2.0  # that the vector of a question may take
BATCH_SECONDS: Final = 60.0  # that those of a batch may take
BATCH: Final = 64  # texts that an embedder gets at once; memories that are claimed at once
PARTS_WRITTEN: Final = 256  # by one statement
FIRST_PAUSE: Final = 1.0  # seconds in which a failing embedder is left alone; then twice that
LONGEST_PAUSE: Final = 60.0
GATHER_SECONDS: Final = 0.02  # that the first memory waits for others
LOOK_SECONDS: Final = 5.0  # between looks for memories that others wrote
SWEEP_SECONDS: Final = 600.0  # between looks at all memories
RELEASE_SECONDS: Final = 1.0  # that giving claims back may take, at closing
WAITING: Final = 100_000  # memories, then their users are looked at
MANY: Final = 500  # of the newest without a vector, then all are looked at
_LONG: Final = 20_000  # characters, whose parts are made in a thread
_NAME: Final = re.compile(r"[^\d_@/:#=]+")  # of a person; that of a program says nothing
_PROBE: Final = "The sun rises in the east."
_log = logging.getLogger(__name__)


class EmbedderFailed(Exception):
    """An embedder did not give what it should; says why, without a text."""


def checked_embedder(embedder: Embedder) -> Embedder:
    """The embedder itself. Raises InvalidArgument where it is none."""
    if not isinstance(embedder, Embedder):
        raise InvalidArgument("embedder", "should have model, dimensions and embed()")
    try:
        GivenEmbedding.checked({"embedding": [1.0], "embedding_model": embedder.model})
    except InvalidArgument as error:
        rule = error.rule
    else:
        size = embedder.dimensions
        if type(size) is int and 1 <= size <= limits.EMBEDDING_DIMENSIONS:
            return embedder
        most = limits.EMBEDDING_DIMENSIONS
        raise InvalidArgument("embedder.dimensions", f"should be 1 to {most}")
    raise InvalidArgument("embedder.model", rule)


async def vectors_of(
    embedder: Embedder, texts: Sequence[str], purpose: Purpose, seconds: float
) -> list[list[float]]:
    """A vector of each text, as it can be stored. Raises EmbedderFailed, whatever goes wrong."""
    try:
        async with asyncio.timeout(seconds):
            made = await embedder.embed(texts, purpose=purpose)
    except TimeoutError:
        raise EmbedderFailed(f"no answer within {seconds:g} seconds") from None
    except LtmError as error:
        raise EmbedderFailed(str(error)) from None
    except Exception as error:  # its text may hold what was embedded
        raise EmbedderFailed(type(error).__name__) from None
    try:
        found = [checked_vector(vector) for vector in made]
    except ValueError as error:
        raise EmbedderFailed(f"a vector {error}") from None
    except TypeError:
        raise EmbedderFailed("should give a list of vectors") from None
    if len(found) != len(texts):
        raise EmbedderFailed(f"{len(found)} vectors for {len(texts)} texts")
    if wrong := next((len(v) for v in found if len(v) != embedder.dimensions), None):
        raise EmbedderFailed(f"a vector of {wrong} numbers, not of {embedder.dimensions}")
    return found


class _Patience:
    """Whether a failing embedder is left alone for now: a second, then twice that, to a minute."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._until = 0.0
        self.pause = 0.0

    def is_resting(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    def failed(self, error: Exception) -> None:
        """Warn of the first failure, and wait longer after each."""
        if not self.pause:
            reason = (
                str(error) if isinstance(error, EmbedderFailed | LtmError) else type(error).__name__
            )
            _log.warning("%s: %s", self._what, reason)
        self.pause = min(2 * self.pause or FIRST_PAUSE, LONGEST_PAUSE)
        self._until = asyncio.get_running_loop().time() + self.pause

    def succeeded(self) -> None:
        self.pause = 0.0


class Questions:
    """The vectors of questions, within a deadline; none while the embedder fails."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._patience = _Patience("searches go by words alone, the embedder failed")

    async def vector(self, text: str, seconds: float) -> list[float] | None:
        """The vector of a question; None where the embedder fails or is slow."""
        if self._patience.is_resting():
            return None
        try:
            (found,) = await vectors_of(
                self._embedder, [text], "query", min(QUERY_SECONDS, seconds)
            )
        except EmbedderFailed as error:
            self._patience.failed(error)
            return None
        self._patience.succeeded()
        return found


async def embed_claims(db: Executor, embedder: Embedder, claims: Sequence[Claim]) -> list[Claim]:
    """Make and store the vectors of claimed memories; return those whose content was changed.

    A memory that the embedder cannot embed is set aside. Raises EmbedderFailed where it embeds
    nothing any more; then all are given back.
    """
    notes: dict[Claim, str | None] = {}
    made: dict[Claim, list[list[float]]] = {}
    try:
        parts = {claim: await _parts(claim.content) for claim in claims}
        texts = [(claim, _said(claim.speaker, text)) for claim in claims for text in parts[claim]]
        notes = {claim: "nothing to embed" for claim in claims if not parts[claim]}
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            for (claim, _), outcome in zip(
                batch, await _outcomes(embedder, [text for _, text in batch]), strict=True
            ):
                if isinstance(outcome, str):
                    notes[claim] = outcome[: limits.EMBEDDING_NOTE_CHARS]
                else:
                    made.setdefault(claim, []).append(outcome)
        whole = {claim: vectors for claim, vectors in made.items() if claim not in notes}
        changed = await _store(db, embedder.model, whole)
    except (EmbedderFailed, asyncio.CancelledError):
        with suppress(Exception):  # then they are free when their time is up
            async with asyncio.timeout(RELEASE_SECONDS):
                await _release(db, embedder.model, dict.fromkeys(claims))
        raise
    if notes:
        _log.warning("%d memories were set aside, the embedder refused them", len(notes))
        await _release(db, embedder.model, notes)
    return changed


async def _parts(content: str) -> list[str]:
    if len(content) <= _LONG:
        return parts_of(content)
    return await in_thread(lambda: parts_of(content))


def _said(speaker: str, text: str) -> str:
    """A text as it is embedded: by whom, as questions ask ("What did Ann plan?")."""
    if not _NAME.fullmatch(speaker) or text.casefold().startswith(speaker.casefold()):
        return text
    return f"{speaker}: {text}"


async def _outcomes(embedder: Embedder, texts: Sequence[str]) -> list[list[float] | str]:
    """For each text its vector, or why it has none. Raises EmbedderFailed when none has."""
    try:
        return list(await vectors_of(embedder, texts, "memory", BATCH_SECONDS))
    except EmbedderFailed as error:
        # A harmless text tells whether it is the embedder or the texts.
        await vectors_of(embedder, [_PROBE], "memory", BATCH_SECONDS)
        if len(texts) == 1:
            return [str(error)]
    half = len(texts) // 2
    return await _outcomes(embedder, texts[:half]) + await _outcomes(embedder, texts[half:])


async def _store(db: Executor, model: str, made: dict[Claim, list[list[float]]]) -> list[Claim]:
    changed: list[Claim] = []
    for user, claims in _by_user(made).items():
        batch: list[Vectors] = []
        stored: dict[int, bool] = {}
        room = PARTS_WRITTEN
        for claim in claims:
            if batch and room < len(made[claim]):
                stored |= await write_embeddings(db, model, user, batch)
                batch, room = [], PARTS_WRITTEN
            batch.append((claim.memory_id, claim.content_hash, made[claim]))
            room -= len(made[claim])
        stored |= await write_embeddings(db, model, user, batch)
        changed += [claim for claim in claims if stored.get(claim.memory_id) is False]
    return changed


async def _release(db: Executor, model: str, notes: dict[Claim, str | None]) -> None:
    for user, claims in _by_user(notes).items():
        await release_embeddings(db, model, user, [(claim, notes[claim]) for claim in claims])


def _by_user(claims: Iterable[Claim]) -> dict[int, list[Claim]]:
    users: defaultdict[int, list[Claim]] = defaultdict(list)
    for claim in claims:
        users[claim.user].append(claim)
    return users


async def embed_missing(
    db: Executor, user_id: UserId | None = None, *, limit: int | None = None
) -> int:
    """Give the memories of a user, or of all, their vectors now; return how many were embedded.

    By the embedder of the Database. limit: at most so many. Memories that another process has
    claimed, or that were set aside, are left out. Not bounded by the Database's timeout; it can be
    broken off and begun again: what is stored stays. Raises Unavailable where the embedder fails,
    StepMissing where the optional step was not run.
    """
    embedder = session_of(db).embedder
    if embedder is None:
        raise InvalidArgument("db", "should be a Database with an embedder: connect(embedder=...)")
    return await embed_with(db, embedder, user_id, limit=limit)


async def embed_with(
    db: Executor,
    embedder: Embedder,
    user_id: UserId | None,
    *,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> int:
    """What embed_missing does, by this embedder; progress is told how many were embedded."""
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidArgument("limit", "should be a whole number above 0")
    user = None if user_id is None else await find_user(db, user_id)
    if user is None and user_id is not None:
        return 0
    reason, done = None, 0
    try:
        async for page in pages_of_unembedded(db, embedder.model, user and user.number):
            done += await _embed_page(db, embedder, page, None if limit is None else limit - done)
            progress(done)
            if done == limit:
                break
    except EmbedderFailed as error:
        reason = str(error)
    if reason is not None:
        raise Unavailable(f"the embedder failed: {reason}")
    return done


async def _embed_page(
    db: Executor, embedder: Embedder, page: list[tuple[int, int]], limit: int | None
) -> int:
    done = 0
    for user in dict.fromkeys(user for user, _ in page):
        ids = [memory_id for of, memory_id in page if of == user]
        while ids and done != limit:
            most = BATCH if limit is None else min(BATCH, limit - done)
            these, ids = ids[:most], ids[most:]
            claims = await claim_embeddings(db, embedder.model, user, these, most)
            done += len(claims) - len(await embed_claims(db, embedder, claims))
    return done


class EmbeddingWriter:
    """The task of one Database that gives memories their vectors.

    First those that its own calls wrote, then those that a look at the newest memories and, now and
    then, at all of them finds. What is missing is what the table lacks, so nothing is lost with it.
    """

    def __init__(self, db: Session, embedder: Embedder) -> None:
        self._db = db
        self._looks = not db.row_level_security  # which lets nobody look at all users
        self._embedder = embedder
        self._waiting: dict[tuple[int, int], None] = {}  # in the order in which they were written
        self._users: dict[
            int, int
        ] = {}  # with many new ones, each with the last that was looked at
        self._found: dict[tuple[int, int], None] = {}  # by a look at all
        self._after: tuple[int, int] | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._patience = _Patience("memories have no vectors yet, making them failed")
        self._task: asyncio.Task[None] | None = None
        self._look_at, self._sweep_at = 0.0, 0.0
        self._working = 0

    @property
    def waiting(self) -> int:
        """How many memories wait for their vectors that this Database knows of."""
        return len(self._waiting) + len(self._users) + self._working

    def start(self) -> None:
        """Begin; in a context of its own, whose deadline is nobody's."""
        self._task = asyncio.get_running_loop().create_task(self._work(), context=Context())

    def add(self, user: int, memory_ids: Sequence[int] | None) -> None:
        """Note memories that were written, so that they come first; None is many of this user's."""
        if self._task is None:
            return
        if memory_ids is None or len(self._waiting) > WAITING:
            self._users[user] = -limits.MEMORY_ID
        else:
            self._waiting |= {(user, memory_id): None for memory_id in memory_ids}
        if not self._patience.pause:
            self._wake.set()

    async def flush(self) -> None:
        """Return when the memories that are written now have vectors, or making them failed."""
        if self._task is not None and not self._task.done():
            self._look_at = 0.0
            self._idle.clear()
            self._wake.set()
            waits = asyncio.ensure_future(self._idle.wait())
            try:
                await asyncio.wait([waits, self._task], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waits.cancel()

    async def close(self, timeout: float) -> None:
        """Write what was added, as far as that can be done in these seconds."""
        if self._task is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(timeout, 0)):
                while self.waiting and not self._patience.pause:
                    await self.flush()
        self._task.cancel()
        await asyncio.wait([self._task], timeout=2 * RELEASE_SECONDS)
        self._task = None

    async def _work(self) -> None:
        unawaited.set(True)
        clock = asyncio.get_running_loop().time
        while True:
            try:
                busy = await self._step(clock())
                self._patience.succeeded()
            except Exception as error:
                self._patience.failed(error)
                self._idle.set()
                busy = False
            if not busy:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._patience.pause or LOOK_SECONDS):
                        await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(GATHER_SECONDS)

    async def _step(self, now: float) -> bool:
        """Give some memories their vectors; tell whether there may be more to do."""
        if await self._embed(self._waiting):
            return True
        if self._users:
            await self._look_at_user(next(iter(self._users)))
            return True
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            await self._look(now)
        if self._waiting or self._users or not self._look_at:  # a flush asks for another look
            return True
        self._idle.set()
        if not self._looks:
            return False
        if await self._embed(self._found):
            return True
        if self._after is None and now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            page = await unembedded(self._db, self._embedder.model)
        elif self._after is not None:
            page = await unembedded(self._db, self._embedder.model, self._after)
        else:
            return False
        self._found = dict.fromkeys(page.found)
        self._after = page.after
        return page.after is not None

    async def _look(self, now: float) -> None:
        """Look at the newest memories of all users."""
        if self._looks:
            page = await unembedded(self._db, self._embedder.model, newest=True)
            self._waiting |= dict.fromkeys(page.found)
            if len(page.found) > MANY:  # there may be more behind them
                self._sweep_at = now

    async def _look_at_user(self, user: int) -> None:
        last = self._users.pop(user)
        page = await unembedded(self._db, self._embedder.model, (user, last), user=user)
        self._waiting |= dict.fromkeys(page.found)
        if page.after is not None:
            self._users[user] = page.after[1]

    async def _embed(self, queue: dict[tuple[int, int], None]) -> int:
        """Embed a batch of a queue; return how many memories were taken from it."""
        taken = list(islice(queue, BATCH))
        claims: list[Claim] = []
        self._working = len(taken)
        try:
            for user in dict.fromkeys(user for user, _ in taken):
                ids = [memory_id for of, memory_id in taken if of == user]
                claims += await claim_embeddings(self._db, self._embedder.model, user, ids, BATCH)
            for key in taken:
                queue.pop(key, None)
            changed = await embed_claims(self._db, self._embedder, claims)
            self._waiting |= {(claim.user, claim.memory_id): None for claim in changed}
        except (EmbedderFailed, LtmError):
            queue |= dict.fromkeys(taken)
            raise
        finally:
            self._working = 0
        return len(taken)
