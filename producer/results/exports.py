"""What a run leaves for people: scores.csv, summary.json, and exports in other forms."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from backlog.errors import StorageFull, UsageError
from backlog.model import LABELS
from backlog.outcomes import Outcome
from producer.ledger.ledger import Ledger

_IDS: Final = ("item", "sop_instance_uid", "study_instance_uid", "sr_sop_instance_uid", "flags")
COLUMNS: Final = (*_IDS, *LABELS)

#: In the flags of every row whose scores come from seeded weights.
MEANINGLESS: Final = "SEEDED_WEIGHTS_SCORES_MEAN_NOTHING"

#: A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection").
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

#: Rows of one group of a Parquet file: bounds the memory.
_GROUP: Final = 20_000


def rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Stream one row for each reported item, in the source's order."""
    meaningful = bool(ledger.get("job")["meaningful"])
    for item in ledger.items(Outcome.REPORTED):
        flags = item["flags"] if meaningful else f"{MEANINGLESS} {item['flags']}".strip()
        row: dict[str, Any] = {
            "item": item["no"],
            "sop_instance_uid": item["sop_instance_uid"],
            "study_instance_uid": item["study_instance_uid"],
            "sr_sop_instance_uid": item["sr_sop_instance_uid"],
            "flags": flags,
        }
        row.update(zip(LABELS, json.loads(item["scores"]), strict=True))
        yield row


def write_scores(ledger: Ledger, path: Path) -> None:
    """Write scores.csv, whole or not at all."""
    with whole(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows(ledger):
            writer.writerow([_cell(row[column]) for column in COLUMNS])


def write_jsonl(ledger: Ledger, path: Path) -> None:
    """Write one JSON object a line."""
    with whole(path) as file:
        for row in rows(ledger):
            file.write(json.dumps(row) + "\n")


def write_parquet(ledger: Ledger, path: Path) -> None:
    """Write a Parquet file, in row groups."""
    try:
        import pyarrow as pa  # optional, 100 ms
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow: install cxr-backlog[parquet]") from error
    text = [pa.field(name, pa.int64() if name == "item" else pa.string()) for name in _IDS]
    schema = pa.schema([*text, *(pa.field(label, pa.float32()) for label in LABELS)])
    temporary = path.with_name(f".{path.name}.part")
    try:
        with parquet.ParquetWriter(temporary, schema) as writer:
            group: list[dict[str, Any]] = []
            for row in rows(ledger):
                group.append(row)
                if len(group) == _GROUP:
                    writer.write_table(pa.Table.from_pylist(group, schema))
                    group = []
            writer.write_table(pa.Table.from_pylist(group, schema))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageFull(
            f"{path}: can't be written ({error.strerror or error.__class__.__name__})"
        ) from error


WRITERS: Final = {"csv": write_scores, "jsonl": write_jsonl, "parquet": write_parquet}


def write_summary(ledger: Ledger, path: Path) -> dict[str, Any]:
    """Write summary.json and return what it says."""
    summary = summarise(ledger)
    with whole(path) as file:
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
        "skipped": tally.skipped,
        "quarantined": tally.quarantined,
        "seconds": round(seconds, 3),
        "images_per_second": round(tally.reported / seconds, 3) if seconds else 0.0,
        "model": ledger.get("model"),
        "weights_sha256": job["weights"],
        "weights_meaningful": job["meaningful"],
        "engine": "+".join(ledger.get("engines", [])),
    }
    if job.get("derived_objects"):
        summary["derived_objects"] = _derived_objects(ledger)
    return summary


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


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@contextmanager
def whole(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Write a file beside its place and move it there at the end: whole, or not at all.

    Raises
    ------
    StorageFull
        It can't be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageFull(f"{path}: can't be written ({error.strerror})") from error
