"""Long-term memory of an AI assistant, kept in PostgreSQL."""

from ltm_store.accesses import access_history, record_access, record_feedback
from ltm_store.adding import add_memory
from ltm_store.analytics import get_analytics
from ltm_store.database import Database, connect
from ltm_store.embedders import Embedder
from ltm_store.embeddings import (
    embed_memories,
    embed_memory,
    embedding_status,
    find_similar,
    index_user,
)
from ltm_store.errors import (
    InvalidArgument,
    InvalidMemory,
    LtmError,
    PermissionDenied,
    SchemaOutdated,
    StepMissing,
    Unavailable,
)
from ltm_store.graph import memory_graph
from ltm_store.keys import (
    delete_by_key,
    delete_by_keys,
    get_by_key,
    get_by_keys,
    list_namespaces,
    put_memories,
    put_memory,
    rename_key,
)
from ltm_store.maintenance import (
    adoption_repairs,
    adoption_report,
    check_health,
    make_access_partitions,
    prune_accesses,
    purge_expired,
)
from ltm_store.many import add_tags_where, archive_where, delete_where
from ltm_store.meaning import embed_missing
from ltm_store.memories import (
    archive_memory,
    archive_stale,
    delete_memory,
    extend_expiry,
    get_children,
    get_memories,
    get_memory,
    restore_memory,
    update_importance,
    update_memory,
)
from ltm_store.model.accesses import Access
from ltm_store.model.analytics import Analytics
from ltm_store.model.contexts import (
    CustomContext,
    EmotionalContext,
    EnhancedContext,
    EnvironmentalContext,
    SocialContext,
    SpatialContext,
    TechnicalContext,
    TemporalContext,
)
from ltm_store.model.embeddings import EmbeddingStatus
from ltm_store.model.keys import Namespace
from ltm_store.model.maintenance import HealthProblem, Repair, RepairCount
from ltm_store.model.memories import Conflict, Memory, MemoryType, NewMemory, SourceType
from ltm_store.model.relationships import (
    Graph,
    GraphEdge,
    GraphNode,
    MemoryPath,
    ReachedMemory,
    Relationship,
    RelationshipType,
    Suggestion,
)
from ltm_store.model.search import MemoryHit, SearchExplanation
from ltm_store.model.sources import Source
from ltm_store.model.tags import RelatedTag, Tag
from ltm_store.model.transfer import ErasureReport, ImportReport
from ltm_store.model.users import ClearedKey, MergeReport, UserSummary
from ltm_store.relationships import (
    get_relationships,
    relate,
    shortest_path,
    suggest_relationships,
    traverse,
    unrelate,
)
from ltm_store.render.flowchart import to_dot, to_mermaid
from ltm_store.render.prompts import format_for_prompt
from ltm_store.render.svg import to_svg
from ltm_store.report import render_report
from ltm_store.search import count_memories, explain_search, iterate_memories, search_memories
from ltm_store.sources import get_source, list_sources
from ltm_store.tags import add_tags, list_tags, related_tags, remove_tags, rename_tag
from ltm_store.transfer import add_memories, export_user, import_user
from ltm_store.users import forget_user, list_users, merge_users, rename_user

__version__ = "0.1.0.dev0"

__all__ = [
    "Access",
    "Analytics",
    "ClearedKey",
    "Conflict",
    "CustomContext",
    "Database",
    "Embedder",
    "EmbeddingStatus",
    "EmotionalContext",
    "EnhancedContext",
    "EnvironmentalContext",
    "ErasureReport",
    "Graph",
    "GraphEdge",
    "GraphNode",
    "HealthProblem",
    "ImportReport",
    "InvalidArgument",
    "InvalidMemory",
    "LtmError",
    "Memory",
    "MemoryHit",
    "MemoryPath",
    "MemoryType",
    "MergeReport",
    "Namespace",
    "NewMemory",
    "PermissionDenied",
    "ReachedMemory",
    "RelatedTag",
    "Relationship",
    "RelationshipType",
    "Repair",
    "RepairCount",
    "SchemaOutdated",
    "SearchExplanation",
    "SocialContext",
    "Source",
    "SourceType",
    "SpatialContext",
    "StepMissing",
    "Suggestion",
    "Tag",
    "TechnicalContext",
    "TemporalContext",
    "Unavailable",
    "UserSummary",
    "access_history",
    "add_memories",
    "add_memory",
    "add_tags",
    "add_tags_where",
    "adoption_repairs",
    "adoption_report",
    "archive_memory",
    "archive_stale",
    "archive_where",
    "check_health",
    "connect",
    "count_memories",
    "delete_by_key",
    "delete_by_keys",
    "delete_memory",
    "delete_where",
    "embed_memories",
    "embed_memory",
    "embed_missing",
    "embedding_status",
    "explain_search",
    "export_user",
    "extend_expiry",
    "find_similar",
    "forget_user",
    "format_for_prompt",
    "get_analytics",
    "get_by_key",
    "get_by_keys",
    "get_children",
    "get_memories",
    "get_memory",
    "get_relationships",
    "get_source",
    "import_user",
    "index_user",
    "iterate_memories",
    "list_namespaces",
    "list_sources",
    "list_tags",
    "list_users",
    "make_access_partitions",
    "memory_graph",
    "merge_users",
    "prune_accesses",
    "purge_expired",
    "put_memories",
    "put_memory",
    "record_access",
    "record_feedback",
    "relate",
    "related_tags",
    "remove_tags",
    "rename_key",
    "rename_tag",
    "rename_user",
    "render_report",
    "restore_memory",
    "search_memories",
    "shortest_path",
    "suggest_relationships",
    "to_dot",
    "to_mermaid",
    "to_svg",
    "traverse",
    "unrelate",
    "update_importance",
    "update_memory",
]
