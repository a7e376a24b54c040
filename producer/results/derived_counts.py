"""How many derived objects a run has: a look at each of its items."""

from __future__ import annotations

from typing import NamedTuple

from producer.ledger.ledger import Ledger


class _DerivedCount(NamedTuple):
    kind: str
    how: str  #: ``stored``, or why it could not be made
    items: int


def count_derived_objects(ledger: Ledger) -> dict[str, dict[str, int]]:
    """Return what stands beside the reports, and why what is missing there could not be made: counts by kind."""
    counts: dict[str, dict[str, int]] = {}
    query = (
        "SELECT one.value ->> 'kind', coalesce(one.value ->> 'reason', 'stored'), count(*)"
        " FROM item, json_each(item.derived_objects) AS one WHERE item.derived_objects <> ''"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    )
    for row in ledger.select(_DerivedCount, query):
        counts.setdefault(row.kind, {})[row.how] = row.items
    return counts
