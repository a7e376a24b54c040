"""Whose image a PNG or JPEG file of a published archive is: by its path, or by the archive's table.

A picture file says nothing of its patient, its study and its view. The paths of the large archives do (NIH
ChestX-ray14, CheXpert, MIMIC-CXR-JPG), and their tables say it in more detail.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final

from backlog.errors import InstanceRejected, SourceUnavailable, UsageError
from backlog.inputs.file_names import path_key, shorter
from backlog.inputs.key_table import Key, checked_text, key_of, listed, plain, refuse_repeated_columns
from backlog.inputs.table_file import Rows, checked_rows, opened_table
from backlog.outcomes import Reason

#: By path: NIH ChestX-ray14 (patient and follow-up number), CheXpert, MIMIC-CXR-JPG.
_ARCHIVES: Final = (
    ("nih", re.compile(r"(?:.*/)?(?P<patient>\d{8})_(?P<study>\d{3})\.png", re.IGNORECASE)),
    (
        "chexpert",
        re.compile(
            r"(?:.*/)?(?P<patient>patient\d+)/(?P<study>study\d+)/view\d+_(?P<view>frontal|lateral)\.jpe?g",
            re.IGNORECASE,
        ),
    ),
    (
        "mimic",
        re.compile(r"(?:.*/)?p(?P<patient>\d{8})/s(?P<study>\d+)/[0-9a-f-]+\.(?:jpe?g|png)", re.IGNORECASE),
    ),
)
#: What the columns of a table are called, without case and signs: ours, then those of the archives. The first counts.
_COLUMNS: Final = {
    "file": ("file", "filename", "path", "image", "imageindex", "imageid", "dicomid"),
    "patient": ("patientid", "patient", "subjectid"),
    "study": ("studyid", "study", "followup"),
    "view": ("view", "viewposition", "projection", "frontallateral"),
    "body_part": ("bodypart", "bodypartexamined"),
}
#: The fields of a pattern, ``{patient}/{study}/*``.
_FIELDS: Final = ("patient", "study", "view")
_VIEWS: Final = re.compile(r"[A-Z0-9 _]{1,16}")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of one image beside its pixels; what isn't is empty."""

    patient: str = ""
    study: str = ""
    view: str = ""  #: as View Position (0018,5101) has it
    body_part: str = ""  #: as Body Part Examined (0018,0015) has it
    archive: str = ""  #: what says so: equal numbers in two archives are two patients' studies


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
        for one in (key, *shorter(key)):
            if one in self.rows:
                yield self.rows[one]
        for at in range(bisect_right(self.keys, key), len(self.keys)):
            if not self.keys[at].startswith(key):
                return
            yield self.rows[self.keys[at]]


@dataclass(frozen=True)
class ImageNames:
    """How a run tells whose image a picture file is.

    Parameters
    ----------
    pattern
        Of its path, ``{patient}/{study}/*``; empty for the patterns of the published archives.
    table
        The archive's table; None without.
    """

    pattern: re.Pattern[str] | None
    table: ImageTable | None

    def subject(self, name: str) -> Subject:
        """Return what path and table say of a file; the table counts more.

        Raises
        ------
        InstanceRejected
            ``invalid_patient_id``: the table says two things of it.
        """
        said = self._by_path(name.replace("\\", "/"))
        rows = self.table.rows_of(name) if self.table is not None else []
        if not rows:
            return said
        if len(rows) > 1:
            raise InstanceRejected(
                Reason.INVALID_PATIENT_ID,
                f"lines {rows[0].line} and {rows[1].line} of the table of images both fit it, and differ",
            )
        told = {field: value for field, value in asdict(rows[0].subject).items() if value}
        return replace(said, **told)

    def _by_path(self, path: str) -> Subject:
        patterns = _ARCHIVES if self.pattern is None else (("pattern", self.pattern),)
        for archive, pattern in patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                said = found.groupdict(default="")
                return Subject(
                    said.get("patient", ""), said.get("study", ""), _view(said.get("view", "")), "", archive
                )
        return Subject()


def image_names(pattern: str, table: str, sha256: str = "") -> ImageNames:
    """Return how a run tells whose image a file is.

    Parameters
    ----------
    pattern
        Path pattern with fields in braces; empty for none.
    table
        Path of the CSV table; empty for none.
    sha256
        Of the table that the run began with; empty for any.

    Raises
    ------
    UsageError
        The pattern or the table is none, or the table has been changed.
    SourceUnavailable
        The table can't be read.
    """
    compiled = compile_pattern(pattern) if pattern else None
    return ImageNames(compiled, read_table(table, sha256) if table else None)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return a path pattern as a regular expression.

    Raises
    ------
    UsageError
        It names no patient, or a field that there isn't.
    """
    pieces = []
    for piece in re.findall(r"\{[^{}]*\}|\*|[^{}*]+|[{}]", pattern):
        if piece == "*":
            pieces.append("[^/]*")
        elif piece.startswith("{"):
            if piece[1:-1] not in _FIELDS:
                raise UsageError(
                    f"{pattern!r}: there are the fields {{patient}}, {{study}} and {{view}}, not {piece}"
                )
            pieces.append(f"(?P<{piece[1:-1]}>[^/]+?)")
        else:
            pieces.append(re.escape(piece))
    if "(?P<patient>" not in "".join(pieces):
        raise UsageError(f"{pattern!r}: this pattern names no {{patient}}")
    try:
        return re.compile(rf"(?:.*/)?{''.join(pieces)}(?:\.[A-Za-z0-9]{{1,5}})?")
    except re.error:
        raise UsageError(f"{pattern!r}: a field stands in this pattern twice") from None


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
    return ImageTable(path, found, sorted(found), tuple(notes))


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
        said["view"] = _view(said.get("view", ""))
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
    refuse_repeated_columns(Path(path), header)
    named = {plain(title): at for at, title in reversed(list(enumerate(header)))}
    columns = {
        field: named[next(title for title in titles if title in named)]
        for field, titles in _COLUMNS.items()
        if any(title in named for title in titles)
    }
    if not {"file", "patient"} <= columns.keys():
        raise UsageError(
            f"{path}: this table needs a column 'file' and a column 'patient_id' (or the ones that NIH, MIMIC-CXR or "
            f"PadChest have); its first line names {listed(header) or 'nothing'}"
        )
    return columns


def _view(text: str) -> str:
    """Return a view as a Code String can have it; one that it can't have counts as none."""
    view = text.strip().upper().replace("-", " ")
    return view if _VIEWS.fullmatch(view) else ""
