"""Whose fault it is when a server fails on an item: the item's, or the server's. Pure: times in, a verdict out.

An outage is never an item's fault. An item that a server fails on whenever it comes would keep its run from ending
for ever. The other items tell the two apart: where an item fails, another is served, the item fails again, and again
another is served, the server works, and the item is to blame.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final


class Operation(Enum):
    """What is asked of a server. A disk that takes no writes any more can still be read."""

    READ = "read"  #: the PACS gives an image, a header or an answer
    WRITE = "write"  #: the PACS takes an object that it did not have
    SOURCE = "source"  #: the backlog's own disk gives a file
    RETRIEVE = "retrieve"  #: a DICOM modality sends an image
    DELIVER = "deliver"  #: a DICOM modality takes a report


class Verdict(Enum):
    """What to do with an item that a server fails on."""

    ITEM = "item"  #: it is to blame: it ends here
    LATER = "later"  #: others are served: put it aside, and try it again alone
    OUTAGE = "outage"  #: nothing was served since: the server is unavailable, for all that is known


#: Events after which an item is to blame: failed, others served, failed, others served.
_ENOUGH: Final = 4


class FaultHistory:
    """When one item failed and others were served, in turn. Its events travel as a list of ms since 1970.

    Parameters
    ----------
    events
        Of an earlier attempt: a failure, a success of others, a failure, and so on.
    """

    def __init__(self, events: Iterable[int] = ()) -> None:
        self.events = list(events)

    def failed(self, at: int) -> None:
        """Note that a server failed on the item until its retry budget was used up, ``at`` in ms."""
        if len(self.events) % 2 == 0:
            self.events.append(at)

    def served(self, at: int) -> None:
        """Note that the same server served another item, ``at`` in ms; before the item failed it says nothing."""
        if len(self.events) % 2 == 1 and at > self.events[-1]:
            self.events.append(at)

    def join(self, events: Iterable[int]) -> None:
        """Go on with the events of a later attempt."""
        for place, at in enumerate(events):
            if place % 2 == 0:
                self.failed(at)
            else:
                self.served(at)

    @property
    def unanswered(self) -> bool:
        """Whether nothing was served since the item failed last."""
        return len(self.events) % 2 == 1

    @property
    def verdict(self) -> Verdict:
        """What the events say."""
        if len(self.events) >= _ENOUGH:
            return Verdict.ITEM
        return Verdict.LATER if len(self.events) > 1 else Verdict.OUTAGE
