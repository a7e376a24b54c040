"""When a run's items ended, and how long its stages took."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import Final, NamedTuple

from backlog.broker.messages import TASKS, Stage
from producer.ledger.ledger import Ledger

#: Widths of those bars, in seconds: what a user reads off a clock.
_WIDTHS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 604800)

#: Most bars of the chart over time.
_BARS: Final = 40


@dataclass(frozen=True)
class Throughput:
    """Items that ended, over time."""

    start: float  #: seconds since 1970, UTC
    width: int  #: seconds of one bar
    reported: list[int]
    others: list[int]  #: skipped and quarantined


@dataclass(frozen=True)
class Latency:
    """How long one stage took for an image, in ms: a chunk's time shared among its images."""

    stage: str
    chunks: int
    images: int
    repeated: int  #: chunks that needed more than one attempt
    quantiles: dict[str, float]  #: by name: median, 90 %, 99 %, most
    counts: list[int]  #: in the bins of :data:`LATENCY_EDGES`


#: Edges of the latency bins: four a decade, from 0.1 ms to 1000 s.
LATENCY_EDGES: Final = tuple(10 ** (k / 4) for k in range(-4, 25))


class _EndsRow(NamedTuple):
    first: float | None
    last: float | None


class _BarRow(NamedTuple):
    bar: int
    good: int
    images: int


class _TimingRow(NamedTuple):
    ms: int
    items: int
    attempt: int


def throughput(ledger: Ledger) -> Throughput | None:
    """Return how many items ended when; None where a worker has ended none."""
    # What the listing alone decided cost no work and would look like a burst.
    (ends,) = ledger.select(_EndsRow, "SELECT min(ended), max(ended) FROM item WHERE chunk IS NOT NULL")
    if ends.first is None or ends.last is None:
        return None
    span = ends.last - ends.first
    width = next((w for w in _WIDTHS if span / w < _BARS - 1), math.ceil(span / (_BARS - 1)))
    start = math.floor(ends.first / width) * width
    bars = math.floor((ends.last - start) / width) + 1
    reported, others = [0] * bars, [0] * bars
    query = (
        "SELECT CAST((ended - ?) / ? AS INTEGER), outcome = 'reported', count(*)"
        " FROM item WHERE chunk IS NOT NULL GROUP BY 1, 2"
    )
    for row in ledger.select(_BarRow, query, start, width):
        (reported if row.good else others)[row.bar] = row.images
    return Throughput(start, width, reported, others)


def latency(ledger: Ledger, stage: Stage) -> Latency | None:
    """Return how long a stage took; None where it has done nothing."""
    times = array("d")
    images = repeated = 0
    query = "SELECT ms, items, attempt FROM timing WHERE stage = ? AND items > 0"
    for row in ledger.select(_TimingRow, query, stage.value):
        times.append(row.ms / row.items)
        images += row.items
        repeated += row.attempt > 1
    if not times:
        return None
    ordered = sorted(times)
    counts = [0] * (len(LATENCY_EDGES) - 1)
    for time in ordered:
        place = math.floor(4 * math.log10(max(time, LATENCY_EDGES[0]))) + 4
        counts[min(place, len(counts) - 1)] += 1
    shares = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "most": 1.0}
    quantiles = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in shares.items()}
    return Latency(TASKS[stage], len(ordered), images, repeated, quantiles, counts)
