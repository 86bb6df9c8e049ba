"""What callers can rely on: public names, signatures and defaults."""

import inspect

import pytest

import ltm_store
from ltm_store import InvalidArgument, compat

FILTERS = (
    "memory_type=None, category=None, tags=None, tags_any=None, source_type=None, source_id=None, "
    "context_data=None, metadata=None, min_importance=None, min_confidence=None, "
    "created_after=None, created_before=None, accessed_after=None, include_archived=False, "
    "created_by=None, tags_none=None, modified_after=None, namespace=None, "
    "namespace_prefix=None, key_prefix=None, phrases=(), exclude=()"
)
SIGNATURES = {
    "add_memory": "db, user_id, content, *, tags=(), importance_score=5, confidence_score=1.0, "
    "context=None, enhanced_context=None, memory_type=None, category=None, source_type=None, "
    "source_id=None, source_position=None, created_by='system', metadata=None, "
    "related_memory_ids=(), parent_memory_id=None, created_at=None, expires_at=None, "
    "idempotency_key=None, namespace=None, key=None, expires_after=None, embedding=None, "
    "embedding_model=None",
    "add_memories": "db, user_id, memories, *, on_error='raise'",
    "get_memory": "db, user_id, memory_id, *, include_relationships=False, as_of=None, "
    "access_context=None",
    "get_memories": "db, user_id, memory_ids",
    "search_memories": f"db, user_id, query=None, *, {FILTERS}, include_context=True, "
    "neighbours=True, distinct=True, importance_weight=0.1, query_embedding=None, "
    "embedding_model=None, meaning=0.4, limit=10, order=None, offset=0, as_of=None",
    "explain_search": f"db, user_id, query, memory_id, *, {FILTERS}, include_context=True, "
    "neighbours=True, distinct=True, importance_weight=0.1, query_embedding=None, "
    "embedding_model=None, meaning=0.4, limit=10, order=None, offset=0, as_of=None",
    "iterate_memories": f"db, user_id, *, {FILTERS}, include_context=True, order='importance', "
    "as_of=None",
    "count_memories": f"db, user_id, query=None, *, {FILTERS}, as_of=None",
    "delete_where": f"db, user_id, *, {FILTERS}, limit=10000, as_of=None",
    "archive_where": f"db, user_id, *, {FILTERS}, reason=None, limit=10000, as_of=None",
    "add_tags_where": "db, user_id, tags, *, "
    + FILTERS.replace(" tags=None,", "")
    + ", limit=10000, as_of=None",
    "list_sources": "db, user_id, *, limit=100, after=None",
    "get_source": "db, user_id, source_id, *, limit=1000",
    "update_memory": "db, user_id, memory_id, *, expected_version=None, **fields",
    "put_memories": "db, user_id, memories",
    "put_memory": "db, user_id, key, content, *, namespace=None, **fields",
    "get_by_key": "db, user_id, key, *, namespace=None",
    "get_by_keys": "db, user_id, places",
    "delete_by_key": "db, user_id, key, *, namespace=None",
    "delete_by_keys": "db, user_id, places",
    "rename_key": "db, user_id, old, new, *, namespace=None, prefix=False",
    "list_namespaces": "db, user_id, *, prefix=None, max_depth=None, counts=False, keyed=False",
    "update_importance": "db, user_id, memory_id, importance_score",
    "archive_memory": "db, user_id, memory_id, *, reason=None",
    "restore_memory": "db, user_id, memory_id",
    "delete_memory": "db, user_id, memory_id",
    "relate": "db, user_id, source_memory_id, target_memory_id, relationship_type='related', *, "
    "strength=1.0, description=None",
    "unrelate": "db, user_id, source_memory_id, target_memory_id, relationship_type=None",
    "get_relationships": "db, user_id, memory_id",
    "traverse": "db, user_id, memory_id, *, depth=2, types=None, min_strength=None, limit=100",
    "shortest_path": "db, user_id, source_memory_id, target_memory_id, *, max_depth=6, types=None, "
    "min_strength=None",
    "suggest_relationships": "db, user_id, memory_id, *, limit=10",
    "add_tags": "db, user_id, memory_id, tags, *, tag_category=None, tag_importance=None, "
    "tag_confidence=None",
    "remove_tags": "db, user_id, memory_id, tags",
    "rename_tag": "db, user_id, old, new",
    "list_tags": "db, user_id, *, memory_id=None, tag_category=None, limit=100",
    "related_tags": "db, user_id, tag, *, limit=10",
    "record_access": "db, user_id, memory_ids, *, access_method='direct', access_context=None, "
    "user_query=None",
    "record_feedback": "db, user_id, memory_id, *, was_relevant=None, relevance_score=None",
    "access_history": "db, user_id, memory_id, *, limit=50",
    "memory_graph": "db, user_id, memory_id, *, depth=2, limit=30",
    "to_mermaid": "graph",
    "to_dot": "graph",
    "to_svg": "graph, *, inline=False",
    "render_report": "db, user_id, *, as_of=None",
    "adoption_report": "db, *, user_id=None",
    "adoption_repairs": "db, *, user_id=None",
    "archive_stale": "db, user_id, below, as_of=None, *, limit=1000",
    "extend_expiry": "db, user_id, memory_ids",
    "get_children": "db, user_id, memory_id, *, as_of=None, limit=1000",
    "purge_expired": "db, *, as_of=None",
    "prune_accesses": "db, older_than",
    "make_access_partitions": "db, *, months=3",
    "check_health": "db",
    "get_analytics": "db, user_id, *, as_of=None",
    "embed_memories": "db, user_id, embeddings, *, embedding_model=None",
    "embed_memory": "db, user_id, memory_id, embedding, *, embedding_model=None",
    "embed_missing": "db, user_id=None, *, limit=None",
    "embedding_status": "db, *, as_of=None",
    "find_similar": "db, user_id, memory_id, *, limit=10, as_of=None",
    "index_user": "db, user_id, *, model=None",
    "export_user": "db, user_id, *, with_embeddings=False",
    "import_user": "db, user_id, lines",
    "forget_user": "db, user_id",
    "list_users": "db, *, after=None, limit=100",
    "rename_user": "db, external_id, new",
    "merge_users": "db, from_user, into_user",
    "format_for_prompt": "hits, *, max_chars, ids=False",
    "connect": "dsn=None, *, access_tracking='deferred', timeout=10.0, min_size=1, max_size=10, "
    "pgbouncer=False, check_schema=True, trust_schema=False, "
    "coalesce=True, embedder=None, read_dsn=None, max_lag=1.0, row_level_security=False, "
    "tracer_provider=None, "
    "meter_provider=None",
}
COMPAT = {
    "add_enhanced_ltm_memory": "user_id, content, tags, importance_score=1, context=None, "
    "enhanced_context=None, memory_type=None, category=None, confidence_score=1.0, "
    "source_type=None, source_id=None, created_by='system', metadata=None, "
    "related_memory_ids=None, parent_memory_id=None",
    "get_enhanced_ltm_memory": "memory_id, user_id",
    "search_enhanced_ltm_memories": "user_id, query, limit=5, min_importance=1, memory_type=None, "
    "category=None, tags=None, source_type=None, include_context=True, *, offset=0",
    "get_memory_relationships": "memory_id, user_id",
    "update_memory_importance": "memory_id, user_id, new_importance",
    "archive_memory": "memory_id, user_id, reason='User request'",
    "get_memory_analytics": "user_id",
    "run_ltm_enhancement_migration": "database_url",
    "add_ltm_memory": "user_id, content, tags, importance_score=1, context=None, **details",
    "search_ltm_memories": "user_id, query, limit=5, min_importance=1, *, offset=0",
    "get_relevant_ltm_memories": "user_id, context, limit=3",
    "delete_ltm_memory": "user_id, memory_id",
    "get_ltm_memory_stats": "user_id",
    "create_default_context": "",
    "configure": "dsn=None, **options",
    "close": "",
}


