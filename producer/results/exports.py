"""What a run leaves for people: scores.csv, summary.json, and exports in other forms."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NotRequired, TypedDict

from backlog.broker.job import Job, OperatingPointsSpec, model_of, preprocessing_of
from backlog.errors import UsageError
from backlog.model import LABELS, not_evaluated
from backlog.outcomes import Outcome
from backlog.output_file import OutputFile, begins_with
from producer.ledger.ledger import Ledger
from producer.ledger.rows import ItemRow
from producer.ledger.run_database import GivenUp
from producer.ledger.schema import FOUND
from producer.results.derived_counts import count_derived_objects
from producer.results.followed_day import FollowedDay, followed_day
from producer.results.labels import WANTED, count_labels
from producer.results.only_account import OnlyAccount, only_account
from producer.spreadsheet import cell

ID_COLUMNS: Final = ("item", "sop_instance_uid", "study_instance_uid", "sr_sop_instance_uid", "flags")
COLUMNS: Final = (*ID_COLUMNS, *LABELS)

#: In the flags of every row whose scores come from seeded weights.
MEANINGLESS: Final = "SEEDED_WEIGHTS_SCORES_MEAN_NOTHING"

#: What Excel needs to take a file for UTF-8.
_BYTE_ORDER_MARK: Final = "\ufeff"

#: How each form of the scores begins.
_OWN_CSV: Final = begins_with(
    f"{','.join(ID_COLUMNS)},".encode(),
    f"{_BYTE_ORDER_MARK}{';'.join(ID_COLUMNS)};".encode(),
    f"{';'.join(ID_COLUMNS)};".encode(),
)
_OWN_SUMMARY: Final = begins_with(b'{\n  "run": ')

#: Rows of one group of a Parquet file: bounds the memory.
GROUP: Final = 20_000


def _is_own_jsonl(file: IO[bytes]) -> bool:
    try:
        row = json.loads(file.readline(1 << 16))
    except ValueError:
        return False
    return isinstance(row, dict) and tuple(row) == COLUMNS


def _import_parquet() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module: optional, 170 MB, 100 ms.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed here and in no container image: "
            "pip install 'cxr-backlog[parquet]' where the run's folder can be read, and export there"
        ) from error
    return pa, parquet


def _is_own_parquet(file: IO[bytes]) -> bool:
    pa, parquet = _import_parquet()
    try:
        return tuple(parquet.read_schema(file).names) == COLUMNS
    except (pa.ArrowException, OSError):
        return False


@dataclass(frozen=True)
class ScoreRow:
    """A reported item, as the exports have it."""

    item: ItemRow
    meaningful: bool  #: False of seeded weights

    @property
    def ids(self) -> tuple[int | str, ...]:
        """The columns that say which image it is, and what is unusual about it."""
        one = self.item
        flags = one.flags if self.meaningful else f"{MEANINGLESS} {one.flags}".strip()
        return one.no, one.sop_instance_uid, one.study_instance_uid, one.sr_sop_instance_uid, flags

    def by_column(self) -> dict[str, int | str | float | None]:
        """Return all values, by :data:`COLUMNS`."""
        return dict(zip(COLUMNS, (*self.ids, *self.item.score_list), strict=True))


def rows(ledger: Ledger) -> Iterator[ScoreRow]:
    """Stream one row for each reported item, in the source's order."""
    meaningful = bool(ledger.get("job")["meaningful"])
    for item in ledger.items(Outcome.REPORTED):
        yield ScoreRow(item, meaningful)


#: Rows that are written between two looks whether to give up: some milliseconds.
ROWS_A_LOOK: Final = 500


def write_scores(
    ledger: Ledger,
    to: Path | OutputFile,
    *,
    excel: bool = False,
    give_up: Callable[[], bool] = lambda: False,
) -> None:
    """Write the scores as CSV.

    Parameters
    ----------
    ledger
        The run's ledger.
    to
        The CSV file.
    excel
        As Excel opens it right where numbers have a decimal comma (Brazil, most of Europe): semicolons between the
        cells, and a byte order mark.
    give_up
        Asked now and then whether to leave it.

    Raises
    ------
    GivenUp
        ``give_up`` said so. A file that was there is as it was.
    """
    with OutputFile.of(to).open_text(_OWN_CSV) as file:
        if excel:
            file.write(_BYTE_ORDER_MARK)
        writer = csv.writer(file, delimiter=";" if excel else ",")
        writer.writerow(COLUMNS)
        for number, row in enumerate(rows(ledger)):
            if number % ROWS_A_LOOK == 0 and give_up():
                raise GivenUp(f"gave up after {number} rows")
            cells = [cell(value) for value in row.by_column().values()]
            writer.writerow([_decimal_comma(one) for one in cells] if excel else cells)


