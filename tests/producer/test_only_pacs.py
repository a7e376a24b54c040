"""Only what a list names, from a DICOMweb server and from a hospital's PACS: asked for, and never listed whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog.dicom.eligibility import Rules
from backlog.errors import UsageError
from backlog.pacs.dicomweb import Dicomweb
from backlog.pacs.modality import Modality
from backlog.pacs.orthanc import Orthanc
from producer.ledger.ledger import Ledger
from producer.results.only_account import ONLY, OnlyAccount, only_account
from producer.sources import only_dicomweb, only_modality
from producer.sources.base import Source
from producer.sources.dicomweb import DicomwebSource
from producer.sources.modality import ModalitySource
from producer.sources.only_list import OnlyList, read_only_list
from producer.sources.open import only_source
from tests.support.dicomweb_servers import StrictServer, address, orthanc_dicomweb
from tests.support.hospital import ScriptedHospital
from tests.support.listed_images import image
from tests.support.servers import OrthancServer

REPORT = image(50, Modality="SR", Manufacturer="cxr-backlog", StudyInstanceUID="1.2.0", AccessionNumber="A0")

CASES: list[tuple[tuple[str, ...], list[int], int]] = [
    (("study_instance_uid", "1.2.0", "1.2.4", "1.2.77"), [0, 1, 8, 9], 1),
    (("accession_number", "A1", "a2", "A77"), [2, 3], 2),
    (("patient_id", "P2", "P7"), [8, 9, 10, 11], 1),
]
BELOW_STUDIES: list[tuple[tuple[str, ...], list[int], int]] = [
    (("sop_instance_uid", "1.2.0.9", "9.9", "1.2.11.9"), [0, 11], 1),
    (("series_instance_uid", "1.2.5.8", "1.2.6.8"), [5, 6], 0),
]


def listed(folder: Path, *rows: str) -> OnlyList:
    table = folder / "list.csv"
    table.write_text("\n".join(rows) + "\n")
    (folder / "only.sqlite").unlink(missing_ok=True)
    return OnlyList(folder / "only.sqlite", read_only_list(table, "", folder / "only.sqlite"))


def found(folder: Path, source: Source, *rows: str) -> tuple[list[str], OnlyAccount]:
    """List what a list names into a ledger, as a producer that is killed behind every page; return refs and counts."""
    wanted = listed(folder, *rows)
    chosen = only_source(source, wanted)
    (folder / "ledger.sqlite").unlink(missing_ok=True)
    ledger = Ledger.create(folder / "ledger.sqlite", {ONLY: wanted.facts})
    refs: list[str] = []
    while not ledger.get("all_listed"):
        page = next(chosen.pages(ledger.get("cursor", "")))
        ledger.add(page, 4)
        refs += [str(entry.ref) for entry in page.entries]
    account = only_account(ledger)
    ledger.close()
    assert account is not None
    return sorted(refs), account


def references(numbers: list[int], sign: str) -> list[str]:
    return sorted(sign.join((f"1.2.{n // 2}", f"1.2.{n}.8", f"1.2.{n}.9")) for n in numbers)


# -- DICOMweb ------------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictServer]:
    monkeypatch.setattr(only_dicomweb, "VALUES", 2)
    with StrictServer() as server:
        for content in [*map(image, range(12)), REPORT]:
            server.add(content)
        yield server


def dicomweb(server: StrictServer) -> DicomwebSource:
    return DicomwebSource(server.client(), Rules())


@pytest.mark.parametrize(("rows", "numbers", "missing"), [*CASES, *BELOW_STUDIES])
def test_a_dicomweb_server_is_asked_for_what_a_list_names(
    strict: StrictServer, tmp_path: Path, rows: tuple[str, ...], numbers: list[int], missing: int
) -> None:
    strict.relational, strict.page = True, 3
    refs, account = found(tmp_path, dicomweb(strict), *rows)
    assert refs == references(numbers, "/")
    assert (account["not_found"], account["more_than_once"]) == (missing, 0)
    whole = [
        one for one in strict.requests if "/studies?" in one and rows[0].partition("_")[0] not in one.lower()
    ]
    assert not whole, "it was listed as a whole"


@pytest.mark.parametrize(("rows", "numbers", "missing"), [CASES[1], BELOW_STUDIES[0]])
def test_a_real_dicomweb_server_is_asked_for_what_a_list_names(
    tmp_path: Path, rows: tuple[str, ...], numbers: list[int], missing: int
) -> None:
    with orthanc_dicomweb(tmp_path) as server:
        client = Orthanc(server.url, username=server.username, password=server.password)
        for number in range(12):
            client.store(image(number))
        client.close()
        pacs = Dicomweb(address(server), username=server.username, password=server.password)
        refs, account = found(tmp_path, DicomwebSource(pacs, Rules()), *rows)
        pacs.close()
    assert refs == references(numbers, "/")
    assert account["not_found"] == missing


@pytest.mark.parametrize("rows", [rows for rows, _, _ in BELOW_STUDIES])
def test_a_server_that_can_not_be_searched_below_studies_says_so(
    strict: StrictServer, tmp_path: Path, rows: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match=r"can't be searched by .* over all studies: give a list of"):
        found(tmp_path, dicomweb(strict), *rows)


def test_a_server_that_ignores_a_query_gives_no_wrong_matches(
    strict: StrictServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict.selects_by_identifiers = False
    rows, numbers, missing = CASES[1]
    refs, account = found(tmp_path, dicomweb(strict), *rows)
    assert (refs, account["not_found"]) == (references(numbers, "/"), missing)
    monkeypatch.setattr(only_dicomweb, "MOST", 4)
    with pytest.raises(UsageError, match="seems not to select by it"):
        found(tmp_path, dicomweb(strict), *rows)
    strict.answers_accession_number = False
    monkeypatch.undo()
    with pytest.raises(UsageError, match="does not say the AccessionNumber"):
        found(tmp_path, dicomweb(strict), *rows)


# -- a modality ----------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(hospital: ScriptedHospital, monkeypatch: pytest.MonkeyPatch) -> ScriptedHospital:
    monkeypatch.setattr(only_modality, "VALUES", 2)
    for number in range(12):
        hospital.hold(image(number))
    hospital.hold(image(60, Modality="CT", StudyInstanceUID="1.2.77", AccessionNumber="A77", PatientID="P7"))
    return hospital


def modality(orthanc: OrthancServer, limit: int = 100) -> ModalitySource:
    client = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    return ModalitySource(Modality(client, "hospital", seconds=5.0), Rules(), limit)


@pytest.mark.parametrize(("rows", "numbers", "missing"), CASES)
def test_a_hospital_is_asked_for_what_a_list_names(
    archive: ScriptedHospital,
    dicom_orthanc: OrthancServer,
    tmp_path: Path,
    rows: tuple[str, ...],
    numbers: list[int],
    missing: int,
) -> None:
    archive.twice = True
    refs, account = found(tmp_path, modality(dicom_orthanc), *rows)
    assert refs == references(numbers, "|")
    assert (account["not_found"], account["more_than_once"]) == (missing, 0)
    assert not archive.moves, "something was retrieved only to be looked at"


@pytest.mark.parametrize("rows", [rows for rows, _, _ in BELOW_STUDIES])
def test_a_hospital_can_not_be_asked_for_series_alone(
    archive: ScriptedHospital, dicom_orthanc: OrthancServer, tmp_path: Path, rows: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match=r"a modality can't be asked for a .* alone: give a list of"):
        found(tmp_path, modality(dicom_orthanc), *rows)


def test_an_answer_of_a_hospital_that_may_be_cut_off_is_refused(
    archive: ScriptedHospital, dicom_orthanc: OrthancServer, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="may be as many as it ever answers"):
        found(tmp_path, modality(dicom_orthanc, limit=2), "patient_id", "P0")
