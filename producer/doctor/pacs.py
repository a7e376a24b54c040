"""What a run needs of its PACS: an answer, a fit configuration, a quick look-up, modalities that answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from backlog.errors import BacklogError, UsageError
from backlog.pacs.address import checked_address, is_dicomweb, is_server, without_password
from backlog.pacs.connect import connect
from backlog.pacs.modality import Modality, known_modalities
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.doctor.check import PATIENCE, Check, room

#: A UID of no object, and what it may take an Orthanc to find that out, in milliseconds.
_NO_UID: Final = "2.25.0"
SLOW_LOOK_UP_MS: Final = 25.0


def check_pacs_of(settings: Settings, given: str) -> Check:
    """Check that the PACS answers, and is fit to hold reports."""
    url = given or settings.pacs_url
    if not url:
        return Check("ok", "pacs", "CXR_PACS_URL is empty: a run keeps everything in OUT/pacs")
    address = without_password(url)
    try:
        url = checked_address(url)
    except UsageError as error:
        return Check("BAD", "pacs", str(error), "correct CXR_PACS_URL or --pacs")
    if not is_server(url):
        folder = Path(url)
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            return Check(
                "BAD", "pacs", f"{address}: can't be written", "choose another folder, or its permissions"
            )
        return room("pacs", folder)
    started = time.monotonic()
    try:
        with closing(connect(_patient(settings), url)) as pacs:
            pacs.identity()
            took = time.monotonic() - started
            found = pacs.configuration() if isinstance(pacs, Orthanc) else None
    except UsageError as error:
        return Check("BAD", "pacs", str(error).replace(url, address), "correct what it names")
    except BacklogError as error:
        return Check("BAD", "pacs", str(error).replace(url, address), "start it, or correct CXR_PACS_URL")
    problems = (
        found.problems(stores_images=True, retrieves=False, allow_recycling=settings.allow_recycling)
        if found
        else []
    )
    if problems:
        return Check("BAD", "pacs", f"{address}: {'; '.join(problems)}", "correct its configuration")
    text = f"{address} answers in {1000 * took:.0f} ms"
    if is_dicomweb(url):
        return Check(
            "look",
            "pacs",
            f"{text}; DICOMweb doesn't tell whether it keeps all that it is given, nor whether it deletes",
            "try a small run first: cxr-backlog run, verify, retract",
        )
    if found is not None and found.recycles is None and not settings.allow_recycling:
        text = f"{text}; it doesn't tell whether it deletes its oldest patients to make room"
        return Check("look", "pacs", text, "MaximumPatientCount and MaximumStorageSize have to be 0")
    return Check("ok", "pacs", text)


@contextmanager
def _orthanc(settings: Settings, given: str) -> Iterator[Orthanc | None]:
    """Connect to the PACS; None where it is no Orthanc."""
    url = given or settings.pacs_url
    if not is_server(url) or is_dicomweb(url):
        yield None
        return
    with closing(connect(_patient(settings), url)) as pacs:
        yield pacs if isinstance(pacs, Orthanc) else None


def _patient(settings: Settings) -> Settings:
    """Return settings by which a PACS that doesn't answer is given up soon."""
    return replace(settings, pacs_seconds=min(PATIENCE, settings.pacs_seconds))


def look_ups(settings: Settings, given: str) -> Iterator[Check]:
    """Say where an Orthanc walks over all that it holds to find one UID: each report has one looked up."""
    with suppress(BacklogError), _orthanc(settings, given) as pacs:  # what is wrong with it is told above
        if pacs is None:
            return
        took = []
        for _ in range(3):
            started = time.monotonic()
            pacs.count_instances(_NO_UID, "")
            took.append(1000 * (time.monotonic() - started))
        if min(took) > SLOW_LOOK_UP_MS:
            yield Check(
                "look",
                "pacs",
                f"it takes {min(took):.0f} ms to find one UID, which each report has to wait for",
                "give its SQLite index statistics (the stack: docker compose restart orthanc): docs/scaling.md",
            )


def modalities(settings: Settings, given: str) -> Iterator[Check]:
    """Ask each DICOM modality that Orthanc knows for a sign of life, through Orthanc."""
    with suppress(BacklogError), _orthanc(settings, given) as pacs:
        if pacs is None:
            return
        for name in known_modalities(pacs):
            try:
                Modality(pacs, name, seconds=PATIENCE).check()
            except BacklogError as error:
                remedy = "see its address in Orthanc, and whether it knows Orthanc's AE title"
                yield Check("look", "modality", str(error), remedy)
            else:
                yield Check("ok", "modality", f"{name} answers Orthanc over DICOM (C-ECHO)")
