"""Reports of a run in the PACS that the ledger has no record of.

A worker may store a report and fail before it says so, or Redis may lose that it did; the item is then quarantined or
unfinished. The UID of a report is a function of its image, so each of those items is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Final, NamedTuple

from backlog.broker.messages import Job
from backlog.dicom.file import DicomFile
from backlog.dicom.header import Identity, text
from backlog.errors import InstanceRejected, UsageError
from backlog.log import warn
from backlog.pacs.base import Pacs
from backlog.report_uids import report_and_series_uid
from producer.ledger.ledger import Ledger
from producer.results.reported import retried
from producer.sources.modality import sop_instance_uid

#: The kind of document that workers write.
_IOD: Final = "comprehensive3d"

_BATCH: Final = 256

_NOT_REPORTED: Final = (
    "SELECT no, ref, instance, sop_instance_uid FROM item"
    " WHERE outcome <> 'reported' AND chunk IS NOT NULL AND no > ? ORDER BY no LIMIT ?"
)


class _Unreported(NamedTuple):
    no: int
    ref: str  #: JSON: where its source finds it
    instance: str | None  #: the PACS's id of the image
    sop_instance_uid: str


@dataclass(frozen=True)
class Unrecorded:
    """A report that this run wrote."""

    item: int
    instance: str  #: the PACS's id
    sop_instance_uid: str


def unrecorded(
    ledger: Ledger, pacs: Pacs, read: Callable[[int | str], bytes] | None, seconds: float
) -> Iterator[Unrecorded]:
    """Find the reports that a run wrote for items that it doesn't count as reported.

    Parameters
    ----------
    ledger
        The run's ledger.
    pacs
        The run's PACS.
    read
        Reads an item's header from the run's source; None where that is gone.
    seconds
        How long to wait for a PACS that is unavailable.
    """
    job: Job = ledger.get("job")
    if not job["weights"]:
        return  # nothing was scored
    for page in _pages(ledger):
        wanted: dict[str, tuple[int, Identity]] = {}
        for item in page:
            of = _identity(item, pacs, read, seconds)
            if of is not None:
                uids = report_and_series_uid(
                    of.sop_instance_uid,
                    model=str(ledger.get("model")),
                    weights_sha256=job["weights"],
                    language=job["language"],
                    coding=job["coding"],
                    iod=_IOD,
                    operating_points_sha256=job.get("operating_points", {}).get("sha256", ""),
                    regions=job.get("regions", "none"),
                )
                wanted[uids[0]] = (
                    item.no,
                    replace(of, sop_instance_uid=uids[0], series_instance_uid=uids[1]),
                )
        for uid, instances in _held(pacs, wanted, seconds).items():
            for instance in instances:
                if _is_of_run(pacs, instance, job, seconds) and not _recorded(ledger, instance):
                    yield Unrecorded(wanted[uid][0], instance, uid)
    for instance in ledger.get("foreign_reports", []):  # a worker's with other weights
        if _is_of_run(pacs, instance, job, seconds):
            yield Unrecorded(-1, instance, "")


def _pages(ledger: Ledger) -> Iterator[list[_Unreported]]:
    last = -1
    while page := list(ledger.select(_Unreported, _NOT_REPORTED, last, _BATCH)):
        yield page
        last = page[-1].no
    kind = ledger.get("job")["source"]["kind"]
    for chunk in ledger.in_flight():
        yield [
            _Unreported(item, json.dumps(ref), str(ref) if kind in ("orthanc", "dicomweb") else "", "")
            for item, ref in chunk.items
        ]


def _identity(
    item: _Unreported, pacs: Pacs, read: Callable[[int | str], bytes] | None, seconds: float
) -> Identity | None:
    """Return which image an item is, from what is at hand; None where nothing tells."""
    uid = item.sop_instance_uid or sop_instance_uid(json.loads(item.ref))
    if uid and pacs.find([]) is not None:
        return Identity("", "", uid, "", "")
    try:
        if item.instance:
            return retried(partial(pacs.header, item.instance), seconds).identity
        if read is not None:
            return DicomFile(read(json.loads(item.ref))).identity
    except (InstanceRejected, OSError):
        pass  # it is gone, or no DICOM file: nothing was written of it
    except UsageError:
        # An authorization plug-in or a proxy's filter may forbid one image: the workers could not read it either.
        retried(pacs.identity, seconds)  # refused too where it is the password that is wrong
        warn(
            "image.forbidden",
            f"item {item.no}: the PACS forbids reading its image, so no report of it is looked for",
            item=item.no,
        )
    return None


def _held(pacs: Pacs, wanted: dict[str, tuple[int, Identity]], seconds: float) -> dict[str, list[str]]:
    found = retried(lambda: pacs.find(list(wanted)), seconds)
    if found is not None:
        return found
    ids = {uid: pacs.expected_id(of) for uid, (_, of) in wanted.items()}
    return {uid: [one] for uid, one in ids.items() if pacs.contains(wanted[uid][1])}


def _is_of_run(pacs: Pacs, instance: str, job: Job, seconds: float) -> bool:
    """Whether a report was written by this run: its content has the run's time, which an earlier run's has not."""
    try:
        header = DicomFile(retried(lambda: pacs.fetch(instance), seconds)).header
    except InstanceRejected:
        return False
    written = text(header, "ContentDate") + text(header, "ContentTime")[:6]
    offset = text(header, "TimezoneOffsetFromUTC")
    try:
        zone = UTC
        if offset:
            sign = -1 if offset.startswith("-") else 1
            zone = timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5])))
        moment = datetime.strptime(written, "%Y%m%d%H%M%S").replace(tzinfo=zone)
    except ValueError:
        return False
    return moment == datetime.fromisoformat(job["when"])


def _recorded(ledger: Ledger, instance: str) -> bool:
    query = "SELECT 1 FROM item WHERE outcome = 'reported' AND sr_instance = ? LIMIT 1"
    return any(True for _ in ledger.select(int, query, instance))
