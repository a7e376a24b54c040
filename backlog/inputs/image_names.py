"""Whose image a PNG or JPEG file of a published archive is: by its path, or by the archive's table.

A picture file says nothing of its patient, its study and its view. The paths of the large archives do (NIH
ChestX-ray14, CheXpert, MIMIC-CXR-JPG), and their tables say it in more detail.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Final

from backlog.errors import InstanceRejected, UsageError
from backlog.inputs.image_table import ImageTable, read_table
from backlog.inputs.subject import Subject, view_code
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
#: The fields of a pattern, ``{patient}/{study}/*``.
_FIELDS: Final = ("patient", "study", "view")
#: Names of DICOM files, which a table is not held against before a run.
DICOM_NAME: Final = re.compile(r"\.(dcm|dicom)(\.gz)?\Z", re.IGNORECASE)


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
            ``invalid_patient_id``: the table says two things of it, or can't be trusted with it; or its patient and
            study stand in letters of an unknown character set.
        """
        said = self._by_path(name.replace("\\", "/"))
        rows = self.table.rows_of(name) if self.table is not None else []
        if len(rows) > 1:
            raise InstanceRejected(
                Reason.INVALID_PATIENT_ID,
                f"lines {rows[0].line} and {rows[1].line} of the table of images both fit it, and differ",
            )
        if rows and DICOM_NAME.search(name):
            raise InstanceRejected(
                Reason.INVALID_PATIENT_ID,
                "a picture that is called a DICOM file, so that its row may be another picture's: rename it",
            )
        found = _joined(said, rows[0].subject) if rows else said
        if not _is_certain(found.patient + found.study):
            raise InstanceRejected(
                Reason.INVALID_PATIENT_ID,
                "its path tells patient or study in a character set that nothing declares: rename the folders",
            )
        return found

    def _by_path(self, path: str) -> Subject:
        patterns = _ARCHIVES if self.pattern is None else (("pattern", self.pattern),)
        for archive, pattern in patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                said = found.groupdict(default="")
                return Subject(
                    said.get("patient", ""),
                    said.get("study", ""),
                    view_code(said.get("view", "")),
                    "",
                    archive,
                )
        return Subject()


def _joined(by_path: Subject, row: Subject) -> Subject:
    told = {field: value for field, value in asdict(row).items() if value}
    if row.patient and not row.study and by_path.study:
        # The path's studies are counted within the path's patients, of whom two may be one patient in the table.
        told["archive"] = f"table {by_path.archive} {by_path.patient}"
    return replace(by_path, **told)


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


def _is_certain(text: str) -> bool:
    """Whether all letters of a text are known: a name in another encoding than UTF-8 has some that stand for none."""
    return "\ufffd" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
