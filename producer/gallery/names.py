"""What identifies the images of a gallery, where the user asks for it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from backlog.errors import BacklogError, InstanceRejected
from producer.results.names import file_name, header_values
from producer.run.open import source_of

if TYPE_CHECKING:
    from backlog.pacs.base import Pacs
    from backlog.settings import Settings
    from producer.ledger.ledger import Ledger
    from producer.ledger.rows import ItemRow
    from producer.run.folder import Paths
    from producer.sources.base import Source

#: Headers that are asked for at a time.
_ABREAST: Final = 4
_ATTRIBUTES: Final = {"accession_number": "AccessionNumber", "patient_id": "PatientID"}


def names_of(
    ledger: Ledger, settings: Settings, paths: Paths, pacs: Pacs, rows: list[ItemRow]
) -> tuple[dict[int, dict[str, str]], list[str]]:
    """Return file name, accession number and patient ID of images by item, and what to say of what is missing.

    Parameters
    ----------
    ledger
        The run's ledger.
    settings
        Of this process.
    paths
        The run's folder.
    pacs
        The run's PACS.
    rows
        The images' rows of the ledger.

    Raises
    ------
    ServiceUnavailable, UsageError
        The PACS is unavailable or refuses us.
    """
    source, notes = _source(ledger, settings, paths)

    def known(row: ItemRow) -> dict[str, str]:
        name = file_name(source, json.loads(row.ref)) if source is not None else ""
        try:
            return {"file_name": name} | header_values(pacs.header(str(row.instance)), _ATTRIBUTES)
        except InstanceRejected:
            return {"file_name": name}  # gone since its picture was drawn

    with ThreadPoolExecutor(_ABREAST) as pool:
        return {row.no: found for row, found in zip(rows, pool.map(known, rows), strict=True)}, notes


def _source(ledger: Ledger, settings: Settings, paths: Paths) -> tuple[Source | None, list[str]]:
    try:
        return source_of(ledger, settings, paths), []
    except (BacklogError, OSError) as error:
        return None, [f"without file names: {error}"]
