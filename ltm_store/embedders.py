"""What makes vectors of texts: the protocol, and some that are ready-made."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar, runtime_checkable

from ltm_store.errors import InvalidArgument, LtmError

Purpose = Literal["memory", "query"]
Vectors = Sequence[Sequence[float]]
One = TypeVar("One")

_AT_ONCE: Final = 8  # texts, after which a model here notices that the program ends
_LAST_SECONDS: Final = 5.0  # that the end of the program waits for what models still do
_DIMENSIONS: Final = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}


@runtime_checkable
class Embedder(Protocol):
    """Makes vectors of texts.

    `model` names it, in at most 64 bytes: vectors of two names are never compared. `dimensions` is
    1 .. 4000. `embed` gives a vector a text, in their order; purpose says whether they are contents
    of memories or a question.
    """

    @property
    def model(self) -> str:
        """Its name."""

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        """A vector of each text."""


class FunctionEmbedder:
    """An embedder out of a function of texts, which gives a vector a text.

    function: `async def` or an ordinary one; that runs in a thread. It may take `purpose` too.
    """

    def __init__(
        self, model: str, dimensions: int, function: Callable[..., Vectors | Awaitable[Vectors]]
    ) -> None:
        self.model = model
        self.dimensions = dimensions
        self._function = function
        self._takes_purpose = "purpose" in _parameters(function)

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        """A vector of each text."""
        options = {"purpose": purpose} if self._takes_purpose else {}
        if inspect.iscoroutinefunction(self._function):
            found: Vectors = await self._function(texts, **options)
            return found
        made = await in_thread(lambda: self._function(texts, **options))
        return await made if inspect.isawaitable(made) else made


class OpenAIEmbedder:
    """Embeddings of a client with the interface of OpenAI's, such as AsyncOpenAI() or OpenAI().

    dimensions: how many numbers a vector has; of models of OpenAI's it is known. Where it is given
    it is asked for, as some models give vectors of any length.
    """

    def __init__(self, client: Any, model: str, dimensions: int | None = None) -> None:
        known = dimensions or _DIMENSIONS.get(model)
        if known is None:
            raise InvalidArgument("dimensions", "should be given for this model")
        self.model = model
        self.dimensions = known
        self._client = client
        self._options: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        """A vector of each text."""
        create = self._client.embeddings.create

        def call() -> Any:
            return create(model=self.model, input=list(texts), **self._options)

        made = call() if inspect.iscoroutinefunction(create) else await in_thread(call)
        answer = await made if inspect.isawaitable(made) else made
        return [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]


class FastEmbedder:
    """A model that runs here, by the extra `fastembed`.

    model: a name that fastembed knows; it is downloaded when it is first used, and kept. path: a
    folder that holds the model's files, so that nothing is downloaded. Loading begins with the
    first text, in a thread.
    """

    def __init__(
        self, model: str = "BAAI/bge-small-en-v1.5", *, path: str | Path | None = None
    ) -> None:
        try:
            from fastembed import TextEmbedding
        except ImportError:
            raise LtmError("no fastembed: install ltm_store[fastembed]") from None
        described = TextEmbedding.list_supported_models()
        sizes = {known["model"].lower(): known["dim"] for known in described}
        if model.lower() not in sizes:
            raise InvalidArgument("model", "should be one that fastembed knows")
        if path is not None and not Path(path).is_dir():
            raise InvalidArgument("path", "should be the folder of a model's files")
        self.model = model
        self.dimensions = int(sizes[model.lower()])
        # One core stays free, else the program's own calls take twice as long meanwhile.
        self._options: dict[str, Any] = {"threads": max(1, (os.cpu_count() or 1) - 1)}
        if path is not None:
            self._options["specific_model_path"] = str(path)
        self._loaded: Any = None
        self._loading = threading.Lock()

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        """A vector of each text."""
        return await in_thread(lambda: self._embed(list(texts), purpose))

    def _embed(self, texts: list[str], purpose: Purpose) -> Vectors:
        with self._loading:
            if self._loaded is None:
                from fastembed import TextEmbedding

                self._loaded = TextEmbedding(self.model, **self._options)
        make = self._loaded.query_embed if purpose == "query" else self._loaded.passage_embed
        vectors: Iterable[Any] = make(texts, batch_size=_AT_ONCE)
        return [vector.tolist() for vector in _until_the_end(vectors)]


_running: Final[set[threading.Thread]] = set()
_ending: Final = threading.Event()


@atexit.register
def _end() -> None:
    """Wait a little for threads: a runtime whose thread is killed inside it aborts the process."""
    _ending.set()
    until = time.monotonic() + _LAST_SECONDS
    for thread in list(_running):
        thread.join(max(0.0, until - time.monotonic()))


def _until_the_end(vectors: Iterable[One]) -> Iterable[One]:
    for vector in vectors:
        if _ending.is_set():
            raise LtmError("the program ends")
        yield vector


def _parameters(function: Callable[..., object]) -> Iterable[str]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some functions in C
        return ()


async def in_thread(work: Callable[[], One]) -> One:
    """What some work gives in a thread that is not long waited for when the program ends.

    (Those of asyncio.to_thread are, and a model that hangs would use them up.)
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[One] = loop.create_future()

    def settle(result: One | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        _running.discard(threading.current_thread())
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, failed)

    thread = threading.Thread(target=run, name="ltm_store embedder", daemon=True)
    _running.add(thread)
    thread.start()
    return await done
