"""What makes vectors: functions, clients of an API, and a model that runs here."""

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ltm_store import InvalidArgument, LtmError, add_memories, connect, search_memories
from ltm_store.embedders import Embedder, FastEmbedder, FunctionEmbedder, OpenAIEmbedder
from tests.dialogues import ANSWERS, OTHERS
from tests.small_model import MODEL, lay_out


async def test_a_function_may_be_plain_or_asynchronous_and_know_the_purpose():
    threads = []

    def plain(texts):
        threads.append(threading.current_thread())
        return [[float(len(text))] for text in texts]

    async def asynchronous(texts, *, purpose):
        return [[1.0 if purpose == "query" else 2.0] for _ in texts]

    one, other = FunctionEmbedder("m", 1, plain), FunctionEmbedder("m", 1, asynchronous)
    assert isinstance(one, Embedder)
    assert await one.embed(["a", "bcd"], purpose="memory") == [[1.0], [3.0]]
    assert threads[0] is not threading.main_thread()
    assert await other.embed(["a"], purpose="query") == [[1.0]]
    assert await other.embed(["a"], purpose="memory") == [[2.0]]


async def test_a_function_that_hangs_does_not_block_the_loop():
    never = threading.Event()

    def hang(texts):
        never.wait(60)
        return []

    embedder = FunctionEmbedder("m", 1, hang)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await embedder.embed(["a"], purpose="query")
    never.set()


@dataclass
class Embeddings:
    """The part of an API's client that is used."""

    asked: list[dict[str, Any]]

    def answer(self, **arguments):
        self.asked.append(arguments)
        data = [
            SimpleNamespace(index=index, embedding=[float(len(text)), 1.0])
            for index, text in enumerate(arguments["input"])
        ]
        return SimpleNamespace(data=data[::-1])


class Plain(Embeddings):
    def create(self, **arguments):
        return self.answer(**arguments)


class Asynchronous(Embeddings):
    async def create(self, **arguments):
        return self.answer(**arguments)


@pytest.mark.parametrize("kind", [Plain, Asynchronous])
async def test_any_client_with_that_interface_will_do(kind):
    embeddings = kind([])
    client = SimpleNamespace(embeddings=embeddings)
    embedder = OpenAIEmbedder(client, "local-model", 2)
    assert await embedder.embed(["a", "bc"], purpose="memory") == [[1.0, 1.0], [2.0, 1.0]]
    known = OpenAIEmbedder(client, "text-embedding-3-small")
    assert (known.model, known.dimensions) == ("text-embedding-3-small", 1536)
    await known.embed(["a"], purpose="query")
    assert embeddings.asked == [
        {"model": "local-model", "input": ["a", "bc"], "dimensions": 2},
        {"model": "text-embedding-3-small", "input": ["a"]},
    ]
    with pytest.raises(InvalidArgument, match="dimensions: should be given for this model"):
        OpenAIEmbedder(client, "unknown")


def test_a_missing_extra_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fastembed", None)
    with pytest.raises(LtmError, match=r"no fastembed: install ltm_store\[fastembed\]"):
        FastEmbedder()


ENDING = """
import asyncio, threading
from ltm_store.embedders import FunctionEmbedder

at_work = threading.Event()

def embed(texts):
    at_work.set()
    for _ in range(10_000_000):
        pass
    print("embedded")
    return [[1.0]]

async def main():
    embedding = asyncio.create_task(FunctionEmbedder("m", 1, embed).embed(["a"], purpose="memory"))
    await asyncio.to_thread(at_work.wait)

asyncio.run(main())
"""


def test_a_program_that_ends_waits_a_little_for_a_model_at_work():
    # A runtime such as ONNX's aborts the process where its thread is killed.
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "embedded\n", "")


# -- a model that a package ships ----------------------------------------------------------------


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("model")
    lay_out(place)
    return place


async def test_a_model_on_disk_is_loaded(folder):
    embedder = FastEmbedder(MODEL, path=folder)
    (vector,) = await embedder.embed(["some words"], purpose="memory")
    assert len(vector) == embedder.dimensions == 384
    assert vector == (await embedder.embed(["some words"], purpose="query"))[0]
    assert json.dumps(vector)  # plain numbers
    with pytest.raises(InvalidArgument, match="path: should be the folder"):
        FastEmbedder(MODEL, path=folder / "none")
    with pytest.raises(InvalidArgument, match="model: should be one that fastembed knows"):
        FastEmbedder("unknown")


async def test_a_real_model_recalls_what_shares_no_word_with_the_question(
    folder, dsn, vectors, record_property
):
    embedder = FastEmbedder(MODEL, path=folder)
    async with connect(dsn, access_tracking="off", timeout=60, embedder=embedder) as db:
        contents = [answer for answer, _ in ANSWERS] + list(OTHERS)
        await add_memories(db, 1, [{"content": content} for content in contents])
        await db.flush()

        async def recall(meaning: float, limit: int = 10) -> float:
            found = 0
            for answer, question in ANSWERS:
                hits = await search_memories(db, 1, question, meaning=meaning, limit=limit)
                found += answer in [hit.content for hit in hits]
            return found / len(ANSWERS)

        words, alone, both = [await recall(meaning) for meaning in (0, 1, 0.4)]
    for name, value in (("words", words), ("meaning", alone), ("both", both)):
        record_property(name, value)
        print(name, value)
    assert words < 0.5
    assert both > words + 0.3
