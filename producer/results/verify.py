"""Read a run's reports back from the PACS and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from backlog.dicom.header import Identity
from backlog.pacs.base import Pacs
from producer.ledger.ledger import Ledger
from producer.results.item_requests import ItemRequests, NotAnswered
from producer.results.reported import ReportedItem, derived_objects, reported_pages, retried
from producer.results.unrecorded import Unanswered, unrecorded
from producer.results.verification import Verification, VerificationState

#: Requests at a time.
_ABREAST: Final = 4


def verify(
    ledger: Ledger,
    pacs: Pacs,
    *,
    read: Callable[[int | str], bytes] | None = None,
    retry_seconds: float = 0.0,
    progress: Callable[[int], object] = lambda _: None,
    state: Path | None = None,
    from_start: bool = False,
    resumed: Callable[[int, datetime], object] = lambda *_: None,
) -> Verification:
    """Read every report of a run back, compare its digest, and where it lies; ask for those that nobody recorded.

    Parameters
    ----------
    ledger
        The run's ledger.
    pacs
        The run's PACS.
    read
        Reads an item's header from the run's source; None where that is gone.
    retry_seconds
        How long to wait for a PACS that is unavailable.
    progress
        Called with how many reports were looked at.
    state
        A file that keeps how far it came, so that a verification that was broken off goes on there, unless the run's
        account has changed since.
    from_start
        Pass over what that file keeps.
    resumed
        Called where it goes on, with the number of the item, and with when those before it were begun to be looked at.

    Raises
    ------
    ServiceUnavailable, UsageError
        The PACS is unavailable or refuses us.
    """
    kept = None
    if state is not None:
        kept = VerificationState.of(state, ledger, retried(pacs.identity, retry_seconds))
    found = (kept.kept() if kept is not None and not from_start else None) or Verification.new()
    if found.resumed_at:
        resumed(found.resumed_at, datetime.fromisoformat(found.begun))
    found.unaccounted = int(ledger.get("listed", 0)) - ledger.tally().ended
    found.all_listed = bool(ledger.get("all_listed", False))
    requests = ItemRequests(pacs, retry_seconds)
    doubtful: list[ReportedItem] = []

    def look(item: ReportedItem, answer: tuple[str, bytes]) -> str:
        verdict, held = answer
        if verdict == "right" and not _lies_with_image(pacs, item, held):
            doubtful.append(item)
        if verdict == "missing" and item.taken:
            return "retracted"
        for one in derived_objects(item.row) if verdict == "right" else ():
            of_one, _ = requests.read(one["instance"], one["sha256"])
            if of_one != "right" and not (of_one == "missing" and one["ours"] and item.derived_taken):
                return of_one
        return verdict

    with ThreadPoolExecutor(_ABREAST) as pool:
        for page in reported_pages(ledger, found.resumed_at - 1):
            twice, failed = _twice(page, requests)
            doubtful.clear()
            reports = [(item.row.sr_instance, item.row.sr_sha256) for item in page]
            each = pool.map if any(item.row.derived_objects for item in page) else map
            verdicts = list(each(look, page, requests.read_page(pool, reports)))
            misfiled, failed_too = _misfiled(doubtful, requests)
            for item, verdict in zip(page, verdicts, strict=True):
                number = item.row.no
                if verdict == "right" and number in twice | misfiled:
                    (found.twice if number in twice else found.misfiled).append(number)
                elif verdict == "right" and number in failed | failed_too:
                    found.unanswered.append(number)
                elif verdict in ("right", "retracted"):
                    setattr(found, verdict, getattr(found, verdict) + 1)
                else:
                    getattr(found, verdict).append(number)
            if kept is not None:
                kept.keep(page[-1].row.no, found)
            progress(found.looked_at)
    found.not_looked_at = abs(ledger.tally().reported - found.looked_at)
    for one in unrecorded(ledger, requests, read):
        if isinstance(one, Unanswered):
            found.unanswered.append(one.item)
        elif one.item >= 0:
            found.unrecorded.append(one.item)
        else:
            found.foreign += 1
    if kept is not None:
        kept.remove()
    return found


def _twice(page: list[ReportedItem], requests: ItemRequests) -> tuple[set[int], set[int]]:
    """Return the items whose report's UID the PACS holds more than once, and those on whose UID it fails."""
    uids = {item.row.sr_sop_instance_uid: item.row.no for item in page}
    held, failed = requests.find(list(uids))
    twice = {number for uid, number in uids.items() if len((held or {}).get(uid, ())) > 1}
    return twice, {uids[uid] for uid in failed}


def _lies_with_image(pacs: Pacs, item: ReportedItem, report: bytes) -> bool:
    """Whether the ids of a report and its image prove that both lie in one patient's study; False where they don't.

    An id is a hash of the Patient ID and the UIDs that the PACS read. So whatever is picked out of the report's bytes
    here, in the encoding that we write: where it gives both ids, it is what the PACS has read of both.
    """
    patient = next(_values(report, b"\x10\x00\x20\x00LO"), "")
    study = next(_values(report, b"\x20\x00\x0d\x00UI"), "")
    of = Identity(study, "", "", "", patient)

    def gives(instance: str, sop_instance_uid: str) -> bool:
        return any(
            pacs.expected_id(replace(of, series_instance_uid=one, sop_instance_uid=sop_instance_uid))
            == instance
            for one in _values(report, b"\x20\x00\x0e\x00UI")
        )

    return gives(item.row.sr_instance, item.row.sr_sop_instance_uid) and gives(
        str(item.row.instance), item.row.sop_instance_uid
    )


def _values(report: bytes, mark: bytes) -> Iterator[str]:
    """Yield the values of the elements with a tag and value representation, in order: those wanted stand at the front.

    A report with regions is 50 kB long, and a look at all of it takes longer than to compare its digest.
    """
    seen: set[bytes] = set()
    at = report.find(mark)
    while at >= 0:
        value = report[at + 8 : at + 8 + int.from_bytes(report[at + 6 : at + 8], "little")]
        if value not in seen:
            seen.add(value)
            yield value.decode("utf-8", "replace").strip(" \0")
        at = report.find(mark, at + 8)


def _misfiled(page: list[ReportedItem], requests: ItemRequests) -> tuple[set[int], set[int]]:
    """Return the items whose report lies in another study than their image, and those on which the PACS fails."""
    pairs = {item.row.no: (str(item.row.instance), item.row.sr_instance) for item in page}
    studies: dict[str, str] = {}
    failed = set()
    try:
        studies = requests.ask(
            partial(requests.pacs.studies_of, [one for pair in pairs.values() for one in pair])
        )
    except NotAnswered:
        for number, pair in pairs.items():
            try:
                studies |= requests.ask(partial(requests.pacs.studies_of, pair))
            except NotAnswered:
                failed.add(number)
    return {
        number
        for number, (image, report) in pairs.items()
        if image in studies and report in studies and studies[image] != studies[report]
    }, failed
