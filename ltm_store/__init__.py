"""Long-term memory of an AI assistant, kept in PostgreSQL."""

from ltm_store.accesses import access_history, record_access, record_feedback
from ltm_store.analytics import get_analytics
from ltm_store.contexts import (
    CustomContext,
    EmotionalContext,
    EnhancedContext,
    EnvironmentalContext,
    SocialContext,
    SpatialContext,
    TechnicalContext,
    TemporalContext,
)
from ltm_store.database import Database, connect
from ltm_store.errors import Conflict, InvalidMemory, LtmError, SchemaOutdated, Unavailable
from ltm_store.maintenance import prune_accesses, purge_expired
from ltm_store.memories import (
    add_memory,
    archive_memory,
    archive_stale,
    delete_memory,
    explain_search,
    get_children,
    get_memories,
    get_memory,
    iterate_memories,
    restore_memory,
    search_memories,
    update_importance,
    update_memory,
)
from ltm_store.models import (
    Access,
    Analytics,
    ErasureReport,
    ImportReport,
    Memory,
    MemoryHit,
    MemoryType,
    NewMemory,
    Relationship,
    RelationshipType,
    SearchExplanation,
    SourceType,
)
from ltm_store.prompts import format_for_prompt
from ltm_store.relationships import get_relationships, relate, unrelate
from ltm_store.transfer import add_memories, export_user, import_user
from ltm_store.users import forget_user

__version__ = "0.1.0.dev0"

__all__ = [
    "Access",
    "Analytics",
    "Conflict",
    "CustomContext",
    "Database",
    "EmotionalContext",
    "EnhancedContext",
    "EnvironmentalContext",
    "ErasureReport",
    "ImportReport",
    "InvalidMemory",
    "LtmError",
    "Memory",
    "MemoryHit",
    "MemoryType",
    "NewMemory",
    "Relationship",
    "RelationshipType",
    "SchemaOutdated",
    "SearchExplanation",
    "SocialContext",
    "SourceType",
    "SpatialContext",
    "TechnicalContext",
    "TemporalContext",
    "Unavailable",
    "access_history",
    "add_memories",
    "add_memory",
    "archive_memory",
    "archive_stale",
    "connect",
    "delete_memory",
    "explain_search",
    "export_user",
    "forget_user",
    "format_for_prompt",
    "get_analytics",
    "get_children",
    "get_memories",
    "get_memory",
    "get_relationships",
    "import_user",
    "iterate_memories",
    "prune_accesses",
    "purge_expired",
    "record_access",
    "record_feedback",
    "relate",
    "restore_memory",
    "search_memories",
    "unrelate",
    "update_importance",
    "update_memory",
]
