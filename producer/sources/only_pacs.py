"""The images of a PACS that a list names: it is asked for them, some at a time, instead of listing all it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from backlog.inputs.key_table import Key
from producer.sources.base import Entry, Matches, OfSource, Page, Source, never_silent
from producer.sources.only_list import OnlyList


class FoundStudy(NamedTuple):
    """What a PACS holds of one value of the list, in one study."""

    value: str
    study: str  #: its UID
    entries: list[Entry]


class Finder(Protocol):
    """Asks one kind of PACS."""

    @property
    def size(self) -> int:
        """How many values are asked for at a time."""
        ...

    def find(self, key: Key, values: list[str]) -> Iterator[FoundStudy]:
        """Yield what the PACS holds of some values; reports that this system wrote are left out.

        Raises
        ------
        ServiceUnavailable, UsageError
            It doesn't answer, refuses, or can't be asked for such values.
        """
        ...


@dataclass
class OnlyPacsSource(OfSource[Source]):
    """The instances that a list names, in the order of the list; the cursor is the last row asked for."""

    wanted: OnlyList
    finder: Finder

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream the wanted instances, with an account.

        Raises
        ------
        UsageError
            The list is gone, or another one.
        """
        self.wanted.check()
        pages = self._pages(int(cursor or 0))
        return (
            pages if cursor else never_silent(pages, "this PACS holds nothing that is on the list of --only")
        )

    def _pages(self, row: int) -> Iterator[Page]:
        by_study = self.wanted.key is Key.ACCESSION_NUMBER
        with self.wanted.opened() as values:
            while True:
                size = self.finder.size
                rows = {value: number for number, value in values.after(row, size)}
                row = max(rows.values(), default=row)
                found, entries = Counter[tuple[int, str]](), list[Entry]()
                for one in self.finder.find(self.wanted.key, list(rows)) if rows else ():
                    if one.entries:
                        found[rows[one.value], one.study if by_study else ""] += len(one.entries)
                        entries += one.entries
                last = len(rows) < size
                yield Page(entries, str(row), last, Matches(dict(found), looked_at=len(entries)))
                if last:
                    return
