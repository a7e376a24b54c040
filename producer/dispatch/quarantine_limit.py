"""A run that goes wrong pauses by itself: too large a share of its items is quarantined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from producer.ledger.ledger import Ledger

#: So many items have to have ended before their share says something.
LEAST_ENDED: Final = 100

#: Facts of the ledger: the tally from which is counted, and why the run paused by itself.
_COUNTED_FROM: Final = "quarantine_counted_from"
REASON: Final = "paused_by_itself"


@dataclass
class QuarantineLimit:
    """Counts from the run's beginning, and after each pause that it caused from there on.

    Parameters
    ----------
    ledger
        The run's ledger, which keeps from where is counted: a producer that is started again doesn't begin anew.
    percent
        The share of ended items that may be quarantined, 0 to 100.
    """

    ledger: Ledger
    percent: float

    def exceeded(self) -> str:
        """Return why the run has to pause; empty where it hasn't. Then counting begins anew."""
        tally = self.ledger.tally()
        ended_before, quarantined_before = self.ledger.get(_COUNTED_FROM, [0, 0])
        quarantined = sum(tally.quarantined.values())
        ended, share_of = tally.ended - ended_before, quarantined - quarantined_before
        if ended < LEAST_ENDED or 100 * share_of < self.percent * ended or not share_of:
            return ""
        self.ledger.set(_COUNTED_FROM, [tally.ended, quarantined])
        return (
            f"the run has paused by itself: {share_of} of {ended} items were quarantined (--stop-when-quarantined"
            f" {self.percent:g}%)"
        )
