"""Whose image a PNG or JPEG file of a published archive is: by its path, or by the archive's table.

A picture file says nothing of its patient, its study and its view. The paths of the large archives do (NIH
ChestX-ray14, CheXpert, MIMIC-CXR-JPG), and their tables say it in more detail.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from backlog.errors import SourceUnavailable, UsageError

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
#: What the columns of a table are called: ours, then those of the archives.
_COLUMNS: Final = {
    "file": ("file", "filename", "path", "image", "image index", "imageid", "image_id", "dicom_id"),
    "patient": ("patient_id", "patient", "patientid", "patient id", "subject_id"),
    "study": ("study_id", "study", "studyid", "study id", "follow-up #"),
    "view": ("view", "view_position", "viewposition", "view position", "projection", "frontal/lateral"),
    "body_part": ("body_part", "bodypart", "body_part_examined", "bodypartexamined"),
}
#: The fields of a pattern, ``{patient}/{study}/*``.
_FIELDS: Final = ("patient", "study", "view")
_VIEWS: Final = re.compile(r"[A-Z0-9 _]{1,16}")


@dataclass(frozen=True)
class Subject:
    """What is known of one image beside its pixels; what isn't is empty."""

    patient: str = ""
    study: str = ""
    view: str = ""  #: as View Position (0018,5101) has it
    body_part: str = ""  #: as Body Part Examined (0018,0015) has it
    archive: str = ""  #: what says so: equal numbers in two archives are two patients' studies


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
    table: Mapping[str, Subject] | None

    def subject(self, name: str) -> Subject:
        """Return what path and table say of a file; the table counts more."""
        path = name.replace("\\", "/")
        said = self._by_path(path)
        row = self._row(path)
        if row is None:
            return said
        told = {field: value for field, value in vars(row).items() if value}
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

    def _row(self, path: str) -> Subject | None:
        if self.table is None:
            return None
        parts = PurePosixPath(path).parts
        for at in range(len(parts)):  # a table's paths may begin above or below the source's root
            whole = "/".join(parts[at:])
            found = self.table.get(whole) or self.table.get(whole.rpartition(".")[0])
            if found is not None:
                return found
        return None


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
def read_table(path: str, sha256: str = "") -> Mapping[str, Subject]:
    """Return the rows of an archive's table (CSV or TSV) by their files.

    Raises
    ------
    UsageError
        It has no column for the file and the patient, or isn't the one of ``sha256``.
    SourceUnavailable
        It can't be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SourceUnavailable(
            f"the table of images can't be read on this worker ({error.strerror}): it needs it under the same path "
            "as the producer"
        ) from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(
            f"{path}: this table was changed since the run began. Put that one back, or begin a new run"
        )
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        lines = content.decode("latin-1").splitlines()
    head = lines[0] if lines else ""
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(lines, delimiter=delimiter)
    columns = _columns(path, next(rows, []))
    table: dict[str, Subject] = {}
    for row in rows:
        said = {field: row[at].strip() for field, at in columns.items() if at < len(row)}
        file = said.pop("file", "").replace("\\", "/")
        if file:
            said["view"] = _view(said.get("view", ""))
            table[file] = Subject(**said, archive="table")
    return table


def _columns(path: str, head: list[str]) -> dict[str, int]:
    named = {title.strip().lower(): at for at, title in reversed(list(enumerate(head)))}
    columns = {
        field: named[next(title for title in titles if title in named)]
        for field, titles in _COLUMNS.items()
        if any(title in named for title in titles)
    }
    if not {"file", "patient"} <= columns.keys():
        raise UsageError(
            f"{path}: this table needs a column 'file' and a column 'patient_id' (or the ones that NIH, MIMIC-CXR or "
            f"PadChest have); its first line names {', '.join(head[:12]) or 'nothing'}"
        )
    return columns


def _view(text: str) -> str:
    """Return a view as a Code String can have it; one that it can't have counts as none."""
    view = text.strip().upper().replace("-", " ")
    return view if _VIEWS.fullmatch(view) else ""