def write_jsonl(ledger: Ledger, to: Path | OutputFile) -> None:
    """Write one JSON object a line."""
    with OutputFile.of(to).open_text(_is_own_jsonl) as file:
        for row in rows(ledger):
            file.write(json.dumps(row.by_column()) + "\n")


def write_parquet(ledger: Ledger, to: Path | OutputFile) -> None:
    """Write a Parquet file, in row groups.

    Raises
    ------
    UsageError
        pyarrow is not installed.
    """
    pa, parquet = _import_parquet()
    text = [pa.field(name, pa.int64() if name == "item" else pa.string()) for name in ID_COLUMNS]
    schema = pa.schema([*text, *(pa.field(label, pa.float32()) for label in LABELS)])
    with OutputFile.of(to).open(_is_own_parquet) as file, parquet.ParquetWriter(file, schema) as writer:
        group: list[dict[str, int | str | float | None]] = []
        for row in rows(ledger):
            group.append(row.by_column())
            if len(group) == GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
        writer.write_table(pa.Table.from_pylist(group, schema))


WRITERS: Final = {"csv": write_scores, "jsonl": write_jsonl, "parquet": write_parquet}

#: How each form knows an earlier file of its own.
OWN: Final = {"csv": _OWN_CSV, "jsonl": _is_own_jsonl, "parquet": _is_own_parquet}


class Summary(TypedDict):
    """The account of a run, as summary.json and `status` give it."""

    run: str
    complete: bool
    total: int
    reported: int
    reported_before: int  #: by an earlier run
    skipped: dict[str, int]  #: by reason
    quarantined: dict[str, int]  #: by reason
    seconds: float
    images_per_second: float
    model: str
    labels_not_evaluated: list[str]
    preprocessing: str
    weights_sha256: str
    weights_meaningful: bool
    engine: str
    follows: NotRequired[FollowedDay]
    only: NotRequired[OnlyAccount]
    operating_points: NotRequired[OperatingPointsSpec]
    study_labels: NotRequired[dict[str, int]]
    derived_objects: NotRequired[dict[str, dict[str, int]]]
    # What `status` says besides, of a run at this moment:
    state: NotRequired[str]
    all_listed: NotRequired[bool]  #: else ``total`` is what was listed so far
    between: NotRequired[str]  #: the hours at which it sends work
    waiting_reason: NotRequired[str]
    seconds_left: NotRequired[int]


def write_summary(
    ledger: Ledger, to: Path | OutputFile, *, give_up: Callable[[], bool] = lambda: False
) -> Summary:
    """Write summary.json and return what it says.

    Parameters
    ----------
    ledger
        The run's ledger.
    to
        The file.
    give_up
        Asked now and then whether to leave out what takes a look at every item: the derived objects.
    """
    summary = summarise(ledger, give_up=give_up)
    with OutputFile.of(to).open_text(_OWN_SUMMARY) as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    return summary


def summarise(ledger: Ledger, *, give_up: Callable[[], bool] = lambda: False) -> Summary:
    """Return the account of a run: total = reported + skipped + quarantined when it is complete.

    Parameters
    ----------
    ledger
        The run's ledger.
    give_up
        Asked now and then whether to leave out what takes a look at every item: the derived objects.
    """
    job: Job = ledger.get("job")
    tally = ledger.tally()
    seconds = float(ledger.get("seconds", 0.0))
    total = int(ledger.get("listed", 0))
    summary: Summary = {
        "run": job["run"],
        "complete": bool(ledger.get("all_listed", False)) and tally.ended == total,
        "total": total,
        "reported": tally.reported,
        "reported_before": _found(ledger),
        "skipped": tally.skipped,
        "quarantined": tally.quarantined,
        "seconds": round(seconds, 3),
        "images_per_second": round(tally.reported / seconds, 3) if seconds else 0.0,
        "model": ledger.get("model"),
        "labels_not_evaluated": not_evaluated(model_of(job)),
        "preprocessing": preprocessing_of(job),
        "weights_sha256": job["weights"],
        "weights_meaningful": job["meaningful"],
        "engine": "+".join(ledger.get("engines", [])),
    }
    if follows := followed_day(ledger):
        summary["follows"] = follows
    if account := only_account(ledger):
        summary["only"] = account
    if "operating_points" in job:
        summary["operating_points"] = job["operating_points"]
    if ledger.get(WANTED):
        summary["study_labels"] = count_labels(ledger)
    if job.get("derived_objects"):
        with suppress(GivenUp), ledger.giving_up(give_up):
            summary["derived_objects"] = count_derived_objects(ledger)
    return summary


def _found(ledger: Ledger) -> int:
    """Count the reports that an earlier run had stored already."""
    return next(ledger.select(int, "SELECT count(*) FROM effect WHERE kind = ?", FOUND))


def _decimal_comma(cell: object) -> object:
    return repr(cell).replace(".", ",") if isinstance(cell, float) else cell
