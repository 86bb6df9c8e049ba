"""The page on a user: its figures are those of the store, and it is harmless."""

import re
import shutil
import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import asyncpg
import pytest

from ltm_store import (
    Analytics,
    add_memory,
    archive_memory,
    get_analytics,
    record_access,
    relate,
    render_report,
    update_memory,
)
from ltm_store.render.text import escaped
from tests.attacks import ATTACKS
from tests.populate import populate

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: every element with its attributes, all text, all closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def given(self, name: str, value: str) -> dict[str, str]:
        """One data- attribute of the elements that have another one, by that."""
        return {
            str(attributes[name]): str(attributes[value])
            for _, attributes in self.elements
            if name in attributes and value in attributes
        }


async def fill(db) -> list[int]:
    """Twelve memories over eight months; what is related, accessed and archived is known."""
    ids = []
    for n in range(12):
        memory = await add_memory(
            db,
            1,
            f"memory {n}",
            memory_type=["fact", "goal", None][n % 3],
            category="even" if n % 2 == 0 else "odd",
            tags=["all", f"t{n % 4}"],
            namespace=["", "<agents>"][n % 2],
            importance_score=1 + n % 10,
            created_at=NOW - timedelta(days=20 * n),
        )
        ids.append(memory.id)
    expired = await add_memory(db, 1, "expired", tags=["expired"])
    await add_memory(db, 2, "another's")
    for n in (5, 5, 5, 7):
        await record_access(db, 1, [ids[n]])
    for n in (1, 2, 3):
        await relate(db, 1, ids[0], ids[n], "causes")
    await relate(db, 1, ids[0], expired.id)
    await relate(db, 1, expired.id, ids[0])
    await update_memory(db, 1, expired.id, expires_at=NOW - timedelta(days=1))
    await archive_memory(db, 1, ids[11])
    return ids


def check(page: Page, figures: Analytics) -> None:
    """The page shows what get_analytics tells."""
    shown = page.given("data-figure", "data-value")
    for name in (
        "total_memories",
        "archived_memories",
        "average_importance",
        "average_dynamic_importance",
    ):
        assert shown[name] == str(getattr(figures, name))
    months = {
        month: int(count)
        for month, count in page.given("data-month", "data-memories").items()
        if count != "0"
    }
    assert months == figures.growth_by_month
    for kind in ("type", "category", "namespace", "tag"):
        counts = page.given(f"data-{kind}", "data-memories")
        assert {name: int(count) for name, count in counts.items()} == getattr(
            figures, f"{kind}_distribution"
        )
    assert page.given("data-accessed", "data-value") == {
        str(m.id): str(m.access_count) for m in figures.most_accessed_memories
    }
    assert page.given("data-related", "data-value") == {
        str(m.id): str(m.relationship_count) for m in figures.most_related_memories
    }


async def test_the_figures_are_those_of_the_analytics(conn):
    await fill(conn)
    page = Page(await render_report(conn, 1, as_of=NOW))
    check(page, await get_analytics(conn, 1, as_of=NOW))
    assert list(page.given("data-month", "data-memories")) == [
        *("2025-11", "2025-12", "2026-01", "2026-02", "2026-03", "2026-04", "2026-05", "2026-06")
    ]


async def test_the_other_figures_are_those_of_the_rows(conn):
    ids = await fill(conn)
    page = Page(await render_report(conn, 1, as_of=NOW))
    rows = await conn.fetch(
        "SELECT id, created_at, coalesce(is_archived, false) AS is_archived, "
        "coalesce(access_count, 0) AS access_count, "
        "coalesce(last_accessed, created_at) AS last_seen, "
        "ltm_dynamic_importance(importance_rank, $1) AS dynamic, "
        "ltm_dynamic_importance(importance_rank, $1 + interval '365 days') AS later "
        "FROM ltm_memories WHERE user_id = 1 AND content <> 'expired'",
        NOW,
    )
    shown = page.given("data-figure", "data-value")
    assert shown["accesses"] == "4"
    assert shown["relationships"] == "3"
    assert shown["never_recalled"] == "9"
    later = sum(row["later"] for row in rows) / len(rows)
    assert float(shown["importance_in_a_year"]) == pytest.approx(later)
    months: dict[str, list[float]] = {}
    for row in rows:
        months.setdefault(f"{row['created_at']:%Y-%m}", []).append(row["dynamic"])
    averages = page.given("data-month", "data-average")
    highest = page.given("data-month", "data-highest")
    assert set(averages) == set(months)
    for month, values in months.items():
        assert float(averages[month]) == pytest.approx(sum(values) / len(values))
        assert float(highest[month]) == pytest.approx(max(values))
    points = Counter(str(min(int(row["dynamic"]), 9)) for row in rows)
    by_points = page.given("data-points", "data-memories")
    assert {point: int(count) for point, count in by_points.items() if count != "0"} == points
    active = [row for row in rows if not row["is_archived"]]
    stale = sorted(active, key=lambda row: (row["last_seen"], row["id"]))
    assert list(page.given("data-stale", "data-value")) == [str(row["id"]) for row in stale[:10]]
    missed = sorted(
        (row for row in active if not row["access_count"]),
        key=lambda row: (row["dynamic"], row["id"]),
        reverse=True,
    )
    assert list(page.given("data-missed", "data-value")) == [str(row["id"]) for row in missed]
    drawn = {a["data-memory-id"] for _, a in page.elements if "data-memory-id" in a}
    assert drawn == {str(n) for n in ids[:4]}


