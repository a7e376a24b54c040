"""What of a list of wanted images (`--only`) was found: counts for everybody, values in a file for its owner alone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

from backlog.inputs.key_table import Key
from backlog.output_file import OutputFile
from producer.ledger.ledger import Ledger
from producer.sources.only_list import OnlyFacts, OnlyList
from producer.spreadsheet import cell

#: The ledger's fact that a run has such a list.
ONLY: Final = "only"

#: Values that name one image: a second one is another image under the same name.
_OF_ONE_IMAGE: Final = (Key.SOP_INSTANCE_UID.value, Key.FILE_NAME.value)


class OnlyAccount(TypedDict):
    """Counts of a list's values."""

    by: str  #: what they are, of :class:`backlog.inputs.key_table.Key`
    column: str
    listed: int
    repeated: int  #: rows that repeat a value
    found: int
    not_found: int  #: so far, until the whole source is listed
    more_than_once: int  #: an image's name on several files, or an accession number in several studies
    looked_at: int  #: entries of the source
    without_header: int  #: of these, the ones that may be wanted or not: their header can't be read


class _FoundRow(NamedTuple):
    found: int
    items: int  #: values with several items
    studies: int  #: values with several studies


class _MatchRow(NamedTuple):
    row: int
    items: int
    studies: int


def only_account(ledger: Ledger) -> OnlyAccount | None:
    """Return the account of a run's list; None where the run has none."""
    facts: OnlyFacts | None = ledger.get(ONLY)
    if facts is None:
        return None
    (row,) = ledger.select(
        _FoundRow,
        "SELECT count(*), coalesce(sum(items > 1), 0), coalesce(sum(studies > 1), 0)"
        " FROM (SELECT sum(items) AS items, count(*) AS studies FROM only_match GROUP BY row)",
    )
    return account_of(
        facts,
        found=row.found,
        several_items=row.items,
        several_studies=row.studies,
        looked_at=int(ledger.get("looked_at", 0)),
        without_header=int(ledger.get("without_header", 0)),
    )


def account_of(
    facts: OnlyFacts,
    *,
    found: int,
    several_items: int,
    several_studies: int,
    looked_at: int,
    without_header: int,
) -> OnlyAccount:
    """Return the account of a list.

    Parameters
    ----------
    facts
        What is known of the list.
    found
        Values that were found.
    several_items, several_studies
        Values of these with more than one item or study.
    looked_at, without_header
        Entries of the source that were looked at, and how many of these have no header that can be read.
    """
    return {
        "by": facts["key"],
        "column": facts["column"],
        "listed": facts["values"],
        "repeated": facts["repeated"],
        "found": found,
        "not_found": facts["values"] - found,
        "more_than_once": several_items if facts["key"] in _OF_ONE_IMAGE else several_studies,
        "looked_at": looked_at,
        "without_header": without_header,
    }


def write_only_account(ledger: Ledger, wanted: OnlyList, to: Path) -> None:
    """Write what became of each value, as CSV with mode 0600: it may identify patients.

    Parameters
    ----------
    ledger
        The run's ledger.
    wanted
        The list.
    to
        The file; an earlier one is replaced.
    """
    one_image = wanted.key.value in _OF_ONE_IMAGE
    output = OutputFile(to, force=True, private=True)
    with output.open_text(lambda _: True) as file:
        writer = csv.writer(file)
        writer.writerow((wanted.key.value, "items", "account"))
        for value, items, studies in _counted(ledger, wanted):
            several = (items if one_image else studies) > 1
            word = "found more than once" if several else "found" if items else "not found"
            writer.writerow((cell(value), items, word))


def not_found(ledger: Ledger, wanted: OnlyList) -> Iterator[str]:
    """Yield the values that were not found."""
    return (value for value, items, _ in _counted(ledger, wanted) if not items)


def _counted(ledger: Ledger, wanted: OnlyList) -> Iterator[tuple[str, int, int]]:
    """Yield each value with the count of its items and of their studies."""
    query = "SELECT row, sum(items), count(*) FROM only_match GROUP BY row ORDER BY row"
    matches = ledger.select(_MatchRow, query)
    match = next(matches, None)
    with wanted.opened() as values:
        for row, value in enumerate(values.all(), 1):
            if match is None or match.row != row:
                yield value, 0, 0
                continue
            yield value, match.items, match.studies
            match = next(matches, None)
