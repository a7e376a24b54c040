"""The reports of a run, page by page, with the state of each in the PACS."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from backlog.broker.messages import DerivedRecord
from backlog.errors import InstanceRejected, ServiceUnavailable
from backlog.pacs.base import Pacs
from producer.ledger.ledger import Ledger
from producer.ledger.rows import ITEM_COLUMNS, ItemRow

T = TypeVar("T")

#: Items held at a time: never a million, and no query stands open while the ledger is written.
BATCH: Final = 256

#: The first and the longest pause before a request that failed is made again, in seconds.
PAUSES: Final = (0.25, 5.0)


_REPORTED: Final = (
    f"SELECT {ITEM_COLUMNS},"  # noqa: S608  # names of a type
    " EXISTS (SELECT 1 FROM retracted WHERE retracted.item = item.no AND found) AS taken,"
    " EXISTS (SELECT 1 FROM effect WHERE effect.item = item.no AND kind = 'derived_objects.retracted') AS derived_taken"
    " FROM item WHERE outcome = 'reported' AND no > ? ORDER BY no LIMIT ?"
)


class ReportedItem(NamedTuple):
    """A reported item, and what was taken back of it."""

    row: ItemRow
    taken: bool  #: its report
    derived_taken: bool  #: what stood beside it


def derived_objects(row: ItemRow) -> list[DerivedRecord]:
    """Return what stands beside an item's report in the PACS; without those that could not be made."""
    return [one for one in row.derived if "instance" in one]


def retried(request: Callable[[], T], seconds: float) -> T:
    """Make a request to the PACS, again and again while it is unavailable.

    Parameters
    ----------
    request
        Makes the request once, and returns its answer.
    seconds
        How long, in all.

    Raises
    ------
    ServiceUnavailable
        It still is.
    """
    deadline = time.monotonic() + seconds
    pause, longest = PAUSES
    while True:
        try:
            return request()
        except ServiceUnavailable:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, longest)


def state_in_pacs(pacs: Pacs, instance: str, sha256: str) -> str:
    """Return `missing`, `different` or `right`: what the PACS holds of an object, compared by its SHA-256.

    Parameters
    ----------
    pacs
        The run's PACS.
    instance
        The PACS's own id of the object.
    sha256
        Hex digest of the file as it was stored.
    """
    return read_in_pacs(pacs, instance, sha256)[0]


def read_in_pacs(pacs: Pacs, instance: str, sha256: str) -> tuple[str, bytes]:
    """Return the state of an object as `state_in_pacs` does, and what the PACS holds of it.

    Parameters
    ----------
    pacs
        The run's PACS.
    instance
        The PACS's own id of the object.
    sha256
        Hex digest of the file as it was stored.
    """
    try:
        held = pacs.fetch(instance)
    except InstanceRejected:
        held = None
    return compared(held, sha256)


def compared(held: bytes | None, sha256: str) -> tuple[str, bytes]:
    """Return the state of an object as `state_in_pacs` does, and its bytes.

    Parameters
    ----------
    held
        What the PACS holds; None where it holds nothing.
    sha256
        Hex digest of the file as it was stored.
    """
    if held is None:
        return "missing", b""
    return ("right" if hashlib.sha256(held).hexdigest() == sha256 else "different"), held


def reported_items(ledger: Ledger, after: int, count: int) -> Iterator[ReportedItem]:
    """Stream reported items.

    Parameters
    ----------
    ledger
        The run's ledger.
    after
        The number of the item before the first.
    count
        Most items to return.
    """
    return ledger.select(
        lambda *columns: ReportedItem(ItemRow(*columns[:-2]), bool(columns[-2]), bool(columns[-1])),
        _REPORTED,
        after,
        count,
    )


def reported_pages(ledger: Ledger, after: int = -1) -> Iterator[list[ReportedItem]]:
    """Yield a run's reported items, a bounded page at a time, so that the ledger may be written between them."""
    last = after
    while page := list(reported_items(ledger, last, BATCH)):
        yield page
        last = page[-1].row.no
