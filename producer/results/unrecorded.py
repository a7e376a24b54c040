"""Reports of a run in the PACS that the ledger has no record of.

A worker may store a report and fail before it says so, or Redis may lose that it did; the item is then quarantined or
unfinished. The UID of a report is a function of its image, so each of those items is asked for, every time: what the
PACS fails on today is found when it answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Final, NamedTuple

from backlog.broker.job import IN_PACS, Job
from backlog.broker.messages import Stage
from backlog.dicom.file import DicomFile
from backlog.dicom.header import Identity
from backlog.dicom.values import text
from backlog.errors import InstanceRejected, UsageError
from backlog.log import warn
from backlog.report_uids import report_and_series_uid_of
from producer.ledger.ledger import Ledger
from producer.results.item_requests import ItemRequests, NotAnswered
from producer.results.reported import retried
from producer.sources.modality import sop_instance_uid

_BATCH: Final = 256

_NOT_REPORTED: Final = (
    "SELECT no, ref, instance, sop_instance_uid, stage, sr_sop_instance_uid, sr_instance FROM item"
    " WHERE outcome <> 'reported' AND chunk IS NOT NULL AND no > ? ORDER BY no LIMIT ?"
)


class _Unreported(NamedTuple):
    no: int
    ref: str  #: JSON: where its source finds it
    instance: str | None  #: the PACS's id of the image
    sop_instance_uid: str
    stage: int  #: in which it ended
    sr_sop_instance_uid: str = ""
    sr_instance: str = ""  #: of a report that it left behind, where its worker could say so


@dataclass(frozen=True)
class Unrecorded:
    """A report that this run wrote."""

    item: int
    instance: str  #: the PACS's id
    sop_instance_uid: str


@dataclass(frozen=True)
class Unanswered:
    """An item that may have a report of this run: the PACS fails on every question about it, and answers others."""

    item: int


def unrecorded(
    ledger: Ledger, requests: ItemRequests, read: Callable[[int | str], bytes] | None
) -> Iterator[Unrecorded | Unanswered]:
    """Find the reports that a run wrote for items that it doesn't count as reported.

    Parameters
    ----------
    ledger
        The run's ledger.
    requests
        Of the run's PACS.
    read
        Reads an item's header from the run's source; None where that is gone.
    """
    job: Job = ledger.get("job")
    if not job["weights"]:
        return  # nothing was scored
    model = str(ledger.get("model"))
    if job["source"]["kind"] in IN_PACS:
        read = None  # it would ask the PACS again
    for page in _pages(ledger):
        wanted: dict[str, _Wanted] = {}
        left: dict[str, _Unreported] = {}
        for item in page:
            of = None
            try:
                of = _identity(item, requests, read)
            except NotAnswered:
                if not item.sr_instance:
                    yield Unanswered(item.no)
                    continue
            if of is not None:
                report = _report_of(of, job, model)
                wanted[report.sop_instance_uid] = _Wanted(item, report)
            elif item.sr_instance:
                left[item.sr_sop_instance_uid] = item
        held, failed = _held(requests, wanted)
        held = {uid: [one.sr_instance] for uid, one in left.items()} | held
        numbers = {uid: one.no for uid, one in left.items()} | {
            uid: one.number for uid, one in wanted.items()
        }
        for uid in sorted(failed):
            try:
                held[uid] = _held_by_its_id(requests, wanted[uid], read, job, model)
            except NotAnswered:
                yield Unanswered(wanted[uid].number)
        for uid, instances in held.items():
            for instance in instances:
                try:
                    if _is_of_run(requests, instance, job) and not _recorded(ledger, instance):
                        yield Unrecorded(numbers[uid], instance, uid)
                except NotAnswered:
                    yield Unanswered(numbers[uid])
    for instance in ledger.get("foreign_reports", []):  # a worker's with other weights
        try:
            if _is_of_run(requests, instance, job):
                yield Unrecorded(-1, instance, "")
        except NotAnswered:
            yield Unanswered(-1)


@dataclass(frozen=True)
class _Wanted:
    item: _Unreported
    report: Identity  #: without its study and patient, where only the image's UID is known

    @property
    def number(self) -> int:
        return self.item.no


def _report_of(of: Identity, job: Job, model: str) -> Identity:
    """Return which object the report of an image is."""
    uid, series_uid = report_and_series_uid_of(job, of.sop_instance_uid, model, job["weights"])
    return replace(of, sop_instance_uid=uid, series_instance_uid=series_uid)


def _pages(ledger: Ledger) -> Iterator[list[_Unreported]]:
    last = -1
    while page := list(ledger.select(_Unreported, _NOT_REPORTED, last, _BATCH)):
        yield page
        last = page[-1].no
    kind = ledger.get("job")["source"]["kind"]
    for chunk in ledger.in_flight():
        yield [
            _Unreported(
                item,
                json.dumps(ref),
                str(ref) if kind in ("orthanc", "dicomweb") else "",
                "",
                Stage.INFER.value,
            )
            for item, ref in chunk.items
        ]


def _identity(
    item: _Unreported, requests: ItemRequests, read: Callable[[int | str], bytes] | None
) -> Identity | None:
    """Return which image an item is, from what is at hand; None where nothing tells.

    Raises
    ------
    NotAnswered
        The PACS fails to give its header, which a worker has had.
    """
    uid = item.sop_instance_uid or sop_instance_uid(json.loads(item.ref))
    if uid and requests.pacs.find([]) is not None:
        return Identity("", "", uid, "", "")
    return _whole_identity(item, requests, read)


def _whole_identity(
    item: _Unreported, requests: ItemRequests, read: Callable[[int | str], bytes] | None
) -> Identity | None:
    try:
        if item.instance:
            return requests.ask(partial(requests.pacs.header, item.instance)).identity
    except InstanceRejected:
        pass  # it is gone from there; its report may not be
    except NotAnswered:
        if item.stage >= Stage.REPORT.value:
            raise
        warn(
            "image.unreadable",
            f"item {item.no}: the PACS fails to give its image, so no report of it is looked for",
            item=item.no,
        )
        return None
    except UsageError:
        # An authorization plug-in or a proxy's filter may forbid one image: the workers could not read it either.
        retried(
            requests.pacs.identity, requests.seconds
        )  # refused too where it is the password that is wrong
        warn(
            "image.forbidden",
            f"item {item.no}: the PACS forbids reading its image, so no report of it is looked for",
            item=item.no,
        )
        return None
    if read is None:
        return None
    try:
        return DicomFile(read(json.loads(item.ref))).identity
    except (InstanceRejected, UsageError, OSError):
        return None  # it is gone there too, or no DICOM file, of which nothing was written


def _held(requests: ItemRequests, wanted: dict[str, _Wanted]) -> tuple[dict[str, list[str]], set[str]]:
    """Return the PACS's ids of the reports that it holds, by their UIDs, and the UIDs on which it fails."""
    pacs = requests.pacs
    found, failed = requests.find(list(wanted))
    if found is not None:
        return found, failed
    found = {}
    for uid, one in wanted.items():
        try:
            if requests.ask(partial(pacs.contains, one.report)):
                found[uid] = [pacs.expected_id(one.report)]
        except NotAnswered:
            failed.add(uid)
    return found, failed


