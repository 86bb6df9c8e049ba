"""Long-term memory of an AI assistant, kept in PostgreSQL."""

from ltm_store.accesses import record_access
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
from ltm_store.memories import (
    add_memory,
    archive_memory,
    delete_memory,
    explain_search,
    get_memories,
    get_memory,
    iterate_memories,
    restore_memory,
    search_memories,
    update_importance,
    update_memory,
)
from ltm_store.models import (
    Analytics,
    ErasureReport,
    ImportReport,
    Memory,
    MemoryHit,
    MemoryType,
    NewMemory,
    Path,
    ReachedMemory,
    Relationship,
    RelationshipType,
    SearchExplanation,
    SourceType,
)
from ltm_store.prompts import format_for_prompt
from ltm_store.relationships import (
    get_relationships,
    relate,
    shortest_path,
    traverse,
    unrelate,
)
from ltm_store.transfer import add_memories, export_user, import_user
from ltm_store.users import forget_user

__version__ = "0.1.0.dev0"

__all__ = [
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
    "Path",
    "ReachedMemory",
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
    "add_memories",
    "add_memory",
    "archive_memory",
    "connect",
    "delete_memory",
    "explain_search",
    "export_user",
    "forget_user",
    "format_for_prompt",
    "get_analytics",
    "get_memories",
    "get_memory",
    "get_relationships",
    "import_user",
    "iterate_memories",
    "record_access",
    "relate",
    "restore_memory",
    "search_memories",
    "shortest_path",
    "traverse",
    "unrelate",
    "update_importance",
    "update_memory",
]
