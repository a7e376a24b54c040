"""What a run leaves for people: scores.csv, summary.json, and exports in other forms."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from backlog.broker.messages import model_of
from backlog.errors import BacklogError, UsageError
from backlog.model import LABELS, not_evaluated
from backlog.outcomes import Outcome
from backlog.output_file import OutputFile, begins_with
from producer.ledger.ledger import Ledger
from producer.ledger.schema import FOUND
from producer.results.labels import WANTED, count_labels
from producer.results.only_account import only_account

_IDS: Final = ("item", "sop_instance_uid", "study_instance_uid", "sr_sop_instance_uid", "flags")
COLUMNS: Final = (*_IDS, *LABELS)

#: In the flags of every row whose scores come from seeded weights.
MEANINGLESS: Final = "SEEDED_WEIGHTS_SCORES_MEAN_NOTHING"

#: A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection").
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

#: What Excel needs to take a file for UTF-8.
_BYTE_ORDER_MARK: Final = "\ufeff"

#: How each form of the scores begins.
_OWN_CSV: Final = begins_with(
    f"{','.join(_IDS)},".encode(),
    f"{_BYTE_ORDER_MARK}{';'.join(_IDS)};".encode(),
    f"{';'.join(_IDS)};".encode(),
)
_OWN_SUMMARY: Final = begins_with(b'{\n  "run": ')

#: Rows of one group of a Parquet file: bounds the memory.
_GROUP: Final = 20_000


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


def rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Stream one row for each reported item, in the source's order."""
    meaningful = bool(ledger.get("job")["meaningful"])
    for item in ledger.items(Outcome.REPORTED):
        flags = item.flags if meaningful else f"{MEANINGLESS} {item.flags}".strip()
        row: dict[str, Any] = {
            "item": item.no,
            "sop_instance_uid": item.sop_instance_uid,
            "study_instance_uid": item.study_instance_uid,
            "sr_sop_instance_uid": item.sr_sop_instance_uid,
            "flags": flags,
        }
        row.update(zip(LABELS, item.score_list, strict=True))
        yield row


#: Rows that are written between two looks whether to give up: some milliseconds.
_ROWS_A_LOOK: Final = 500


class GivenUp(BacklogError):
    """Writing was given up. The file is as it was before."""


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
            if number % _ROWS_A_LOOK == 0 and give_up():
                raise GivenUp(f"gave up after {number} rows")
            cells = [cell(row[column]) for column in COLUMNS]
            writer.writerow([_decimal_comma(one) for one in cells] if excel else cells)


def write_jsonl(ledger: Ledger, to: Path | OutputFile) -> None:
    """Write one JSON object a line."""
    with OutputFile.of(to).open_text(_is_own_jsonl) as file:
        for row in rows(ledger):
            file.write(json.dumps(row) + "\n")


def write_parquet(ledger: Ledger, to: Path | OutputFile) -> None:
    """Write a Parquet file, in row groups.

    Raises
    ------
    UsageError
        pyarrow is not installed.
    """
    pa, parquet = _import_parquet()
    text = [pa.field(name, pa.int64() if name == "item" else pa.string()) for name in _IDS]
    schema = pa.schema([*text, *(pa.field(label, pa.float32()) for label in LABELS)])
    with OutputFile.of(to).open(_is_own_parquet) as file, parquet.ParquetWriter(file, schema) as writer:
        group: list[dict[str, Any]] = []
        for row in rows(ledger):
            group.append(row)
            if len(group) == _GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
        writer.write_table(pa.Table.from_pylist(group, schema))


WRITERS: Final = {"csv": write_scores, "jsonl": write_jsonl, "parquet": write_parquet}

#: How each form knows an earlier file of its own.
OWN: Final = {"csv": _OWN_CSV, "jsonl": _is_own_jsonl, "parquet": _is_own_parquet}


def write_summary(ledger: Ledger, to: Path | OutputFile) -> dict[str, Any]:
    """Write summary.json and return what it says."""
    summary = summarise(ledger)
    with OutputFile.of(to).open_text(_OWN_SUMMARY) as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    return summary


def summarise(ledger: Ledger) -> dict[str, Any]:
    """Return the account of a run: total = reported + skipped + quarantined when it is complete."""
    job, tally = ledger.get("job"), ledger.tally()
    seconds = float(ledger.get("seconds", 0.0))
    total = int(ledger.get("listed", 0))
    summary = {
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
        "weights_sha256": job["weights"],
        "weights_meaningful": job["meaningful"],
        "engine": "+".join(ledger.get("engines", [])),
    }
    if account := only_account(ledger):
        summary["only"] = account
    if job.get("operating_points"):
        summary["operating_points"] = job["operating_points"]
    if ledger.get(WANTED):
        summary["study_labels"] = count_labels(ledger)
    if job.get("derived_objects"):
        summary["derived_objects"] = _derived_objects(ledger)
    return summary


def _found(ledger: Ledger) -> int:
    """Count the reports that an earlier run had stored already."""
    (row,) = ledger.select("SELECT count(*) AS count FROM effect WHERE kind = ?", FOUND)
    return int(row["count"])


def _derived_objects(ledger: Ledger) -> dict[str, dict[str, int]]:
    """Count what stands beside the reports, and why what is missing there could not be made."""
    counts: dict[str, dict[str, int]] = {}
    query = (
        "SELECT one.value ->> 'kind' AS kind, coalesce(one.value ->> 'reason', 'stored') AS how, count(*) AS n"
        " FROM item, json_each(item.derived_objects) AS one WHERE item.derived_objects <> ''"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    )
    for row in ledger.select(query):
        counts.setdefault(row["kind"], {})[row["how"]] = row["n"]
    return counts


def cell(value: object) -> object:
    """Return what stands for a value in a cell, so that no spreadsheet takes a text for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _decimal_comma(cell: object) -> object:
    return repr(cell).replace(".", ",") if isinstance(cell, float) else cell
