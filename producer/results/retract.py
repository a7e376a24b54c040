"""Take a run's reports back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from backlog.errors import DeletionUnsupported
from backlog.outcomes import Outcome
from backlog.pacs.base import Pacs
from producer.ledger.ledger import Ledger
from producer.ledger.rows import ItemRow
from producer.ledger.schema import DELIVERED, DERIVED_RETRACTED, RETRACTED
from producer.results.item_requests import ItemRequests
from producer.results.labels import remove_labels
from producer.results.reported import ReportedItem, derived_objects, reported_items, reported_pages
from producer.results.unrecorded import Unanswered, unrecorded

#: Requests at a time.
_ABREAST: Final = 4


@dataclass
class Retraction:
    """What was taken back."""

    reports: int = 0
    left: int = 0  #: reports that stay, being changed, or were gone already
    changed: int = 0  #: those of them that the PACS holds in another form
    derived_objects: int = 0
    labels: int = 0  #: on studies, in an Orthanc
    unrecorded: int = 0  #: reports of items that don't count as reported, and those made with other weights
    unanswered: int = (
        0  #: items on whose report the PACS fails, while it answers otherwise: a later retraction asks again
    )


def written(ledger: Ledger) -> Iterator[ItemRow]:
    """Stream the items whose report this run itself wrote."""
    return (item for item in ledger.items(Outcome.REPORTED) if item.sr_ours)


def delivered(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Yield what this run's modality confirmed to have, reports and the rest: (Study, SOP Instance UID)."""
    columns = ", ".join(f"item.{name}" for name in ItemRow._fields)
    query = (
        f"SELECT {columns} FROM effect JOIN item ON item.no = effect.item"  # noqa: S608  # names of a type
        " WHERE effect.kind = ? ORDER BY effect.seq"
    )
    for item in ledger.select(ItemRow, query, DELIVERED):
        beside_it = [one["sop_instance_uid"] for one in derived_objects(item)]
        for uid in (item.sr_sop_instance_uid, *beside_it):
            yield item.study_instance_uid, uid


def beside(ledger: Ledger) -> int:
    """Return how many derived objects this run itself stored beside reports."""
    items = ledger.items(Outcome.REPORTED)
    return sum(one["ours"] for item in items for one in derived_objects(item))


def retract(
    ledger: Ledger,
    pacs: Pacs,
    *,
    read: Callable[[int | str], bytes] | None = None,
    retry_seconds: float = 0.0,
    progress: Callable[[int], object] = lambda _: None,
) -> Retraction:
    """Delete exactly the reports that this run wrote and what it stored beside them, and keep that they were deleted.

    Labels that it put on studies are taken off first.

    What was changed since is another program's and stays. A run can have stored derived objects beside reports of an
    earlier run: they go, the reports stay. Broken off anywhere, it goes on where it was.

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

    Raises
    ------
    DeletionUnsupported
        The PACS deletes nothing: every report is still there.
    """
    done = Retraction(labels=remove_labels(ledger, pacs, retry_seconds))
    try:
        _retract_all(ledger, pacs, read, retry_seconds, progress, done)
    except DeletionUnsupported as error:
        ledger.set("retracting", None)  # what is gone later was deleted by others
        raise DeletionUnsupported(
            f"{error}. Its reports are still there: delete them with the PACS's own tools. Without --yes this command"
            " lists their SOP Instance UIDs, and with it, afterwards, keeps that they are gone"
        ) from error
    return done


def _retract_all(
    ledger: Ledger,
    pacs: Pacs,
    read: Callable[[int | str], bytes] | None,
    retry_seconds: float,
    progress: Callable[[int], object],
    done: Retraction,
) -> None:
    looked = 0
    requests = ItemRequests(pacs, retry_seconds)
    with ThreadPoolExecutor(_ABREAST) as pool:
        for page in _pages(ledger):
            # Before their reports: a retraction that is broken off here finds them again through these.
            _retract_derived(ledger, requests, page, pool, done)
            _retract_reports(ledger, requests, page, pool, done)
            looked += len(page)
            progress(looked)
    for one in unrecorded(ledger, requests, read):
        if isinstance(one, Unanswered):
            done.unanswered += 1
            continue
        ledger.set("retracting", {"effect": RETRACTED, "items": [one.item], "uid": one.sop_instance_uid})
        if requests.delete([one.instance]):
            ledger.set("retracting", None)
            done.unanswered += 1
            continue
        ledger.retract([(one.item, one.sop_instance_uid, True)] if one.item >= 0 else [])
        done.unrecorded += 1


