"""A run's scores against an earlier run's: of all images, and by site or device where the user says which.

The ledger knows neither site nor device, and shall not: header text stays out of it. A user who knows hands
over a table of studies and groups.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backlog.errors import UsageError
from producer.ledger.ledger import Ledger
from producer.page import drift
from producer.page.drift import Drift

#: Most groups of a table of groups; more is a table of something else.
_MAX_GROUPS: Final = 64


@dataclass(frozen=True)
class Group:
    """One site or device against the same one in the baseline."""

    name: str
    before: int
    now: int
    worst: Drift


@dataclass(frozen=True)
class Comparison:
    """One run against an earlier one."""

    run: str
    when: str
    same_weights: bool
    same_engine: bool
    drifts: list[Drift]
    before: drift.Scores
    groups: list[Group]


def compare(ledger: Ledger, baseline: Ledger, scores: drift.Scores, groups: Path | None = None) -> Comparison:
    """Compare a run with an earlier one.

    Parameters
    ----------
    ledger
        The run's ledger.
    baseline
        The ledger of the earlier run.
    scores
        The run's own, as :func:`producer.page.drift.collect` returns them.
    groups
        A CSV file with the columns ``study_instance_uid`` and ``group``.

    Raises
    ------
    UsageError
        The file of groups can't be read or is something else.
    """
    job, other = ledger.get("job"), baseline.get("job")
    before = drift.collect(baseline)
    return Comparison(
        run=other["run"],
        when=other["when"],
        same_weights=bool(job["weights"]) and job["weights"] == other["weights"],
        same_engine=ledger.get("engines", []) == baseline.get("engines", []),
        drifts=drift.compare(before, scores),
        before=before,
        groups=[] if groups is None else _compare_groups(ledger, baseline, groups),
    )


def _compare_groups(ledger: Ledger, baseline: Ledger, path: Path) -> list[Group]:
    for one in (ledger, baseline):
        one.group(_grouping(path))
    now, before = drift.collect_groups(ledger), drift.collect_groups(baseline)
    found = []
    for name in sorted(now.keys() | before.keys()):
        old, new = before.get(name, drift.none_yet()), now.get(name, drift.none_yet())
        furthest = drift.worst(drift.compare(old, new))
        found.append(Group(name, furthest.before, furthest.now, furthest))
    return found


def _grouping(path: Path) -> Iterator[tuple[str, str]]:
    names: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            if not {"study_instance_uid", "group"} <= set(table.fieldnames or ()):
                raise UsageError(
                    f"{path}: needs a first line that names the columns study_instance_uid and group"
                )
            for row in table:
                name = (row["group"] or "").strip()
                names.add(name)
                if len(names) > _MAX_GROUPS:
                    raise UsageError(
                        f"{path}: more than {_MAX_GROUPS} groups: is this a table of sites or devices?"
                    )
                yield (row["study_instance_uid"] or "").strip(), name
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: can't be read as a CSV file ({error.__class__.__name__})") from error
