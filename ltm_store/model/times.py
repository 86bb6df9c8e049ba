"""The times that a question speaks of: "last May", "yesterday", "in 2023"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, NamedTuple

_YEARS_BACK: Final = 30  # in which "in May" may have been
_MOST_SPANS: Final = 64


class Span(NamedTuple):
    """A time from a moment on, up to another one, both in UTC."""

    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class TimeWords:
    """The words of a language for times, in lower case, each as regular expressions understand it.

    Months and seasons count behind one of `before`, or beside a year or a day of the month; those
    that are no other words (`plain_months`) and the days of the week count alone too. Seasons have
    the month that they begin with. `numbers` are those that are written in words.
    """

    months: Mapping[str, int]
    short_months: Mapping[str, int]
    plain_months: frozenset[str]
    weekdays: Mapping[str, int]
    seasons: Mapping[str, int]
    units: Mapping[str, str]
    days: Mapping[str, int]
    numbers: Mapping[str, int]
    last: str
    this: str
    following: str
    before: str
    on: str
    of: str
    ago: str
    within: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What finds the times, the longest first."""
        month, season, unit, number = (
            _any(words)
            for words in (
                {**self.months, **self.short_months},
                self.seasons,
                self.units,
                self.numbers,
            )
        )
        full, weekday = _any(self.months), _any(self.weekdays)
        which = f"(?P<last>{self.last})|(?P<this>{self.this})|(?P<following>{self.following})"
        day, year = r"\d{1,2}(?:st|nd|rd|th|\.)?", r"(?:19|20)\d\d"
        return re.compile(
            rf"(?<![\w-])(?:(?P<iso>{year}-\d\d(?:-\d\d)?)(?![\w-])"
            rf"|(?P<on1>(?:{self.on})\s+)?(?P<day1>{day})\s+(?:(?:{self.of})\s+)?(?P<month1>{month})(?:,?\s+(?P<year1>{year}))?"
            rf"|(?P<on2>(?:{self.on})\s+)?(?P<month2>{month})\s+(?P<day2>{day})(?!\d)(?:,?\s+(?P<year2>{year}))?"
            rf"|(?P<month3>{month}),?\s+(?:(?:{self.of})\s+)?(?P<year3>{year})"
            rf"|(?P<season1>{season}),?\s+(?:(?:{self.of})\s+)?(?P<year4>{year})"
            rf"|(?P<day>{_any(self.days)})"
            rf"|(?P<number1>\d{{1,3}}|{number})\s+(?P<unit1>{unit})\s+(?:{self.ago})"
            rf"|(?:{self.within})\s+(?:(?P<number2>\d{{1,3}}|{number})\s+)?(?P<unit2>{unit})"
            rf"|(?:{which})\s+(?:(?P<unit>{unit})|(?P<weekday>{weekday})|(?P<month>{full})"
            rf"|(?P<season>{season}))"
            rf"|(?:{self.before})\s+(?:(?P<each_month>{full})|(?P<each_season>{season})"
            rf"|(?P<year>{year}))"
            rf"|(?P<plain_month>{_any(self.plain_months)})|(?P<plain_weekday>{weekday})"
            r")(?!\w)",
            re.IGNORECASE,
        )