def _intent(ledger: Ledger) -> tuple[str, list[int]]:
    """Return what an earlier retraction was about to delete when it was broken off: what is gone of it, we deleted."""
    kept = ledger.get("retracting")
    return (kept["effect"], list(kept.get("items") or [kept["item"]])) if kept else ("", [])


def _pages(ledger: Ledger) -> Iterator[list[ReportedItem]]:
    """Yield the reported items, first those at which an earlier retraction was broken off."""
    effect, broken_off = _intent(ledger)
    first = [
        item
        for number in broken_off
        for item in reported_items(ledger, number - 1, 1)
        if item.row.no == number
    ]
    if first:
        yield first
    elif broken_off:  # an unrecorded report
        uid = str(ledger.get("retracting").get("uid", ""))
        ledger.retract([(number, uid, True) for number in broken_off if number >= 0 and effect == RETRACTED])
    for page in reported_pages(ledger):
        yield [item for item in page if item.row.no not in broken_off]


def _retract_reports(
    ledger: Ledger,
    requests: ItemRequests,
    page: list[ReportedItem],
    pool: ThreadPoolExecutor,
    done: Retraction,
) -> None:
    items = [item for item in page if item.row.sr_ours and not item.taken]
    if not items:
        return
    effect, broken_off = _intent(ledger)
    about_to = set(broken_off) if effect == RETRACTED else set()
    reports = [(item.row.sr_instance, item.row.sr_sha256) for item in items]
    states = [state for state, _ in requests.read_page(pool, reports)]
    right = {
        item.row.sr_instance: item.row.no
        for item, found in zip(items, states, strict=True)
        if found == "right"
    }
    failed = {item.row.no for item, found in zip(items, states, strict=True) if found == "unanswered"}
    gone = {item.row.no for item, found in zip(items, states, strict=True) if found == "missing"} & about_to
    if right:
        # The intent first: what is gone when we come back after a crash was deleted by us.
        ledger.set("retracting", {"effect": RETRACTED, "items": sorted({*right.values(), *gone})})
        kept = {right[instance] for instance in requests.delete(list(right))}
        gone |= set(right.values()) - kept
        failed |= kept
    settled = [item.row for item in items if item.row.no not in failed]
    ledger.retract((row.no, row.sr_sop_instance_uid, row.no in gone) for row in settled)
    done.reports += len(gone)
    done.left += len(settled) - len(gone)
    done.changed += states.count("different")
    done.unanswered += len(failed)


def _retract_derived(
    ledger: Ledger,
    requests: ItemRequests,
    page: list[ReportedItem],
    pool: ThreadPoolExecutor,
    done: Retraction,
) -> None:
    ours = [(item.row.no, one) for item in page for one in derived_objects(item.row) if one["ours"]]
    if not ours:
        return
    effect, broken_off = _intent(ledger)
    about_to = set(broken_off) if effect == DERIVED_RETRACTED else set()
    states = list(pool.map(lambda pair: requests.read(pair[1]["instance"], pair[1]["sha256"])[0], ours))
    gone = [
        number
        for (number, _), found in zip(ours, states, strict=True)
        if found == "missing" and number in about_to
    ]
    right = {
        one["instance"]: number for (number, one), found in zip(ours, states, strict=True) if found == "right"
    }
    failed = states.count("unanswered")
    if right:
        items = sorted({*gone, *right.values()})
        ledger.set("retracting", {"effect": DERIVED_RETRACTED, "items": items})
        kept = requests.delete(list(right))
        gone += [number for instance, number in right.items() if instance not in kept]
        failed += len(kept)
    if gone:
        ledger.retract_derived(set(gone))
    done.derived_objects += len(gone)
    done.unanswered += failed
