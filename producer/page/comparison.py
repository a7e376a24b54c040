"""A run's scores against an earlier run's: of all images, and by site or device where the user says which.

The ledger knows neither site nor device, and shall not: header text stays out of it. A user who knows hands
over a table of studies and groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backlog.errors import UsageError
from backlog.inputs.key_table import Key, key_columns, key_of, listed, plain, refuse_repeated_columns
from backlog.inputs.table_file import checked_rows, opened_table
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import begun_at
from producer.page import drift
from producer.page.drift import Drift

#: Most groups of a table of groups; more is a table of something else.
_MAX_GROUPS: Final = 64

#: The column's plain name that says the group of a study.
_GROUP_COLUMNS: Final = ("group", "grupo")


@dataclass(frozen=True)
class Group:
    """One site or device against the same one in the baseline."""

    name: str
    before: int
    now: int
    worst: Drift


@dataclass
class Grouping:
    """What a table of groups has of two runs."""

    studies: int = 0  #: that it names
    line: int = 0  #: that was read last
    images_before: int = 0  #: of the baseline, in these studies
    images_now: int = 0
    groups: list[Group] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  #: how it was read, where that has to be said


@dataclass(frozen=True)
class Comparison:
    """One run against an earlier one."""

    run: str
    when: str
    same_weights: bool
    same_engine: bool
    drifts: list[Drift]
    before: drift.Scores
    grouping: Grouping | None  #: where the user gave a table


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
        A table, as :func:`backlog.inputs.table_file.opened_table` takes it, with the columns ``study_instance_uid`` and
        ``group``.

    Raises
    ------
    UsageError
        The file of groups can't be read or is something else.
    """
    job, other = ledger.get("job"), baseline.get("job")
    before = drift.collect(baseline)
    return Comparison(
        run=other["run"],
        when=begun_at(other),
        same_weights=bool(job["weights"]) and job["weights"] == other["weights"],
        same_engine=ledger.get("engines", []) == baseline.get("engines", []),
        drifts=drift.compare(before, scores),
        before=before,
        grouping=None if groups is None else _compare_groups(ledger, baseline, groups),
    )


def _compare_groups(ledger: Ledger, baseline: Ledger, path: Path) -> Grouping:
    for one in (ledger, baseline):
        found = Grouping()  # the table is read for each ledger: it may be long
        studies = one.group(_grouping(path, found))
        if studies is None:
            raise UsageError(f"{path}: line {found.line}: an earlier line gives this study another group")
        found.studies = studies
    now, before = drift.collect_groups(ledger), drift.collect_groups(baseline)
    for name in sorted(now.keys() | before.keys()):
        old, new = before.get(name, drift.none_yet()), now.get(name, drift.none_yet())
        found.images_before += drift.images(old)
        found.images_now += drift.images(new)
        furthest = drift.worst(drift.compare(old, new))
        found.groups.append(Group(name, drift.images(old), drift.images(new), furthest))
    return found


def _grouping(path: Path, found: Grouping) -> Iterator[tuple[str, str]]:
    """Yield the studies of a table, each with its group, and note what is found."""
    names: set[str] = set()
    with opened_table(path) as (header, rows, notes):
        refuse_repeated_columns(path, header)
        found.notes = notes
        studies = [at for key, at in key_columns(header) if key is Key.STUDY_INSTANCE_UID]
        groups = [at for at, name in enumerate(header) if plain(name) in _GROUP_COLUMNS]
        if not studies or not groups:
            raise UsageError(
                f"{path}: needs a first line that names the columns study_instance_uid and group"
            )
        if len(studies) > 1 or len(groups) > 1:
            raise UsageError(
                f"{path}: more than one column of studies or of groups:"
                f" {listed([header[at] for at in studies + groups])}"
            )
        study, group = studies[0], groups[0]
        for line, row in checked_rows(path, header, rows):
            found.line = line
            name = row[group].strip()
            names.add(name)
            if len(names) > _MAX_GROUPS:
                raise UsageError(
                    f"{path}: more than {_MAX_GROUPS} groups: is this a table of sites or devices?"
                )
            yield key_of(path, Key.STUDY_INSTANCE_UID, header[study], row[study], line), name
        if not found.line:
            raise UsageError(f"{path}: no rows below the header")
