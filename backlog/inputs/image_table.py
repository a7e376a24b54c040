"""An archive's table of its pictures: whose each one is, in more detail than its path says."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final

from backlog.errors import SourceUnavailable, UsageError
from backlog.inputs.file_names import path_key
from backlog.inputs.key_table import Key, checked_text, key_of, listed, plain
from backlog.inputs.subject import Subject, body_part_code, view_code
from backlog.inputs.table_file import Rows, checked_rows, opened_table

#: What the columns of a table are called, without case and signs: ours, then those of the archives. The first counts.
COLUMNS: Final = {
    "file": (
        *("file", "filename", "path", "image", "imageindex", "imageid", "dicomid"),
        *("imagefile", "filepath", "imagepath", "arquivo"),
    ),
    "patient": ("patientid", "patient", "subjectid", "pid"),
    "study": ("studyid", "study", "followup"),
    "view": ("view", "viewposition", "projection", "frontallateral"),
    "body_part": ("bodypart", "bodypartexamined"),
}
_NAMES: Final = frozenset(name for names in COLUMNS.values() for name in names)
#: What PadChest calls its views, where no other archive has the word.
_PADCHEST_VIEWS: Final = {"L": "LATERAL"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an archive's table."""

    line: int
    subject: Subject


@dataclass(frozen=True)
class ImageTable:
    """An archive's table. Its paths may begin above or below the source's own: one is the end of the other."""

    path: str
    rows: Mapping[str, Row]  #: by the key of the file's path: :func:`backlog.inputs.file_names.path_key`
    keys: Sequence[str]  #: of the rows, sorted
    depth: int  #: parts of the longest path, its name and its folders
    notes: Sequence[str] = ()  #: what to say of how it is encoded

    def rows_of(self, name: str) -> list[Row]:
        """Return the row that a file's path fits; where it fits several that differ, two of these.

        Parameters
        ----------
        name
            The file's path below the source, or in it.
        """
        fitting = self._fitting(path_key(name))
        first = next(fitting, None)
        if first is None:
            return []
        return [first, *islice((row for row in fitting if row.subject != first.subject), 1)]

    def _fitting(self, key: str) -> Iterator[Row]:
        parts = key[:-1].split("/")[: self.depth]  # a path may have thousands of folders
        for length in range(len(parts), 0, -1):
            one = "/".join(parts[:length]) + "/"
            if one in self.rows:
                yield self.rows[one]
        for at in range(bisect_right(self.keys, key), len(self.keys)):
            if not self.keys[at].startswith(key):
                return
            yield self.rows[self.keys[at]]


def table_sha256(path: Path) -> str:
    """Return the checksum of a table, which tells it from another that takes its place.

    Raises
    ------
    UsageError
        It can't be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: this table can't be read ({error.strerror})") from error


@lru_cache(maxsize=2)
def read_table(path: str, sha256: str = "") -> ImageTable:
    """Return the rows of an archive's table (CSV or TSV) by their files.

    Raises
    ------
    UsageError
        It has no column for the file and the patient, is damaged, says two things of one file, or isn't the one of
        ``sha256``.
    SourceUnavailable
        It can't be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise _unavailable(error) from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(
            f"{path}: this table was changed since the run began. Put that one back, or begin a new run"
        )
    try:
        with opened_table(Path(path)) as (header, rows, notes):
            columns = _columns(path, header)
            found = _rows_by_file(Path(path), header, columns, rows)
    except UsageError as error:
        if isinstance(error.__cause__, OSError):
            raise _unavailable(error.__cause__) from error
        raise
    depth = max((key.count("/") for key in found), default=0)
    return ImageTable(path, found, sorted(found), depth, tuple(notes))


def _unavailable(error: OSError) -> SourceUnavailable:
    return SourceUnavailable(
        f"the table of images can't be read on this worker ({error.strerror}): it needs it under the same path as the"
        " producer"
    )


def _rows_by_file(
    path: Path, header: Sequence[str], columns: Mapping[str, int], rows: Rows
) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for line, row in checked_rows(path, header, rows):
        said = {
            field: checked_text(path, header[at], row[at], line)
            for field, at in columns.items()
            if field != "file"
        }
        said["view"] = view_code(_PADCHEST_VIEWS.get(said.get("view", ""), said.get("view", "")))
        part = body_part_code(said.get("body_part", ""))
        if part is None:
            raise UsageError(
                f"{path}: line {line}: {header[columns['body_part']]} holds what Body Part Examined can't say, which"
                " has 16 capitals, digits and spaces: name the part in a word of English, as CHEST"
            )
        said["body_part"] = part
        at = columns["file"]
        key = path_key(key_of(path, Key.FILE_NAME, header[at], row[at], line))
        new = Row(line, Subject(**said, archive="table"))
        earlier = found.setdefault(key, new)
        if earlier.subject != new.subject:
            raise UsageError(
                f"{path}: lines {earlier.line} and {line} are about one file, and differ in its patient, study, view or"
                " body part: correct the table"
            )
    return found


def _columns(path: str, header: Sequence[str]) -> dict[str, int]:
    twice = [title for title, count in Counter(map(plain, header)).items() if title in _NAMES and count > 1]
    if twice:
        raise UsageError(
            f"{path}: these columns stand twice: {listed([t for t in header if plain(t) in twice])}"
        )
    named = {plain(title): at for at, title in reversed(list(enumerate(header)))}
    columns = {
        field: named[next(title for title in titles if title in named)]
        for field, titles in COLUMNS.items()
        if any(title in named for title in titles)
    }
    if not {"file", "patient"} <= columns.keys():
        raise UsageError(
            f"{path}: this table needs a column 'file' and a column 'patient_id' (or the ones that NIH, MIMIC-CXR or "
            f"PadChest have); its first line names {listed(header) or 'nothing'}"
        )
    return columns
