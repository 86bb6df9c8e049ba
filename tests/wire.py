"""A proxy in front of the server: counts round trips, swallows bytes, cuts connections.

What is lost that way is waited for in vain: impatient bounds how long.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from ltm_store import Database

DEADLINE = 0.3  # seconds


def _statements(sent: bytearray) -> int:
    """How many statements the whole messages run that a client has sent; they are taken away."""
    found = 0
    while len(sent) >= 8:
        is_start = sent[0] == 0  # it alone has no type: the length comes first
        length = int.from_bytes(sent[:4]) if is_start else 1 + int.from_bytes(sent[1:5])
        if len(sent) < length:
            break
        found += sent[0] in b"EQ"
        del sent[:length]
    return found


class Wire:
    """Stands between clients and the server, on a port of its own."""

    def __init__(self, dsn: str) -> None:
        self._target = urlsplit(dsn)
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0
        self.round_trips = 0
        self.statements = 0
        self.swallowing = False
        self.delay = 0.0  # seconds before what is sent goes on
        self._dead: set[asyncio.StreamWriter] = set()
        self._ended: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def dsn(self) -> str:
        user, at, _ = self._target.netloc.rpartition("@")  # with the password
        others = [(name, value) for name, value in parse_qsl(self._target.query) if name != "host"]
        query = f"?{urlencode(others)}" if others else ""
        return f"postgresql://{user}{at}127.0.0.1:{self.port}{self._target.path}{query}"

    async def _upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = parse_qs(self._target.query).get("host", [self._target.hostname or "localhost"])[0]
        port = self._target.port or 5432
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            server_reader, server_writer = await self._upstream()
        except OSError:  # the server is down
            writer.close()
            return
        self._writers += [writer, server_writer]
        answered = True
        sent = bytearray()

        async def requests() -> None:
            nonlocal answered
            while data := await reader.read(65536):
                sent.extend(data)
                self.statements += _statements(sent)
                if answered:  # a new request after an answer: one more trip
                    self.round_trips += 1
                    answered = False
                await asyncio.sleep(self.delay)
                if not self._silent(writer):
                    server_writer.write(data)

        async def answers() -> None:
            nonlocal answered
            while data := await server_reader.read(65536):
                answered = True
                if not self._silent(writer) and writer not in self._ended:
                    writer.write(data)

        both = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        writer.close()
        server_writer.close()
        await asyncio.gather(*both, return_exceptions=True)

    def _silent(self, writer: asyncio.StreamWriter) -> bool:
        """While the proxy swallows, whoever sends through a connection loses it for good."""
        if self.swallowing:
            self._dead.add(writer)
        return writer in self._dead

    def swallow_present(self) -> None:
        """Lose what goes through the connections that are there now; new ones pass."""
        self._dead.update(self._writers)

    def half_close(self) -> None:
        """Send every client the end of the stream, and go on taking what it sends."""
        for writer in self._writers[::2]:
            if not writer.is_closing():
                self._ended.add(writer)
                writer.write_eof()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def wire(dsn: str) -> AsyncIterator[Wire]:
    """A proxy in front of the server of this DSN."""
    proxy = Wire(dsn)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()


@contextmanager
def impatient(db: Database) -> Iterator[None]:
    """Give the calls of a block a short deadline, which all of it may take ten times.

    The set-up before it and the checks after it have the usual deadline, on a busy machine too.
    """
    patient, db.timeout = db.timeout, DEADLINE
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 10 * DEADLINE
    db.timeout = patient