def _held_by_its_id(
    requests: ItemRequests,
    wanted: _Wanted,
    read: Callable[[int | str], bytes] | None,
    job: Job,
    model: str,
) -> list[str]:
    """Return the PACS's id of a report, where it fails on the report's UID: the id derives from the image's header."""
    if wanted.item.sr_instance:
        return [wanted.item.sr_instance]
    of = _whole_identity(wanted.item, requests, read)
    if of is None:
        raise NotAnswered("nothing tells the id of its report")
    return [requests.pacs.expected_id(_report_of(of, job, model))]


def _is_of_run(requests: ItemRequests, instance: str, job: Job) -> bool:
    """Whether a report was written by this run: its content has the run's time, which an earlier run's has not."""
    try:
        header = DicomFile(requests.ask(partial(requests.pacs.fetch, instance))).header
    except InstanceRejected:
        return False
    written = text(header, "ContentDate") + text(header, "ContentTime")
    offset = text(header, "TimezoneOffsetFromUTC")
    try:
        zone = UTC
        if offset:
            sign = -1 if offset.startswith("-") else 1
            zone = timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5])))
        form = "%Y%m%d%H%M%S.%f" if "." in written else "%Y%m%d%H%M%S"
        moment = datetime.strptime(written, form).replace(tzinfo=zone)
    except ValueError:
        return False
    return moment == datetime.fromisoformat(job["when"])


def _recorded(ledger: Ledger, instance: str) -> bool:
    query = "SELECT 1 FROM item WHERE outcome = 'reported' AND sr_instance = ? LIMIT 1"
    return any(True for _ in ledger.select(int, query, instance))
