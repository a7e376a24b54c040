"""How far a run is, and how long its stages take."""

from __future__ import annotations

from dataclasses import dataclass, field

from backlog.broker.messages import Stage, StageTime
from producer.ledger.ledger import Tally

#: How long the stages of some chunks took, by the chunk's number.
StageTimes = dict[int, dict[Stage, StageTime]]


@dataclass
class RunProgress:
    """How far the run is; made anew from stored states at each tick."""

    listed: int = 0
    all_listed: bool = False
    total: int | None = None
    uploaded: int = 0
    inferred: int = 0
    tally: Tally = field(default_factory=lambda: Tally(0, {}, {}))
    in_flight: int = 0
    leased: int = 0
    resent: int = 0
    paused: bool = False
    waiting_reason: str = ""
    outside_hours: bool = False  #: nothing is sent at this time of the day
    queues_without_worker: list[str] = field(default_factory=list)
    following: bool = False  #: the source goes on: what arrives is listed
    standing_still: bool = False  #: nothing moves, and nothing tells why

    @property
    def done(self) -> bool:
        """Whether every item has ended."""
        return self.all_listed and self.tally.ended >= self.listed
