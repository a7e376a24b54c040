"""A report that is there already: its image is not scored again, unless that is asked for."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from backlog.outcomes import Outcome
from backlog.pacs.orthanc import Orthanc
from producer.run.open import open_ledger
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.servers import OrthancServer

COUNT = 3
#: What an altered report says of the first finding, in percent; the model didn't.
ALTERED = 12.34


def altered(report: bytes, score: float) -> bytes:
    """Return a report that says another score, so that it shows whose score counts."""
    found = dcmread(io.BytesIO(report))
    changed = 0
    for node in (one for group in found.ContentSequence for one in _below(group)):
        for measured in node.get("MeasuredValueSequence", []):
            if (
                abs(float(measured.NumericValue) - 100 * score) < 6e-3
            ):  # two decimals, and the whole number beside them
                measured.NumericValue = str(ALTERED)
                if "FloatingPointValue" in measured:
                    measured.FloatingPointValue = ALTERED
                changed += 1
    assert changed
    written = io.BytesIO()
    found.save_as(written)
    return written.getvalue()


def _below(node: Dataset) -> Iterator[Dataset]:
    yield node
    for one in node.get("ContentSequence", []):
        yield from _below(one)


@pytest.mark.long
def test_an_image_is_not_scored_again_whose_report_is_there(
    cli: Cli, tmp_path: Path, orthanc: OrthancServer
) -> None:
    settings = orthanc.environment | {"CXR_REGIONS": "activation"}
    client = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for n in range(COUNT):
            archive.writestr(f"m{n}", dicom(chest(64, 64 + n), SOPInstanceUID=f"1.2.{n + 1}"))

    def run(out: str, *more: str) -> dict[str, Any]:
        done = cli("run", "z.zip", "--out", out, "--workers", 1, "--pacs", orthanc.url, *more, **settings)
        assert done.returncode in (0, 3), done.stderr
        summary: dict[str, Any] = json.loads((tmp_path / out / "summary.json").read_text())
        return summary

    assert run("first")["reported"] == COUNT
    with closing(open_ledger(tmp_path / "first")) as ledger:
        rows = list(ledger.items(Outcome.REPORTED))
    tampered = altered(client.fetch(rows[0].sr_instance), rows[0].score_list[0] or 0)
    client.delete(rows[0].sr_instance)
    assert client.store(tampered).instance == rows[0].sr_instance

    again = run("again")
    assert (again["reported"], again["quarantined"]) == (COUNT, {})
    with closing(open_ledger(tmp_path / "again")) as ledger:
        found = {row.sop_instance_uid: row for row in ledger.items(Outcome.REPORTED)}
    assert not any(row.sr_ours for row in found.values())
    assert found[rows[0].sop_instance_uid].score_list[0] == pytest.approx(ALTERED / 100)
    for row in rows[1:]:
        assert found[row.sop_instance_uid].score_list == pytest.approx(row.score_list, abs=1e-4)
        assert found[row.sop_instance_uid].sr_sha256 == row.sr_sha256

    rescored = run("rescored", "--rescore")
    assert (rescored["reported"], rescored["quarantined"]) == (COUNT - 1, {"report_conflict": 1})
    client.close()
