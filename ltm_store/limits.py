"""The largest values that are stored. The schema's CHECKs enforce the same ones."""

from typing import Final

USER_ID: Final = 2**53 - 1
EXTERNAL_ID_CHARS: Final = 255
MEMORY_ID: Final = 2**63 - 1
CONTENT_BYTES: Final = 1024 * 1024
QUERY_BYTES: Final = 250_000
QUERY_TERMS: Final = 64  # words of a query that are looked for, the first ones
PHRASES: Final = 64  # that a memory must hold, and that it must not
TAGS: Final = 100
TAG_CHARS: Final = 100
TAG_IMPORTANCE: Final = 1e100  # of either sign; sums of it are numbers too
JSON_BYTES: Final = 256 * 1024
JSON_DEPTH: Final = 32
METADATA_CONDITIONS: Final = 200  # of a filter with operators
METADATA_PATH_CHARS: Final = 1024 * 1024  # of the jsonpath that they become
CONTEXT_LEAVES: Final = 200
CONTEXT_KEY_CHARS: Final = 100
WORD_CHARS: Final = 50  # memory_type, source_type, relationship_type, created_by, context_type
CATEGORY_CHARS: Final = 100
SOURCE_ID_CHARS: Final = 255
IDEMPOTENCY_KEY_CHARS: Final = 255
EXPIRES_AFTER_DAYS: Final = 36_525
NAMESPACE_BYTES: Final = 1_500
KEY_CHARS: Final = 255
NOTE_CHARS: Final = 10_000  # reasons, descriptions, access contexts, recorded queries
RELATED: Final = 1_000  # related memories of one add
LISTED: Final = 10_000  # ids of one call
HITS: Final = 1_000
OFFSET: Final = 10_000
SHARED_BY: Final = 100  # what more memories share suggests no relationship
DEPTH: Final = 20  # relationships of a path
PATH_MEMORIES: Final = 1_000  # of one level, that a search for a path goes on from
PATH_RELATIONSHIPS: Final = 10_000  # of one level in each direction, that it follows
GRAPH: Final = 200  # memories of a graph beside the one it begins at
EMBEDDING_DIMENSIONS: Final = 4_000
EMBEDDING_NUMBER: Final = 60_000.0  # of either sign, that is stored as it is
EMBEDDING_MODEL_BYTES: Final = 64
EMBEDDING_NOTE_CHARS: Final = 200
EMBEDDED_CHARS: Final = 200_000  # of a content, that have vectors; so many are searchable too
