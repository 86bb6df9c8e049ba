"""Which server is meant: one DSN, as asyncpg and as libpq read it."""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from ltm_store.errors import InvalidArgument

_URL = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://(?P<place>[^/?#]*)(?:/(?P<name>[^?#]*))?(?:\?(?P<query>[^#]*))?"
)
_WORD = re.compile(
    r"\s*(?P<name>\w+)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?:\s+|$)"
)


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What both libraries read from a DSN, and take for the same.
_BOTH: Final = _words_of("""
    host port dbname user password passfile service sslmode sslcert sslkey sslrootcert
    sslcrl sslpassword sslnegotiation ssl_min_protocol_version ssl_max_protocol_version
    target_session_attrs krbsrvname gsslib application_name
""")
# What libpq reads and asyncpg would send to the server as a setting. A connection is as good
# without: connect() has a timeout of its own, keeps connections alive, and TLS stands by itself.
# (That of channel_binding=require is not, but services hand it out to everyone.)
_LIBPQ_ALONE: Final = _words_of("""
    channel_binding connect_timeout keepalives keepalives_idle keepalives_interval
    keepalives_count tcp_user_timeout gssencmode gssdelegation sslcompression sslsni
    sslcertmode require_auth requirepeer load_balance_hosts hostaddr client_encoding
    max_protocol_version min_protocol_version
""")
# Of other programs and of hosting services, which neither library knows.
_OTHERS: Final = _words_of("""
    connection_limit pool_timeout socket_timeout supa workaround
    prepared_statement_name_func async_fallback
""")
_DEMANDS: Final = ("require_auth", "requirepeer")
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_RENAMED: Final = {"database": "dbname", "fallback_application_name": "application_name"}
_SSL: Final = {"true": "require", "1": "require", "false": "disable", "0": "disable"}


class Target(NamedTuple):
    """A DSN in two forms, and whether it says that PgBouncer is in between."""

    asyncpg: str
    libpq: str
    pgbouncer: bool


def target(given: str | None = None) -> Target | None:
    """The DSN that is given, else that in LTM_DATABASE_URL, else in DATABASE_URL, else None.

    Raises InvalidArgument naming the parameter that cannot be honoured, never a value.
    """
    if not isinstance(given, str | None):
        raise InvalidArgument("dsn", "should be text")
    for dsn in (given, os.environ.get("LTM_DATABASE_URL"), os.environ.get("DATABASE_URL")):
        if dsn is not None and dsn.strip():
            return _read(_unquoted(dsn.strip()))
    return None


def for_libpq(given: str) -> str:
    """The DSN that is given, as libpq reads it; a blank one is what `target` finds instead of it.

    Raises InvalidArgument as `target` does.
    """
    found = target(given)
    return found.libpq if found else given


def of_standby(given: str) -> str:
    """The DSN of a standby as asyncpg reads it. Raises InvalidArgument, which names read_dsn."""
    found, refused = None, "should be the DSN of a standby"
    if isinstance(given, str) and given.strip():
        try:
            found = _read(_unquoted(given.strip()))
        except InvalidArgument as error:
            refused = error.rule
    if found is None:
        raise InvalidArgument("read_dsn", refused)
    parts = urlsplit(found.asyncpg)
    hosts = parts.netloc.rpartition("@")[2] + dict(parse_qsl(parts.query)).get("host", "")
    if found.pgbouncer or "," in hosts:  # another connection may lead to another standby
        raise InvalidArgument("read_dsn", "should lead to one server, not to several or PgBouncer")
    return found.asyncpg


def _unquoted(dsn: str) -> str:
    """The DSN without quotes around all of it, as some files of settings hold it."""
    is_quoted = len(dsn) > 1 and dsn[0] == dsn[-1] and dsn[0] in "'\""
    return dsn[1:-1].strip() if is_quoted else dsn


def _read(dsn: str) -> Target:
    if url := _URL.fullmatch(dsn):
        place, name = url["place"], url["name"]
        query = (url["query"] or "").replace("+", "%2B")  # libpq reads no blank there
        given: dict[str, str] = dict(parse_qsl(query, keep_blank_values=True))
    else:
        place, name, given = "", None, _words(dsn)
    both: dict[str, str] = {}
    libpq: dict[str, str] = {}
    options: list[str] = []
    pgbouncer = False
    for parameter, value in given.items():
        known = _RENAMED.get(parameter, parameter)
        if known == "ssl":
            both["sslmode"] = _SSL.get(value.lower(), value)
        elif known == "schema":
            options.append(f"-csearch_path={value}")
        elif known == "options":
            options.append(value)
        elif known == "pgbouncer" or known.endswith("statement_cache_size"):
            pgbouncer |= value.lower() in (("true", "1") if known == "pgbouncer" else ("0",))
        elif known in _BOTH:
            if known in _FILES and value != "system" and not os.path.exists(value):
                raise InvalidArgument("dsn", f"TLS: the file of {known} (a certificate) is missing")
            both[known] = value
        elif known in _LIBPQ_ALONE:
            if known in _DEMANDS or (known.endswith("mode") and value == "require"):
                raise InvalidArgument("dsn", f"{known} demands what asyncpg cannot promise")
            libpq[known] = value
        elif known not in _OTHERS:
            raise InvalidArgument("dsn", f"the parameter {known[:50]!a} is not known")
    if options:
        both["options"] = " ".join(options)
    named = dict(both)
    if "hostaddr" in libpq and not place:  # asyncpg resolves a name by itself
        named.setdefault("host", libpq["hostaddr"])
    return Target(_url(place, name, named), _url(place, name, both | libpq), pgbouncer)


def _words(dsn: str) -> dict[str, str]:
    """The parameters of a DSN in the form of libpq's keywords: host=localhost dbname=x."""
    found: dict[str, str] = {}
    end = 0
    while end < len(dsn):
        word = _WORD.match(dsn, end)
        if word is None:
            raise InvalidArgument("dsn", "should be postgresql://... or host=... dbname=...")
        value = word["value"]
        value = value[1:-1] if value.startswith("'") else value
        found[word["name"]] = re.sub(r"\\(.)", r"\1", value)
        end = word.end()
    return found


def _url(place: str, name: str | None, parameters: dict[str, str]) -> str:
    query = urlencode(parameters, quote_via=quote, safe="/")
    path = "" if name is None else f"/{name}"
    return f"postgresql://{place}{path}{'?' + query if query else ''}"
