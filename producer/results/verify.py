"""Read a run's reports back from the PACS and compare."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from backlog.pacs.base import Pacs
from producer.ledger.ledger import Ledger
from producer.results.reported import derived_objects, reported_pages, state_in_pacs

#: Requests at a time.
_ABREAST: Final = 4


@dataclass
class Verification:
    """What the PACS holds of a run's reports."""

    right: int = 0
    missing: list[int] = field(default_factory=list)  #: items
    different: list[int] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)
    retracted: int = 0  #: gone because this run took them back
    unaccounted: int = 0  #: input items without any outcome
    all_listed: bool = True  #: whether the source was read to its end

    @property
    def complete(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.missing or self.different or self.twice or self.unaccounted
        return self.all_listed and not wrong


def verify(ledger: Ledger, pacs: Pacs) -> Verification:
    """Read every report of a run back and compare its digest.

    Raises
    ------
    ServiceUnavailable, UsageError
        The PACS is unavailable or refuses us.
    """
    found = Verification(
        unaccounted=int(ledger.get("listed", 0)) - ledger.tally().ended,
        all_listed=bool(ledger.get("all_listed", False)),
    )

    def look(item: dict[str, Any]) -> tuple[int, str]:
        number = int(item["no"])
        state = state_in_pacs(pacs, item["sr_instance"], item["sr_sha256"])
        if state == "missing" and item["taken"]:
            return number, "retracted"
        if state != "right":
            return number, state
        if pacs.count_instances(item["sr_sop_instance_uid"], item["sr_instance"]) != 1:
            return number, "twice"
        for one in derived_objects(item):
            state = state_in_pacs(pacs, one["instance"], one["sha256"])
            if state == "missing" and one["ours"] and item["derived_taken"]:
                continue
            if state != "right":
                return number, state
        return number, "right"

    with ThreadPoolExecutor(_ABREAST) as pool:
        for page in reported_pages(ledger):
            for number, state in pool.map(look, page):
                if state == "right":
                    found.right += 1
                elif state == "retracted":
                    found.retracted += 1
                else:
                    getattr(found, state).append(number)
    return found
