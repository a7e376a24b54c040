"""Scores with what identifies their images: file name, accession number, patient; on request what groups them.

A run keeps none of it: names come from its source, values from the headers in the PACS. The file is for its owner alone
(mode 0600), since it identifies patients.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Final

from backlog.broker.job import IN_PACS
from backlog.errors import InstanceRejected
from backlog.model import LABELS
from backlog.output_file import OutputFile, begins_with
from producer.ledger.ledger import Ledger
from producer.results.exports import ID_COLUMNS, ScoreRow, rows
from producer.spreadsheet import cell

if TYPE_CHECKING:
    from backlog.dicom.file import DicomFile
    from backlog.pacs.base import Pacs
    from producer.sources.base import Source

#: Columns with the attribute that each comes from (PS3.6).
NAMES: Final = {
    "series_instance_uid": "SeriesInstanceUID",
    "accession_number": "AccessionNumber",
    "patient_id": "PatientID",
}
META: Final = {
    "patient_sex": "PatientSex",
    "patient_age": "PatientAge",
    "view_position": "ViewPosition",
    "modality": "Modality",
    "manufacturer": "Manufacturer",
    "manufacturer_model_name": "ManufacturerModelName",
    "study_date": "StudyDate",
    "institution_name": "InstitutionName",
}

#: Headers that are asked for at a time, and rows held while they are.
_ABREAST: Final = 4
_GROUP: Final = 256

is_own_names = begins_with(",".join((*ID_COLUMNS, "file_name", *NAMES)).encode())


def write_names(
    ledger: Ledger,
    source: Source,
    pacs: Pacs,
    to: OutputFile,
    *,
    meta: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the scores as CSV with the columns of :data:`NAMES`, and of :data:`META` where ``meta`` says so.

    Parameters
    ----------
    ledger
        The run's ledger.
    source
        The run's source, which knows the file names.
    pacs
        The run's PACS, which holds the headers.
    to
        Must be private: see :class:`backlog.output_file.OutputFile`.
    meta
        Whether to add the columns of :data:`META`.
    progress
        Called with the number of rows written so far.

    Returns
    -------
    int
        How many images' headers the PACS no longer has: their columns are empty.

    Raises
    ------
    ServiceUnavailable, UsageError
        The source or the PACS is unavailable or refuses us.
    """
    assert to.private  # noqa: S101  # it identifies patients
    attributes = NAMES | META if meta else NAMES
    missing = written = 0

    def known(row: ScoreRow) -> dict[str, str] | None:
        try:
            return header_values(pacs.header(str(row.item.instance)), attributes)
        except InstanceRejected:
            return None

    with to.open_text(is_own_names) as file, ThreadPoolExecutor(_ABREAST) as pool:
        writer = csv.writer(file)
        writer.writerow((*ID_COLUMNS, "file_name", *attributes, *LABELS))
        stream = rows(ledger)
        while group := list(islice(stream, _GROUP)):
            for row, values in zip(group, pool.map(known, group), strict=True):
                missing += values is None
                name = file_name(source, json.loads(row.item.ref))
                more = [(values or {}).get(column, "") for column in attributes]
                cells = [*row.ids, name, *more, *row.item.score_list]
                writer.writerow([cell(one) for one in cells])
            written += len(group)
            progress(written)
    return missing


def file_name(source: Source, reference: int | str) -> str:
    """Return what a source calls an item; empty for a PACS, whose instances have no file names."""
    return "" if source.spec["kind"] in IN_PACS else source.name(reference)


def header_values(file: DicomFile, attributes: dict[str, str]) -> dict[str, str]:
    """Return the values of attributes of :data:`NAMES` or :data:`META` without padding, by column."""
    from backlog.dicom.header import patient_id  # pydicom takes a fifth of a second
    from backlog.dicom.values import text

    found = file.header
    values = {column: text(found, keyword) for column, keyword in attributes.items()}
    # A text of odd length is padded with a space, which means nothing (PS3.5 6.2) and would join with no label.
    values["patient_id"] = (patient_id(found) or values["patient_id"]).strip(" \0")
    return values