def _any(words: Mapping[str, int] | Mapping[str, str] | frozenset[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_MONTHS: Final = (
    "january february march april may june july august september october november december"
)
_PLAIN: Final = "january february july september october november december"
_SHORT: Final = "jan feb mar apr jun jul aug sept sep oct nov dec"
_SHORT_NUMBERS: Final = (1, 2, 3, 4, 6, 7, 8, 9, 9, 10, 11, 12)
_WEEKDAYS: Final = "monday tuesday wednesday thursday friday saturday sunday"
_NUMBERS: Final = "one two three four five six seven eight nine ten eleven twelve"

ENGLISH: Final = TimeWords(
    months={name: number for number, name in enumerate(_MONTHS.split(), 1)},
    short_months=dict(zip((f"{name}\\.?" for name in _SHORT.split()), _SHORT_NUMBERS, strict=True)),
    plain_months=frozenset(_PLAIN.split()),
    weekdays={name: number for number, name in enumerate(_WEEKDAYS.split())},
    seasons={"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12},
    units={
        "days?": "day",
        "weeks?": "week",
        "weekends?": "weekend",
        "months?": "month",
        "years?": "year",
    },
    days={
        "the day before yesterday": -2,
        "yesterday": -1,
        "last night": -1,
        "today": 0,
        "tonight": 0,
        "this morning": 0,
        "tomorrow": 1,
    },
    numbers={
        **{name: number for number, name in enumerate(_NUMBERS.split(), 1)},
        "an?": 1,
        "a couple of": 2,
    },
    last="last|previous",
    this="this",
    following="next",
    before="in|during|of|since|until|from|by|around|early in|late in|in early|in late|in mid|in the"
    "|every|each|before|after|back in",
    on="on|by|since|until|from|before|after",
    of="of|in",
    ago="ago|back",
    within="(?:in|within|over|during) the (?:last|past)|(?:in|within|over) the last",
)

LANGUAGES: Final[dict[str, TimeWords]] = {"en": ENGLISH}
"""The languages whose times are found in questions; add one for others."""


def spans_of(question: str, as_of: datetime) -> list[Span]:
    """The times that a question speaks of, seen from a moment; none where it speaks of none."""
    found: dict[Span, None] = {}
    for words in LANGUAGES.values():
        for match in words.pattern.finditer(question[:10_000]):
            try:
                found.update(dict.fromkeys(_Reading(words, match, as_of).spans()))
            except (ValueError, OverflowError):  # the 31st of February, or beyond the calendar
                continue
    return list(found)[:_MOST_SPANS]


def _moment(year: int, month: int = 1, day: int = 1) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


def _months(year: int, month: int, count: int = 1) -> Span:
    """So many months from one on; month may lie outside of 1 .. 12."""
    first, behind = year * 12 + month - 1, year * 12 + month - 1 + count
    return Span(_moment(first // 12, first % 12 + 1), _moment(behind // 12, behind % 12 + 1))


def _days(start: datetime, count: int = 1) -> Span:
    return Span(start, start + timedelta(days=count))


class _Reading:
    """One match of the pattern of a language."""

    def __init__(self, words: TimeWords, match: re.Match[str], as_of: datetime) -> None:
        self._words = words
        self._as_of = as_of
        self._today = as_of.replace(hour=0, minute=0, second=0, microsecond=0)
        self._given = {name: text for name, text in match.groupdict().items() if text}
        self._is_within = match.start() > 0
        self._shift = -1 if "last" in self._given else 1 if "following" in self._given else 0

    def spans(self) -> Iterator[Span]:
        """What it means."""
        given = self._given
        for name, read in (
            ("iso", self._iso),
            ("day1", lambda: self._date("1")),
            ("day2", lambda: self._date("2")),
            ("month3", lambda: [_months(int(given["year3"]), self._month("month3"))]),
            ("season1", lambda: [self._season("season1", int(given["year4"]))]),
            ("day", self._day),
            ("unit1", self._ago),
            ("unit2", self._within),
            ("unit", lambda: [self._unit(self._kind("unit"), self._shift)]),
            ("weekday", lambda: [self._weekday("weekday", self._shift)]),
            ("plain_weekday", lambda: [self._weekday("plain_weekday", 0)]),
            ("month", lambda: [self._which(lambda year: _months(year, self._month("month")))]),
            ("season", lambda: [self._which(lambda year: self._season("season", year))]),
            ("each_month", lambda: self._each(lambda y: _months(y, self._month("each_month")))),
            ("plain_month", lambda: self._each(lambda y: _months(y, self._month("plain_month")))),
            ("each_season", lambda: self._each(lambda y: self._season("each_season", y))),
            ("year", lambda: [_months(int(given["year"]), 1, 12)]),
        ):
            if name in given:
                yield from read()
                return

    def _look_up(self, words: Mapping[str, int], name: str) -> int:
        text = " ".join(self._given[name].lower().split())
        return next(number for word, number in words.items() if re.fullmatch(word, text))

    def _month(self, name: str) -> int:
        return self._look_up({**self._words.months, **self._words.short_months}, name)

    def _kind(self, name: str) -> str:
        text = self._given[name].lower()
        return next(kind for word, kind in self._words.units.items() if re.fullmatch(word, text))

    def _number(self, name: str) -> int:
        text = self._given.get(name, "1")
        return int(text) if text.isdecimal() else self._look_up(self._words.numbers, name)

    def _season(self, name: str, year: int) -> Span:
        return _months(year, self._look_up(self._words.seasons, name), 3)

    def _iso(self) -> list[Span]:
        year, month, *day = map(int, self._given["iso"].split("-"))
        return [_days(_moment(year, month, day[0])) if day else _months(year, month)]

    def _date(self, place: str) -> list[Span]:
        day, name = self._given[f"day{place}"], self._given[f"month{place}"]
        month, number = self._month(f"month{place}"), int(re.sub(r"\D", "", day))
        if year := self._given.get(f"year{place}"):
            return [_days(_moment(int(year), month, number))]
        # "5 may come" speaks of no time; the 5th of May, on May 5, or May 5 within a sentence do.
        other = self._words.months.keys() - self._words.plain_months
        is_plain = name.lower() not in other or f"on{place}" in self._given
        if not (is_plain or not day.isdecimal() or (name[0].isupper() and self._is_within)):
            return []
        return self._each(lambda y: _days(_moment(y, month, number)))

    def _day(self) -> list[Span]:
        shift = self._look_up(self._words.days, "day")
        return [_days(self._today + timedelta(days=shift))]

    def _ago(self) -> list[Span]:
        return [self._unit(self._kind("unit1"), -self._number("number1"))]

    def _within(self) -> list[Span]:
        number, kind = self._number("number2"), self._kind("unit2")
        days = {"day": 1, "week": 7, "weekend": 7, "month": 31, "year": 366}[kind]
        return [Span(self._as_of - timedelta(days=number * days), self._as_of)]

    def _unit(self, kind: str, shift: int) -> Span:
        monday = self._today - timedelta(days=self._today.weekday())
        match kind:
            case "day":
                return _days(self._today + timedelta(days=shift))
            case "week":
                return _days(monday + timedelta(days=7 * shift), 7)
            case "weekend":
                return _days(monday + timedelta(days=7 * shift + 5), 2)
            case "month":
                return _months(self._today.year, self._today.month + shift)
        return _months(self._today.year + shift, 1, 12)

    def _weekday(self, name: str, shift: int) -> Span:
        back = (self._today.weekday() - self._look_up(self._words.weekdays, name)) % 7
        if shift < 0:
            back = back or 7
        elif shift > 0:
            back -= 7
        return _days(self._today - timedelta(days=back))

    def _which(self, in_year: Callable[[int], Span]) -> Span:
        """The last one that is over, this year's, or the next that has not begun."""
        year = self._today.year
        if self._shift < 0:
            while in_year(year).ends_at > self._as_of:
                year -= 1
        elif self._shift > 0:
            while in_year(year).starts_at <= self._as_of:
                year += 1
        return in_year(year)

    def _each(self, in_year: Callable[[int], Span]) -> list[Span]:
        """Those of every year that has begun."""
        found = []
        for year in range(self._today.year, self._today.year - _YEARS_BACK, -1):
            try:
                found.append(in_year(year))
            except ValueError:  # the 29th of February
                continue
        return found
