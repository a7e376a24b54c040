"""A zip or a folder of which only the images of a list are wanted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

from backlog.errors import InstanceRejected
from backlog.inputs.conversion import NOTHING, Picture, opened
from backlog.inputs.entries import SourceFile
from backlog.inputs.key_table import Key
from producer.sources import base as sources
from producer.sources.base import Entry, Matches, OfSource, Page, never_silent
from producer.sources.folder import FolderSource
from producer.sources.only_list import OnlyList, OnlyValues
from producer.sources.zip import ZipSource

#: Entries whose headers are read between two looks at the clock.
STEP: Final = 64

#: The producer has more to do than to list: after so many seconds it gets what was found.
SECONDS: Final = 1.0

_ATTRIBUTES: Final = {
    Key.SOP_INSTANCE_UID: "SOPInstanceUID",
    Key.SERIES_INSTANCE_UID: "SeriesInstanceUID",
    Key.STUDY_INSTANCE_UID: "StudyInstanceUID",
    Key.ACCESSION_NUMBER: "AccessionNumber",
}


@dataclass
class OnlySource(OfSource[ZipSource | FolderSource]):
    """The entries of a zip or a folder that a list names; by their headers, unless it names files.

    An entry whose header can't be read may be wanted or not: such are counted.
    """

    wanted: OnlyList

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wanted.key is not Key.FILE_NAME:
            self.source.page_size = STEP

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream the wanted entries, with an account; the cursors are the source's own.

        Raises
        ------
        UsageError
            The list is gone, or another one.
        """
        self.wanted.check()
        pages = self._pages(cursor)
        return pages if cursor else never_silent(pages, "nothing in this source is on the list of --only")

    def _pages(self, cursor: str) -> Iterator[Page]:
        with self._rows_of() as rows_of:
            found, looked_at, without_header = Counter[tuple[int, str]](), 0, 0
            kept: list[Entry] = []
            since = time.monotonic()
            for page in self.source.pages(cursor):
                for entry in page.entries:
                    looked_at += 1
                    try:
                        rows = rows_of(entry)
                    except InstanceRejected:
                        without_header += 1
                        continue
                    found.update(rows)
                    if rows:
                        kept.append(entry)
                if page.last or len(kept) >= sources.PAGE or time.monotonic() - since > SECONDS:
                    yield Page(kept, page.cursor, page.last, Matches(dict(found), looked_at, without_header))
                    found, looked_at, without_header = Counter[tuple[int, str]](), 0, 0
                    kept = []
                    since = time.monotonic()

    @contextmanager
    def _rows_of(self) -> Iterator[Callable[[Entry], list[tuple[int, str]]]]:
        """Yield what tells which rows of the list an entry belongs to."""
        by_name = self.wanted.key is Key.FILE_NAME
        with (
            self.wanted.opened() as values,
            nullcontext(_no_header) if by_name else self.source.headers() as header,
        ):

            def rows_of(entry: Entry) -> list[tuple[int, str]]:
                if by_name:
                    return [(row, "") for row in values.rows_of_file(entry.name)]
                return _rows_by_header(values, self.wanted.key, header(entry.ref))

            yield rows_of


def _no_header(ref: int | str) -> SourceFile:
    raise AssertionError(f"entry {ref} is known by its name")


def _rows_by_header(values: OnlyValues, key: Key, file: SourceFile) -> list[tuple[int, str]]:
    """Return the rows that mean a file. Raises InstanceRejected where it has no header that can be read."""
    from backlog.dicom.header import patient_id, read_header  # pydicom takes a fifth of a second
    from backlog.dicom.values import text

    read = opened(file, NOTHING)
    assert not isinstance(read, Picture)  # noqa: S101  # nothing is wrapped here
    header = read_header(read.content)
    if key is Key.PATIENT_ID:
        value = (patient_id(header) or text(header, "PatientID")).strip()
    else:
        value = text(header, _ATTRIBUTES[key])
    study = text(header, "StudyInstanceUID") if key is Key.ACCESSION_NUMBER else ""
    return [(row, study) for row in values.rows_of(value)] if value else []