@pytest.mark.parametrize("user", [7, "nobody"])
async def test_an_empty_user_is_told_so_kindly(conn, user):
    page = Page(await render_report(conn, user))
    assert f"Memories of {user}" in page.text
    assert "Nothing is remembered yet" in page.text
    assert any("data-empty" in attributes for _, attributes in page.elements)
    assert page.given("data-figure", "data-value") == {}
    count = await conn.fetchval("SELECT count(*) FROM ltm_external_users")
    assert count == 0, "reading creates nobody"


async def test_hostile_words_stay_words(conn):
    user = "<script>alert('user')</script>\"&"
    ids = []
    for words in ATTACKS:
        memory = await add_memory(
            conn,
            user,
            words,
            memory_type=words[:50],
            category=words[:60],
            tags=[words[:60].strip() or "blank"],
        )
        ids.append(memory.id)
    for other in ids[1:]:
        await relate(conn, user, ids[0], other, '"><img src=x onerror=alert(1)>')
    await record_access(conn, user, ids)
    text = await render_report(conn, user)
    page = Page(text)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "img", "iframe", "link", "object", "a", "form"}
    assert not [key for _, attributes in page.elements for key in attributes if key[:2] == "on"]
    assert '<script>alert("1")</script>' in page.text
    assert text.count("<b>") == sum(name == "b" for name, _ in page.elements)
    shown = set(page.given("data-type", "data-memories"))
    assert len(shown) > 5
    assert shown <= {escaped(words[:50]) for words in ATTACKS}
    assert "Memories of <script>alert('user')</script>\"&" in page.text
    assert "\x1b" not in re.sub(r'data-\w+="[^"]*"', "", text)


async def test_the_page_loads_nothing(conn):
    await fill(conn)
    text = await render_report(conn, 1, as_of=NOW)
    assert "http" not in text.replace("http-equiv", "")
    assert not re.search(r"\b(?:src|href|srcset)=|@import|url\((?!#)|//\w", text)
    assert "default-src 'none'" in text
    for answer in ("prefers-color-scheme:dark", "max-width:760px", "tabular-nums"):
        assert answer in text


async def test_many_years_are_shown_by_year_and_the_oldest_are_counted(conn):
    for year in (1800, 1950, 1990, 2020, 2020):
        await add_memory(conn, 1, "x", created_at=datetime(year, 5, 1, tzinfo=UTC))
    page = Page(await render_report(conn, 1, as_of=NOW))
    years = page.given("data-year", "data-memories")
    assert (len(years), next(iter(years)), sum(map(int, years.values()))) == (60, "1961", 3)
    assert "2 are older" in page.text


async def test_rows_as_an_old_program_leaves_them_are_reported(conn):
    await fill(conn)
    await conn.execute(
        "UPDATE ltm_memories SET memory_type = NULL, category = NULL, importance_score = NULL, "
        "confidence_score = NULL, access_count = NULL, last_accessed = NULL, created_at = NULL, "
        "is_archived = NULL, tags = 'null' WHERE user_id = 1"
    )
    page = Page(await render_report(conn, 1, as_of=NOW))
    assert page.given("data-type", "data-memories") == {"unknown": "12"}
    assert page.given("data-figure", "data-value")["total_memories"] == "12"
    assert len(page.given("data-missed", "data-value")) == 10


@pytest.mark.slow
async def test_ten_thousand_memories_make_a_small_page(own_dsn):
    connection = await asyncpg.connect(own_dsn)
    await populate(connection, users=1, memories=10_000)
    long = await add_memory(connection, 1, "long " * 100_000, importance_score=10)
    await record_access(connection, 1, [long.id])
    text = await render_report(connection, 1)
    assert len(text.encode()) < 1_000_000
    page = Page(text)
    assert page.given("data-figure", "data-value")["total_memories"] == "10001"
    await connection.close()


async def test_a_report_looks_its_user_up_once(conn):
    a, b = [await add_memory(conn, "alice", content) for content in "ab"]
    await relate(conn, "alice", a.id, b.id)
    queries: list[str] = []
    with conn.query_logger(lambda record: queries.append(record.query)):
        page = Page(await render_report(conn, "alice"))
    assert sum("ltm_external_users" in query for query in queries) == 1
    assert len([a for _, a in page.elements if "data-memory-id" in a]) == 2


async def test_reading_a_report_is_no_access(db):
    await fill(db)
    before = await get_analytics(db, 1)
    await render_report(db, 1)
    assert await get_analytics(db, 1) == before


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
async def test_a_browser_sees_the_same_figures_and_complains_of_nothing(conn, tmp_path: Path):
    await fill(conn)
    for words in ATTACKS:
        await add_memory(conn, 1, words, created_at=NOW, tags=["all"])
    file = tmp_path / "report.html"
    file.write_text(await render_report(conn, 1, as_of=NOW), encoding="utf-8")
    command = (str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging")
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path}/profile", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    page = Page(re.sub(r"/>", ">", done.stdout))
    check(page, await get_analytics(conn, 1, as_of=NOW))
    assert "CONSOLE" not in done.stderr, "no refused style, no script"
