"""Every image that made trouble somewhere, through the whole system into a real Orthanc, twice."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread

from producer.ledger.ledger import Ledger
from producer.ledger.rows import ItemRow
from producer.run.folder import Paths
from producer.sources.zip import ZipSource
from tests.conftest import Cli
from tests.support.cases import listed, needs_data
from tests.support.servers import OrthancServer
from tests.support.sr_reports import dciodvfy_errors

pytestmark = needs_data

#: What is not reported, and why. Everything else is.
EXPECTED = {
    "cases/constant_saturated.dcm": "blank",
    "cases/constant_zero.dcm": "blank",
    "cases/multiframe_2.dcm": "multiframe",
    "cases/tiny_1x1.dcm": "too_small",
    "cases/txrv_test_00000001_000.png": "image_file",
    "cases/view_LL_label_only.dcm": "lateral",
}

#: What we could read and an Orthanc does not take.
ORTHANC_REFUSES = {
    "hostile/pwn_cat03_missing_delim.dcm",
    "hostile/pwn_cat09_duplicate_tags.dcm",
    "hostile/pwn_cat11_encap_no_delim.dcm",
}

#: What dciodvfy adds when it has found any invalid value.
_SUM = "Error - Dicom dataset contains invalid data values for Value Representations"


def items(out: Path, archive: Path) -> dict[str, ItemRow]:
    """Return how each member of the zip ended, by its name."""
    source, ledger = ZipSource(archive), Ledger(Paths(out).ledger, write=False)
    found = {source.name(json.loads(item.ref)): item for item in ledger.items()}
    ledger.close()
    return found


@pytest.mark.timeout(600)
def test_every_case_ends_as_it_should(cli: Cli, tmp_path: Path, orthanc: OrthancServer) -> None:
    archive = tmp_path / "cases.zip"
    names = []
    with zipfile.ZipFile(archive, "w") as file:
        for folder in ("cases", "hostile"):
            for case in listed(folder):
                names.append(f"{folder}/{case.path.name}")
                file.writestr(names[-1], case.read())
    run = cli("run", archive, "--out", "first", "--pacs", orthanc.url, **orthanc.environment)
    assert run.returncode == 3, run.stderr
    ends = items(tmp_path / "first", archive)
    assert set(ends) == set(names), "every file has an outcome"
    cases = {name: item for name, item in ends.items() if name.startswith("cases/")}
    assert {name: item.reason for name, item in cases.items() if item.reason} == EXPECTED
    bugs = {
        "internal_error",
        "decoder_crashed",
        "decoder_timeout",
        "killed_worker",
        "invalid_report",
    }
    assert {name for name, item in ends.items() if item.reason == "refused"} <= ORTHANC_REFUSES
    assert {name: item.reason for name, item in ends.items() if item.reason in bugs} == {}

    reported = {name: item for name, item in ends.items() if item.outcome == "reported"}
    inputs = {item.instance for item in ends.values()}  # one of them is a report itself
    written = set(orthanc.reports()) - inputs
    assert written == {item.sr_instance for item in reported.values()}
    for name, item in reported.items():
        content = orthanc.get(f"/instances/{item.sr_instance}/file").content
        (tmp_path / "report.dcm").write_bytes(content)
        errors = dciodvfy_errors(tmp_path / "report.dcm")
        if "nonconformant_uid" in item.flags:  # the image's own UIDs, kept as they are so that it is found
            errors = [error for error in errors if "UID" not in error and error != _SUM]
        assert errors == [], name
        report = dcmread(io.BytesIO(content))
        assert report.SOPInstanceUID == item.sr_sop_instance_uid
        # The same study not only by its UID: Orthanc's own tree says so, which knows the patient too.
        studies = [
            orthanc.get(f"/instances/{one}/study").json()["ID"] for one in (item.instance, item.sr_instance)
        ]
        assert studies[0] == studies[1], name

    # Once more, into the same Orthanc: the same ends, and not one instance more.
    before = orthanc.get("/statistics").json()["CountInstances"]
    again = cli("run", archive, "--out", "second", "--pacs", orthanc.url, **orthanc.environment)
    assert again.returncode == 3, again.stderr
    second = items(tmp_path / "second", archive)
    assert orthanc.get("/statistics").json()["CountInstances"] == before
    assert Counter(item.reason for item in second.values()) == Counter(item.reason for item in ends.values())
    for name, item in reported.items():
        if second[name].outcome == "reported":
            assert second[name].sr_instance == item.sr_instance, name
            assert not second[name].sr_ours, name
    verify = cli("verify", "second", **orthanc.environment)
    assert verify.returncode == 0, verify.stdout
