"""What a run's account says of the day of a followed source that it is."""

from __future__ import annotations

from typing import TypedDict

from producer.ledger.chunks import GONE
from producer.ledger.ledger import FOLLOWS, Ledger


class FollowedDay(TypedDict):
    """Which day of a followed source a run is."""

    day: str
    zone: str
    gone_before_read: (
        int  #: images that were deleted from the PACS between their arrival and the look at them
    )


def followed_day(ledger: Ledger) -> FollowedDay | None:
    """Return the day; None of a run that follows nothing."""
    kept = ledger.get(FOLLOWS)
    if not kept:
        return None
    return {"day": kept["day"], "zone": kept["zone"], "gone_before_read": int(ledger.get(GONE, 0))}
