"""LangGraph's store: its operations, on memories."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from math import dist, hypot
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    add_memory,
    connect,
    get_by_key,
    limits,
    list_namespaces,
    search_memories,
)
from ltm_store.integrations import langgraph
from ltm_store.integrations.langgraph import LtmStore
from tests.servers import local_alone


@pytest.fixture
async def store(db):
    store = LtmStore(db)
    yield store
    await store.aclose()


async def keys(store, prefix, **options):
    return [item.key for item in await store.asearch(prefix, **options)]


async def test_an_item_is_a_memory_of_its_user_under_its_key(store, db):
    value = {"likes": "tea", "cups": 3, "hot": True, "with": [1.5, None, {"sugar": "none"}]}
    await store.aput(("7", "tastes", "drinks"), "tea", value)

    item = await store.aget(("7", "tastes", "drinks"), "tea")
    memory = await get_by_key(db, 7, "tea", namespace="tastes.drinks")

    assert memory is not None
    assert (item.namespace, item.key, item.value) == (("7", "tastes", "drinks"), "tea", value)
    assert memory.metadata == value
    assert (item.created_at, item.updated_at) == (memory.created_at, memory.last_modified)
    assert [hit.key for hit in await search_memories(db, 7, "tea")] == ["tea"]


async def test_what_is_not_there_is_none(store):
    assert await store.aget(("nobody", "x"), "k") is None
    await store.aput(("7",), "k", {})
    assert await store.aget(("7", "x"), "k") is None
    assert await store.aget(("7",), "K") is None
    assert (await store.aget(("7",), "k")).value == {}
    assert await store.asearch(("7", "x")) == []


async def test_a_second_put_replaces_the_value_and_keeps_the_birth(store):
    await store.aput(("7",), "k", {"a": 1, "b": 2})
    first = await store.aget(("7",), "k")
    await store.aput(("7",), "k", {"a": 3})
    second = await store.aget(("7",), "k")

    assert second.value == {"a": 3}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


async def test_none_deletes_and_may_be_repeated(store):
    await store.aput(("7",), "k", {"a": 1})
    await store.adelete(("7",), "k")
    await store.adelete(("7",), "k")

    assert await store.aget(("7",), "k") is None


async def test_a_batch_reads_first_and_keeps_the_last_put_of_a_key(store):
    await store.aput(("7", "a"), "k", {"n": 0})

    put, got, found, listed, gone = await store.abatch(
        [
            PutOp(("7", "a"), "k", {"n": 1}),
            GetOp(("7", "a"), "k"),
            SearchOp(("7",)),
            ListNamespacesOp(),
            PutOp(("7", "a"), "k", {"n": 2}),
        ]
    )

    assert put is gone is None
    assert got.value == found[0].value == {"n": 0}
    assert listed == [("7", "a")]
    assert (await store.aget(("7", "a"), "k")).value == {"n": 2}


async def test_what_waits_together_gets_each_its_own_answer(store):
    await asyncio.gather(*(store.aput(("7",), str(n), {"n": n}) for n in range(50)))

    found = await asyncio.gather(*(store.aget(("7",), str(n)) for n in (*range(50), 3, 3)))

    assert [item.value["n"] for item in found] == [*range(50), 3, 3]


@local_alone
async def test_the_puts_of_a_user_that_wait_together_are_one_statement(store, caplog):
    """In order: the last of a key counts, and is the newest."""
    await store.aput(("7", "a"), "0", {"n": -1}, ttl=1)
    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    caplog.clear()
    puts = [store.aput(("7", "a"), str(n), {"n": n}) for n in range(50)]
    await asyncio.gather(*puts, store.adelete(("7", "a"), "x"), store.aput(("8",), "k", {}))
    sent = [record.message.partition(":")[0] for record in caplog.records]
    assert sorted(sent) == ["add_memories_together", "add_memory", "find_keys"]
    assert [i.value["n"] for i in await store.asearch(("7",), limit=3)] == [49, 48, 47]

    await store.abatch([PutOp(("7", "a"), str(n % 20), {"n": n}) for n in range(50)])
    assert [i.value["n"] for i in await store.asearch(("7",), limit=3)] == [49, 48, 47]
    assert len(await store.asearch(("7",), limit=100)) == 50


async def test_the_gets_and_the_deletes_of_a_user_that_wait_together_share_statements(
    store, caplog
):
    await store.abatch([PutOp(("7", str(n % 3)), f"k{n}", {"n": n}) for n in range(30)])
    await store.aput(("8",), "k0", {"n": -1})
    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    caplog.clear()
    gets = [GetOp(("7", str(n % 3)), f"k{n}") for n in (*range(30), 4, 30)]

    results = await store.abatch([*gets, GetOp(("8",), "k0"), GetOp(("7",), "k0")])
    values = [item.value["n"] for item in results if item is not None]
    assert values == [*range(30), 4, -1]
    assert (results[31], results[33]) == (None, None)
    await store.abatch([PutOp(op.namespace, op.key, None) for op in gets[1:]])

    sent = [record.message.partition(":")[0] for record in caplog.records]
    assert sent == [*["get_by_keys"] * 2, "find_keys", "lock_for_delete", "delete_memories"]
    assert [(i.namespace, i.key) for i in await store.asearch(())] == [
        (("8",), "k0"),
        (("7", "0"), "k0"),
    ]


async def test_a_batch_with_a_refused_put_writes_nothing(store):
    await store.aput(("7",), "k", {"n": 0})
    ops = [
        PutOp(("7",), "new", {}),
        PutOp(("7",), "k", None),
        PutOp(("8",), "k", {"at": datetime.now(UTC)}),
    ]
    with pytest.raises(InvalidMemory, match="metadata"):
        await store.abatch(ops)
    assert [item.key for item in await store.asearch(())] == ["k"]


@local_alone
@pytest.mark.usefixtures("vectors")
async def test_what_is_put_together_is_embedded_together(db, caplog):
    """One call of the embedder and one statement for all vectors, each item with its own."""
    calls: list[Sequence[str]] = []

    def embed(texts: Sequence[str]) -> list[list[float]]:
        calls.append(texts)
        return directions(texts)

    store = LtmStore(db, index=index(embed=embed, fields=["texts[*]"]))
    texts = {"both": ["run", "tea"], "none": [], "tea": ["tea tea"], "run": ["run run"]}
    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    await store.abatch([PutOp(("7",), key, {"texts": given}) for key, given in texts.items()])

    assert calls == [["run", "tea", "tea tea", "run run"]]
    written = [record.message.partition(":")[0] for record in caplog.records]
    assert written == ["add_memories_together", "write_embeddings"]
    assert await keys(store, ("7",), query="tea tea", limit=2) == ["tea", "both"]
    assert await keys(store, ("7",), query="run run", limit=2) == ["run", "both"]


async def test_items_come_newest_change_first_page_by_page(store):
    for n in range(5):
        await store.aput(("7", str(n % 2)), str(n), {"n": n})
    await store.aput(("7", "0"), "0", {"n": "again"})

    assert await keys(store, ("7",)) == ["0", "4", "3", "2", "1"]
    assert await keys(store, ("7",), limit=2, offset=1) == ["4", "3"]
    assert await keys(store, ("7", "1")) == ["3", "1"]
    assert await keys(store, ("7",), query="nothing of that kind", limit=1) == ["0"]


async def test_prefixes_end_at_labels(store):
    for namespace in (("7",), ("7", "a"), ("7", "ab"), ("7", "a", "b"), ("77", "a"), ("7", "a%")):
        await store.aput(namespace, "/".join(namespace), {})

    assert sorted(await keys(store, ("7", "a"))) == ["7/a", "7/a/b"]
    assert len(await keys(store, ("7",))) == 5
    assert await keys(store, ("7", "a%")) == ["7/a%"]


async def test_filters_compare_values_by_their_kind(store):
    for key, value in {
        "nine": {"n": 9, "lang": "de"},
        "ten": {"n": 10, "lang": "en"},
        "text": {"n": "10", "lang": "en"},
        "deep": {"n": {"of": [1, 2]}},
    }.items():
        await store.aput(("7",), key, value)

    async def those(condition):
        return sorted(await keys(store, ("7",), filter=condition))

    assert await those({"n": 10}) == ["ten"]
    assert await those({"n": {"$gt": 9}}) == ["ten"]
    assert await those({"n": {"$lte": 9}}) == ["nine"]
    assert await those({"lang": "en", "n": {"$ne": 10}}) == ["text"]
    assert await those({"n": {"of": [1, 2]}}) == ["deep"]
    assert await those({"n": {"of": [1]}}) == []
    with pytest.raises(InvalidArgument):
        await those({"n": {"$about": 9}})


async def test_namespaces_are_listed_by_what_they_begin_and_end_with(store, db):
    for labels in ("a b c", "a b d", "a x c", "b c", "a b d"):
        await store.aput(tuple(labels.split()), "k", {})

    await add_memory(db, "a", "no item", namespace="y")
    await add_memory(db, "a", "no item", namespace="b.c")

    listed = store.alist_namespaces
    assert await listed() == [("a", "b", "c"), ("a", "b", "d"), ("a", "x", "c"), ("b", "c")]
    assert await listed(prefix=("a", "b")) == [("a", "b", "c"), ("a", "b", "d")]
    assert await listed(suffix=("c",)) == [("a", "b", "c"), ("a", "x", "c"), ("b", "c")]
    assert await listed(prefix=("a", "*", "c")) == [("a", "b", "c"), ("a", "x", "c")]
    assert await listed(prefix=("*", "c")) == [("b", "c")]
    assert await listed(prefix=("a",), max_depth=2) == [("a", "b"), ("a", "x")]
    assert await listed(limit=1, offset=1) == [("a", "b", "d")]
    assert await listed(prefix=("nobody",)) == []
    both = (MatchCondition("prefix", ("a",)), MatchCondition("suffix", ("d",)))
    assert await store.abatch([ListNamespacesOp(both)]) == [[("a", "b", "d")]]


async def test_the_whole_store_is_searched_without_a_user(store):
    for user in ("1", "ada", "2"):
        await store.aput((user, "x"), f"of {user}", {"from": user})

    assert await keys(store, ()) == ["of 2", "of ada", "of 1"]
    assert await keys(store, (), limit=1, offset=1) == ["of ada"]
    assert await keys(store, (), filter={"from": "ada"}) == ["of ada"]


async def test_a_search_goes_deeper_than_search_memories(store, db, monkeypatch):
    assert langgraph._DEEPEST == limits.OFFSET
    monkeypatch.setattr(langgraph, "_DEEPEST", 4)
    monkeypatch.setattr(langgraph, "_PAGE", 2)
    await store.abatch([PutOp(("7", "x"), str(n), {"n": n}) for n in range(12)])  # at one moment
    await store.aput(("8",), "k", {"n": 12})
    latest = [str(n) for n in range(11, -1, -1)]

    for limit, offset in ((20, 0), (10, 0), (7, 0), (6, 5), (3, 9), (9, 20)):
        expected = latest[offset : offset + limit]
        assert await keys(store, ("7",), limit=limit, offset=offset) == expected
    assert await keys(store, ("7",), limit=20, filter={"n": {"$lt": 10}}) == latest[2:]
    assert await keys(store, ("7",), limit=20, refresh_ttl=False) == latest
    assert await keys(store, (), limit=20) == ["k", *latest]
    words = LtmStore(db, hybrid=True)
    with pytest.raises(InvalidArgument, match="^limit: a query finds 6 items at most"):
        await words.asearch(("7",), query="n", limit=20)
    await words.aclose()


async def test_the_user_may_stand_at_another_label(db):
    store = LtmStore(db, user_at=1)
    await store.aput(("memories", "7", "x"), "k", {"n": 1})
    await store.aput(("notes", "8"), "k", {"n": 2})

    memory = await get_by_key(db, 7, "k", namespace=("memories", "x"))
    assert memory is not None
    assert memory.metadata == {"n": 1}
    assert [i.namespace for i in await store.asearch(("memories", "7"))] == [("memories", "7", "x")]
    assert [i.namespace for i in await store.asearch(("memories",))] == [("memories", "7", "x")]
    assert await store.alist_namespaces() == [("memories", "7", "x"), ("notes", "8")]
    with pytest.raises(InvalidNamespaceError):
        await store.aput(("memories",), "k", {})


async def test_memories_of_other_programs_without_a_key_are_no_items(store, db):
    await add_memory(db, 7, "Likes tea")
    await store.aput(("7",), "k", {})

    assert await keys(store, ("7",)) == ["k"]


async def test_words_find_items_where_hybrid_is_asked_for(db):
    store = LtmStore(db, hybrid=True)
    await store.aput(("7",), "tea", {"text": "She drinks green tea in the morning"})
    await store.aput(("7",), "run", {"text": "She runs in the evening", "lang": "en"})

    (hit,) = await store.asearch(("7",), query="tea")
    assert hit.key == "tea"
    assert hit.score is not None
    assert await keys(store, ("7",), query="morning evening", filter={"lang": "en"}) == ["run"]
    assert (await store.asearch(("7",)))[0].score is None


def directions(texts: Sequence[str]) -> list[list[float]]:
    """Where a text speaks of tea, of running, and of neither, as a vector of length 1."""
    vectors = [[1.0 * t.count("tea"), 1.0 * t.count("run"), 0.25] for t in texts]
    return [[number / hypot(*vector) for number in vector] for vector in vectors]


def index(**options: Any) -> IndexConfig:
    return {"dims": 3, "embed": directions, **options}  # type: ignore[typeddict-item]


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("distance", ["cosine", "inner_product", "l2"])
async def test_with_an_index_a_query_finds_the_nearest_by_the_raw_measure(db, distance):
    store = LtmStore(db, index=index(distance_type=distance, fields=["text"]))
    await store.aput(("7",), "both", {"text": "tea, then a run", "lang": "en"})
    await store.aput(("7",), "tea", {"text": "tea and tea"})
    await store.aput(("7",), "unseen", {"text": "tea"}, index=False)
    await store.aput(("8",), "other", {"text": "tea"})

    hits = await store.asearch(("7",), query="tea")

    assert [hit.key for hit in hits] == ["tea", "both"]
    for hit in hits:
        (own, asked) = directions([hit.value["text"], "tea"])
        product = sum(a * b for a, b in zip(own, asked, strict=True))
        measure = -dist(own, asked) if distance == "l2" else product
        assert hit.score == pytest.approx(measure, abs=1e-3)
    assert await keys(store, ("7",), query="tea", filter={"lang": "en"}) == ["both"]
    assert await keys(store, ("7",), query="tea", offset=1) == ["both"]
    assert len(await store.asearch(("7",))) == 3


@pytest.mark.usefixtures("vectors")
async def test_of_several_texts_of_an_item_the_best_counts(db):
    store = LtmStore(db, index=index(fields=["notes[*]", "title"]))
    await store.aput(("7",), "many", {"notes": ["run run", "tea"], "title": "a day"})
    await store.aput(("7",), "mixed", {"notes": ["tea and a run"], "title": ""})
    await store.aput(("7",), "own", {"notes": ["run"], "extra": "tea tea"}, index=["extra"])

    assert await keys(store, ("7",), query="tea tea") == ["own", "many", "mixed"]
    await store.aput(("7",), "many", {"notes": ["run"], "title": "a day"})
    assert await keys(store, ("7",), query="tea tea") == ["own", "mixed", "many"]
    assert [hit.key for hit in await search_memories(db, 7, "run")] != []


@pytest.mark.usefixtures("vectors")
async def test_words_and_meaning_go_together_where_hybrid_is_asked_for(db):
    store = LtmStore(db, index=index(), hybrid=True)
    await store.aput(("7",), "near", {"text": "tea"})
    await store.aput(("7",), "word", {"text": "the oolong of a runner"})

    assert set(await keys(store, ("7",), query="oolong tea")) == {"near", "word"}


async def test_vectors_that_a_measure_cannot_tell_are_refused(db):
    with pytest.raises(ValueError, match="distance_type"):
        LtmStore(db, index=index(distance_type="hamming"))
    long = index(distance_type="l2", embed=lambda texts: [[2.0, 0, 0] for _ in texts])
    with pytest.raises(ValueError, match="length 1"):
        await LtmStore(db, index=long).aput(("7",), "k", {"text": "tea"})


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e12, 36_525 * 1440 + 1, "1"])
async def test_a_ttl_that_is_none_is_refused_by_its_name(store, ttl):
    with pytest.raises(InvalidArgument, match="^ttl: should be minutes"):
        await store.aput(("7",), "k", {}, ttl=ttl)
    assert await store.asearch(("7",)) == []
    await store.aput(("7",), "k", {}, ttl=36_525 * 1440)


async def test_a_read_prolongs_what_expires_at_once_unless_told_not_to(db, caplog):
    """By what has passed, however little; by one statement for what a batch read of a user."""
    store = LtmStore(db, ttl={"default_ttl": 0.5})
    for key in "got", "found", "gone":
        await store.aput(("7", key), key, {})
    await store.aput(("7",), "kept", {}, ttl=None)

    async def expiries():
        async with db.transaction() as connection:
            return dict(await connection.fetch("SELECT key, expires_at FROM ltm_memories"))

    async with db.transaction() as connection:
        await connection.execute("UPDATE ltm_memories SET expires_at = now() WHERE key = 'gone'")
    before = await expiries()
    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    for refresh in False, True:
        caplog.clear()
        read: list[Any] = await store.abatch(
            [
                GetOp(("7", "got"), "got", refresh),
                SearchOp(("7", "found"), refresh_ttl=refresh),
                GetOp(("7", "gone"), "gone", refresh),
                SearchOp(("7",), refresh_ttl=False),
            ]
        )
        assert (read[0].key, read[1][0].key, read[2], len(read[3])) == ("got", "found", None, 3)
        sent = [record.message.partition(":")[0] for record in caplog.records]
        assert sent.count("extend_expiry") == refresh
        now = await expiries()
        assert [now[key] > before[key] for key in ("got", "found")] == [refresh] * 2
        assert [now[key] for key in ("gone", "kept")] == [before["gone"], None]
    caplog.clear()
    await store.aget(("7",), "kept")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["get_by_keys"]


async def test_what_has_expired_is_read_by_nobody_and_swept(dsn):
    async with connect(dsn) as db:
        store = LtmStore(db)
        await store.aput(("7", "x"), "k", {}, ttl=1)
        await store.aput(("7", "y"), "k", {})
        async with db.transaction() as connection:
            expiry = "UPDATE ltm_memories SET expires_at = $1 WHERE expires_at IS NOT NULL"
            await connection.execute(expiry, datetime.now(UTC))

        assert await store.aget(("7", "x"), "k") is None
        assert await store.asearch(("7", "x")) == []
        assert await store.alist_namespaces() == [("7", "y")]
        assert await store.sweep_ttl() == 1
        assert await store.sweep_ttl() == 0


async def test_the_sweeper_starts_once_and_stops(store):
    task = await store.start_ttl_sweeper()
    assert await store.start_ttl_sweeper() is task
    assert await store.stop_ttl_sweeper()
    assert task.cancelled()


async def test_a_refused_value_is_a_typed_error_and_writes_nothing(store):
    with pytest.raises(InvalidMemory, match="metadata"):
        await store.aput(("7",), "k", {"at": datetime.now(UTC)})
    with pytest.raises(InvalidMemory, match="key"):
        await store.aput(("7",), "k" * 256, {})
    with pytest.raises(InvalidNamespaceError):
        await store.abatch([PutOp(("7", "a.b"), "k", {})])
    assert await store.asearch(("7",)) == []


async def test_blocking_calls_belong_to_other_threads(store):
    with pytest.raises(asyncio.InvalidStateError):
        store.get(("7",), "k")
    with pytest.raises(asyncio.InvalidStateError):
        store.batch([GetOp(("7",), "k")])

    await asyncio.to_thread(store.put, ("7",), "k", {"n": 1})
    assert (await asyncio.to_thread(store.get, ("7",), "k")).value == {"n": 1}


async def test_it_opens_a_database_of_its_own_in_both_worlds(empty):
    def blocking():
        dsn = empty.replace("postgresql:", "postgresql+asyncpg:")
        with LtmStore.from_conn_string(dsn, user_at=0) as store:
            store.setup()
            store.put(("7",), "k", {"n": 1})
            return store.search(("7",))

    (item,) = await asyncio.to_thread(blocking)
    assert item.value == {"n": 1}
    options = {"ttl": {"sweep_interval_minutes": 60}}
    async with LtmStore.from_conn_string(empty, **options) as store:
        await store.setup()
        assert await store.asearch(("7",)) == [item]


async def test_a_graph_remembers_across_threads(store, db):
    async def answer(state: MessagesState, *, store: BaseStore):
        said = str(state["messages"][-1].content)
        known = await store.asearch(("ada", "facts"))
        await store.aput(("ada", "facts"), said, {"said": said})
        return {"messages": [("assistant", f"I know {len(known)}")]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    compiled = graph.compile(store=store)

    answers = [
        (await compiled.ainvoke({"messages": [HumanMessage(said)]}))["messages"][-1].content
        for said in ("I like tea", "I run")
    ]

    assert answers == ["I know 0", "I know 1"]
    assert [n.namespace for n in await list_namespaces(db, "ada")] == ["facts"]