def signature(function: object) -> str:
    assert callable(function)
    shown = []
    star = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        shown.append(str(parameter.replace(annotation=parameter.empty)).replace(" = ", "="))
    return ", ".join(shown)


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_public_function_has_the_promised_signature(name):
    assert signature(getattr(ltm_store, name)) == SIGNATURES[name]
    assert name in ltm_store.__all__


@pytest.mark.parametrize("name", COMPAT)
def test_a_function_of_the_original_has_the_promised_signature(name):
    assert signature(getattr(compat, name)) == COMPAT[name]


OTHERS: dict[str, object] = {  # arguments that are right
    **dict.fromkeys(("user_id", "memory_id", "source_memory_id", "importance_score", "below"), 1),
    **{"target_memory_id": 2, "memory_ids": [1], "memories": [], "lines": [], "places": []},
    **{"embedding": [1.0], "embeddings": {}, "tags": ["t"]},
    **dict.fromkeys(("from_user", "external_id", "old", "old_name"), "nobody"),
    **dict.fromkeys(("into_user", "new", "new_name"), "somebody"),
    **dict.fromkeys(("content", "key", "query", "source_id", "tag", "tag_name"), "x"),
}


# embed_missing names the Database first, which has no embedder.
CALLED = [n for n, said in SIGNATURES.items() if said.startswith("db") and n != "embed_missing"]


