"""The images of an Orthanc that a list names: it is asked for them, some at a time, instead of listing all it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from backlog.broker.messages import SourceSpec, Stage
from backlog.errors import InstanceRejected
from backlog.pacs.orthanc_find import Level
from producer.key_table import Key
from producer.sources.base import Entry, Matches, Page, never_silent
from producer.sources.only_list import OnlyList
from producer.sources.orthanc import OrthancSource
from producer.sources.series_listing import tags_of

#: Values of one page: of one query.
_VALUES: Final = 100

_LEVELS: Final = {
    Key.SOP_INSTANCE_UID: (Level.INSTANCE, "SOPInstanceUID"),
    Key.SERIES_INSTANCE_UID: (Level.SERIES, "SeriesInstanceUID"),
    Key.STUDY_INSTANCE_UID: (Level.STUDY, "StudyInstanceUID"),
    Key.ACCESSION_NUMBER: (Level.STUDY, "AccessionNumber"),
    Key.PATIENT_ID: (Level.PATIENT, "PatientID"),
}


@dataclass
class OnlyOrthancSource:
    """The instances that a list names, in the order of the list; the cursor is the last row asked for."""

    source: OrthancSource
    wanted: OnlyList
    first: Stage = Stage.INFER
    total: int | None = None
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = self.source.spec

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
            pages
            if cursor
            else never_silent(pages, "this Orthanc holds nothing that is on the list of --only")
        )

    def _pages(self, row: int) -> Iterator[Page]:
        with self.wanted.opened() as values:
            while True:
                rows = {value: number for number, value in values.after(row, _VALUES)}
                row = max(rows.values(), default=row)
                entries, found = self._found(rows) if rows else ([], Counter[tuple[int, str]]())
                last = len(rows) < _VALUES
                yield Page(entries, str(row), last, Matches(dict(found), looked_at=len(entries)))
                if last:
                    return

    def _found(self, rows: dict[str, int]) -> tuple[list[Entry], Counter[tuple[int, str]]]:
        level, keyword = _LEVELS[self.wanted.key]
        found = Counter[tuple[int, str]]()
        entries: list[Entry] = []
        for resource in self.source.orthanc.find_all(level, keyword, list(rows)):
            tags = tags_of(resource)
            row = rows[tags[keyword].strip()]
            try:
                some = list(self._entries(level, resource))
            except InstanceRejected:
                continue  # deleted meanwhile
            study = tags.get("StudyInstanceUID", "") if self.wanted.key is Key.ACCESSION_NUMBER else ""
            if some:
                found[row, study] += len(some)
                entries += some
        return entries, found

    def _entries(self, level: Level, resource: dict[str, Any]) -> Iterator[Entry]:
        """Yield the instances of a resource but the reports of this system, as the whole Orthanc is listed."""
        if level is Level.INSTANCE:
            yield Entry(str(resource["ID"]))
            return
        series = (
            [resource] if level is Level.SERIES else self.source.orthanc.series_in(level, str(resource["ID"]))
        )
        for one in series:
            yield from self.source.entries_of(one)

    def read(self, ref: int | str) -> bytes:
        """Return one instance's header."""
        return self.source.read(ref)

    def name(self, ref: int | str) -> str:
        """Return Orthanc's id, which is all it is called by."""
        return self.source.name(ref)
