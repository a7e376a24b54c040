"""Ended runs whose images lie in a zip and in a PACS, so that their names and headers can be asked for."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backlog.output_file import OutputFile
from backlog.pacs.folder import FolderPacs
from producer.ledger.ledger import Ledger
from producer.results.names import write_names
from producer.sources.base import Page
from producer.sources.zip import ZipSource
from tests.support.dicom_images import dicom
from tests.support.ended_runs import CHUNK, harvest, new_ledger, reported, some_scores


def named_run(folder: Path, images: Sequence[tuple[str, dict[str, Any]]]) -> tuple[Ledger, Path]:
    """Return the ledger of a run in which every image is reported, and its file of names.

    Parameters
    ----------
    folder
        Of the run; made.
    images
        Name in the zip and attributes of each; UIDs follow from its place.
    """
    ledger, pacs, instances = new_ledger(folder), FolderPacs(folder / "pacs"), []
    with zipfile.ZipFile(folder / "backlog.zip", "w") as archive:
        for number, (name, attributes) in enumerate(images):
            uids: dict[str, Any] = {
                "SOPInstanceUID": f"1.2.3.{number}",
                "StudyInstanceUID": f"1.2.{number // 2}",
            }
            file = dicom(None, **(uids | attributes))
            archive.writestr(name, file)
            instances.append(pacs.store(file).instance)
    source = ZipSource(folder / "backlog.zip")
    ledger.add(Page([one for page in source.pages("") for one in page.entries], "", last=True), CHUNK)
    harvest(ledger, lambda item: reported(item, some_scores(item), instance=instances[item]))
    names = folder / "names.csv"
    write_names(ledger, source, pacs, OutputFile(names, private=True), meta=True)
    return ledger, names