@pytest.mark.parametrize("name", CALLED)
async def test_an_error_of_an_argument_names_it(conn, name):
    function = getattr(ltm_store, name)
    _, *parameters = inspect.signature(function).parameters.values()
    known = {
        p.name: OTHERS[p.name] for p in parameters if p.default is p.empty and p.name in OTHERS
    }
    known |= {"category": "x"} if name.endswith("_where") else {}
    known |= {"was_relevant": True} if name == "record_feedback" else {}
    named = []
    for parameter in parameters:
        for odd in (object(), 1.5, "\0", b"x"):
            try:
                async with conn.transaction():
                    called = function(conn, **{**known, parameter.name: odd})
                    await (anext(called, None) if hasattr(called, "__anext__") else called)
            except InvalidArgument as error:
                named.append((parameter.name, error.field.partition(".")[0]))
    assert [pair for pair in named if pair[0] != pair[1]] == []


def test_the_limits_of_the_models_are_those_of_the_schema():
    """Each limit stands in a CHECK or a type of the migrations."""
    from ltm_store import limits
    from ltm_store.db.resources import resource_dir

    schema = "".join(p.read_text() for p in resource_dir("migrations").rglob("*.sql"))
    for text in (
        f"octet_length(content) <= {limits.CONTENT_BYTES}",
        f"jsonb_array_length(tags) <= {limits.TAGS}",
        f"^.{{{limits.TAG_CHARS + 1}}}",
        f"tag_name varchar({limits.TAG_CHARS})",
        f"octet_length(memory_metadata::text) <= {limits.JSON_BYTES}",
        f"octet_length(context_data::text) <= {limits.JSON_BYTES}",
        f"strict $.**{{{limits.JSON_DEPTH + 1}}}",
        f"context_key varchar({limits.CONTEXT_KEY_CHARS})",
        f"memory_type varchar({limits.WORD_CHARS})",
        f"relationship_type varchar({limits.WORD_CHARS})",
        f"category varchar({limits.CATEGORY_CHARS})",
        f"char_length(source_id) <= {limits.SOURCE_ID_CHARS}",
        f"char_length(idempotency_key) BETWEEN 1 AND {limits.IDEMPOTENCY_KEY_CHARS}",
        f"char_length(key) BETWEEN 1 AND {limits.KEY_CHARS}",
        f"octet_length(namespace) <= {limits.NAMESPACE_BYTES}",
        f"expires_after <= '{limits.EXPIRES_AFTER_DAYS} days'",
        f"char_length(external_id) BETWEEN 1 AND {limits.EXTERNAL_ID_CHARS}",
        f"MINVALUE -{limits.USER_ID}",
        f"dimensions BETWEEN 1 AND {limits.EMBEDDING_DIMENSIONS}",
        f"octet_length(model) BETWEEN 1 AND {limits.EMBEDDING_MODEL_BYTES}",
        f"char_length(note) BETWEEN 1 AND {limits.EMBEDDING_NOTE_CHARS}",
    ):
        assert text in schema.replace("(\n        char", "(char"), text
