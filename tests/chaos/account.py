"""The checker: every input has a report in the PACS, or is quarantined or skipped, and only one of these.

The reports are read back from the PACS itself, and every report has to hold its own image's scores.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from backlog.outcomes import Outcome
from producer.ledger.ledger import Ledger
from tests.chaos.images import Image, Kind, scores_for
from tests.support.servers import OrthancServer
from worker.sr.build import scores_of

_ABREAST = 4
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Account:
    """How the items of a manifest ended."""

    items: int
    lost: int  #: without a report that the ledger knows and Orthanc holds, not quarantined, not skipped
    duplicate: int  #: with more than one report, or with a report and another ending too
    wrongly_quarantined: int  #: nothing is wrong with them
    wrong: int  #: another image's scores, a report of no input, poison with a report or for another reason

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicate or self.wrongly_quarantined or self.wrong)


@dataclass(frozen=True)
class Ending:
    """An item that the ledger says has ended."""

    outcome: str
    reason: str
    sop_instance_uid: str
    sr_instance: str


def endings(ledger: Path) -> dict[int, Ending]:
    opened = Ledger(ledger, write=False)
    try:
        return {
            int(row.no): Ending(row.outcome, row.reason, row.sop_instance_uid, row.sr_instance)
            for row in opened.items()
        }
    finally:
        opened.close()


#: The UID of the image that it is about, and its scores.
Report = tuple[str, list[float]]


def reports_in(orthanc: OrthancServer) -> dict[str, Report]:
    """Read every report that Orthanc holds, by its id there."""

    def read(instance: str) -> tuple[str, Report]:
        return instance, _read(orthanc.get(f"/instances/{instance}/file").content)

    with ThreadPoolExecutor(_ABREAST) as pool:
        return dict(pool.map(read, orthanc.reports()))


def reports_below(pacs: Path) -> dict[str, Report]:
    """Read every report that a folder as PACS holds."""
    found = {}
    for path in pacs.rglob("*.dcm"):
        file = path.read_bytes()
        if dcmread(io.BytesIO(file), specific_tags=["Modality"]).Modality == "SR":
            found[str(path.relative_to(pacs).with_suffix(""))] = _read(file)
    return found


def _read(file: bytes) -> Report:
    evidence = dcmread(io.BytesIO(file)).CurrentRequestedProcedureEvidenceSequence[0]
    about = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    return str(about), scores_of(file)


def settle(images: Sequence[Image], ended: dict[int, Ending], reports: dict[str, Report]) -> Account:
    """Compare what went in with what came out."""
    about = Counter(uid for uid, _ in reports.values())
    by_uid = {image.sop_instance_uid: image for image in images}
    lost = duplicate = innocent = 0
    wrong = sum(1 for uid, scores in reports.values() if not _right(by_uid.get(uid), scores))
    for image in images:
        found = about[image.sop_instance_uid]
        ending = ended.get(image.number)
        reported = ending is not None and ending.outcome == Outcome.REPORTED.value
        if ending is None or (reported and _about(reports, ending) != image.sop_instance_uid):
            lost += 1
        duplicate += found > 1 or (found == 1 and ending is not None and not reported)
        if ending is not None and not reported:
            innocent += image.kind is Kind.SOUND
            wrong += image.kind is not Kind.SOUND and ending.reason != image.kind.reason.value  # type: ignore[union-attr]
    return Account(len(images), lost, duplicate, innocent, wrong)


def _about(reports: dict[str, Report], ending: Ending) -> str:
    return reports[ending.sr_instance][0] if ending.sr_instance in reports else ""


def _right(image: Image | None, scores: list[float]) -> bool:
    if image is None or image.kind is not Kind.SOUND:
        return False
    return all(abs(a - b) <= _ROUNDING for a, b in zip(scores, scores_for(image.number), strict=True))
