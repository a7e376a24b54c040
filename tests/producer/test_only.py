"""Only what a list names, from a zip, a folder and an Orthanc, with an account that a kill doesn't double."""

from __future__ import annotations

import csv
import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backlog.dicom.eligibility import Rules
from backlog.errors import UsageError
from backlog.inputs.conversion import NOTHING
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.ledger.ledger import Ledger
from producer.plan import make_plan
from producer.results.only_account import ONLY, OnlyAccount, only_account, write_only_account
from producer.run.wanted import read_wanted
from producer.sources import base as sources
from producer.sources import only as source_only
from producer.sources import only_orthanc
from producer.sources.base import Source
from producer.sources.folder import FolderSource
from producer.sources.only_list import OnlyList, read_only_list
from producer.sources.open import Selection, only_source
from producer.sources.orthanc import OrthancSource
from producer.sources.zip import ZipSource
from tests.support.listed_images import image
from tests.support.servers import OrthancServer

FILES = {f"p{n // 4}/image{n}.dcm": image(n) for n in range(12)} | {
    "p9/image20.dcm.gz": gzip.compress(image(20)),
    "p9/again/image3.dcm": image(3, StudyInstanceUID="1.2.99"),  # a copy in another study
    "README.txt": b"no image",
}


@pytest.fixture(params=["zip", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ZipSource | FolderSource:
    (tmp_path / "out").mkdir()
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for number, (name, content) in enumerate(FILES.items()):
                archive.writestr(name, content, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
        return ZipSource(tmp_path / "a.zip")
    for name, content in FILES.items():
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(content)
    return FolderSource(tmp_path / "a", tmp_path / "out" / "source.list")


def listed(folder: Path, *rows: str) -> OnlyList:
    table = folder / "list.csv"
    table.write_text("\n".join(rows) + "\n")
    (folder / "only.sqlite").unlink(missing_ok=True)
    return OnlyList(folder / "only.sqlite", read_only_list(table, "", folder / "only.sqlite"))


def names(source: Source) -> list[str]:
    return sorted(source.name(entry.ref) for page in source.pages("") for entry in page.entries)


def account(folder: Path, source: Source, wanted: OnlyList, *, broken_off: bool = False) -> OnlyAccount:
    """List a source into a ledger, also with a producer killed behind every page."""
    path = folder / "ledger.sqlite"
    path.unlink(missing_ok=True)
    ledger = Ledger.create(path, {ONLY: wanted.facts})
    while not ledger.get("all_listed"):
        for page in source.pages(ledger.get("cursor", "")):
            ledger.add(page, 4)
            if broken_off:
                break
    found = only_account(ledger)
    assert found is not None
    write_only_account(ledger, wanted, folder / "account.csv")
    ledger.close()
    return found


@pytest.mark.parametrize(
    ("rows", "wanted", "more"),
    [
        (("sop_instance_uid", "1.2.0.9", "1.2.20.9", "9.9"), ["p0/image0.dcm", "p9/image20.dcm.gz"], 0),
        (("sop_instance_uid", "1.2.3.9"), ["p0/image3.dcm", "p9/again/image3.dcm"], 1),
        (("series_instance_uid", "1.2.5.8"), ["p1/image5.dcm"], 0),
        (("study_instance_uid", "1.2.2"), ["p1/image4.dcm", "p1/image5.dcm"], 0),
        (("accession_number", "A1"), ["p0/image2.dcm", "p0/image3.dcm", "p9/again/image3.dcm"], 1),
        (("patient_id", "P2", "P7"), [f"p2/image{n}.dcm" for n in (10, 11, 8, 9)], 0),
        (("file_name", "image7.png", "p0/image1.dcm", "p5/image1"), ["p0/image1.dcm", "p1/image7.dcm"], 0),
        (("file_name", "image3.dcm"), ["p0/image3.dcm", "p9/again/image3.dcm"], 1),
    ],
)
def test_only_what_a_list_names_is_listed(
    source: ZipSource | FolderSource, tmp_path: Path, rows: tuple[str, ...], wanted: list[str], more: int
) -> None:
    only = listed(tmp_path, *rows)
    chosen = only_source(source, only)
    assert names(chosen) == wanted
    found = account(tmp_path, chosen, only)
    assert found["more_than_once"] == more
    assert (found["by"], found["looked_at"]) == (rows[0], len(FILES))
    assert found["without_header"] == (0 if rows[0] == "file_name" else 1)
    with (tmp_path / "account.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row[rows[0]] for row in written] == list(rows[1:])
    assert sum(row["account"] == "not found" for row in written) == found["not_found"]
    assert sum(row["account"] == "found more than once" for row in written) == more
    assert sum(int(row["items"]) for row in written) == len(wanted)
    assert (tmp_path / "account.csv").stat().st_mode & 0o777 == 0o600


def test_a_killed_producer_counts_nothing_twice(
    source: ZipSource | FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PAGE", 2)
    monkeypatch.setattr(source_only, "STEP", 2)
    monkeypatch.setattr(source_only, "SECONDS", 0.0)
    for rows in (("patient_id", "P0", "P1", "P9"), ("file_name", "image0.dcm", "p1/image4", "none")):
        only = listed(tmp_path, *rows)
        chosen = only_source(source, only)
        assert account(tmp_path, chosen, only, broken_off=True) == account(tmp_path, chosen, only)


def test_a_plan_tells_what_a_list_would_find(tmp_path: Path, source: ZipSource | FolderSource) -> None:
    table = tmp_path / "wanted.csv"
    table.write_text("accession_number;comment\nA0;x\nA1;\nA7;\nA0;\n")
    made = make_plan(str(source.path), Settings(), str(tmp_path / "pacs"), Selection(), 0, NOTHING, table, "")
    assert (made.total, made.would_score, made.not_found) == (5, 5, ["A7"])
    assert made.only is not None
    assert (made.only["listed"], made.only["found"], made.only["repeated"]) == (3, 2, 1)
    assert not (tmp_path / "pacs").exists()


@pytest.mark.parametrize(
    ("selection", "conversion", "rows", "words"),
    [
        (Selection(modality="CR"), NOTHING, "patient_id\nP1\n", "doesn't go together with --since"),
        (Selection(), {**NOTHING, "make_uids": True}, "patient_id\nP1\n", "give a list of file names"),
        (Selection(), {**NOTHING, "wrap_images": True}, "study_uid\n1.2\n", "give a list of file names"),
    ],
)
def test_a_list_that_does_not_go_together_is_refused(
    tmp_path: Path, selection: Selection, conversion: Any, rows: str, words: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", image(0))
    (tmp_path / "list.csv").write_text(rows)
    with pytest.raises(UsageError, match=words):
        read_wanted(tmp_path / "list.csv", "", tmp_path, ZipSource(tmp_path / "a.zip"), selection, conversion)


# -- Orthanc -------------------------------------------------------------------------------------------------


@pytest.fixture
def pacs(orthanc: OrthancServer) -> Iterator[Orthanc]:
    client = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    yield client
    client.close()


def filled(pacs: Orthanc) -> dict[str, int]:
    """Store twelve images and a report of ours; return the images' numbers by Orthanc's ids."""
    stored = {pacs.store(image(n)).instance: n for n in range(12)}
    pacs.store(
        image(
            50, Modality="SR", Manufacturer="cxr-backlog", StudyInstanceUID="1.2.0", SeriesInstanceUID="1.7"
        )
    )
    return stored


CASES = [
    (("sop_instance_uid", "1.2.0.9", "9.9", "1.2.11.9"), [0, 11]),
    (("series_instance_uid", "1.2.5.8"), [5]),
    (("study_instance_uid", "1.2.0", "1.2.4"), [0, 1, 8, 9]),
    (("accession_number", "A1", "a2", "A77"), [2, 3]),  # Orthanc itself tells no case
    (("patient_id", "P2", "P7"), [8, 9, 10, 11]),
]


def found_in(pacs: Orthanc, stored: dict[str, int], folder: Path, rows: tuple[str, ...]) -> list[int]:
    only = listed(folder, *rows)
    chosen = only_source(OrthancSource(pacs, Rules()), only)
    counts = account(folder, chosen, only)
    assert counts == account(folder, chosen, only, broken_off=True)
    entries = [entry for page in chosen.pages("") for entry in page.entries]
    assert counts["not_found"] == sum(1 for row in rows[1:] if row in ("9.9", "A77", "P7", "a2"))
    return sorted(stored[str(entry.ref)] for entry in entries)


@pytest.mark.parametrize(("rows", "numbers"), CASES)
def test_an_orthanc_is_asked_for_what_a_list_names(
    pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: tuple[str, ...], numbers: list[int]
) -> None:
    stored = filled(pacs)
    monkeypatch.setattr(only_orthanc, "VALUES", 2)
    monkeypatch.setattr(pacs, "series", None)  # it is never listed as a whole
    assert found_in(pacs, stored, tmp_path, rows) == numbers


@pytest.mark.parametrize("limit", [1, 3])
def test_an_orthanc_that_limits_its_answers_loses_nothing(tmp_path: Path, limit: int) -> None:
    server = OrthancServer(
        tmp_path / "orthanc", options={"LimitFindResults": limit, "LimitFindInstances": limit}
    )
    server.start()
    try:
        client = Orthanc(server.url, username=server.username, password=server.password)
        stored = filled(client)
        rows = ("study_instance_uid", *(f"1.2.{n}" for n in range(6)))
        assert found_in(client, stored, tmp_path, rows) == list(range(12))
        rows = ("sop_instance_uid", *(f"1.2.{n}.9" for n in range(12)))
        assert found_in(client, stored, tmp_path, rows) == list(range(12))
        rows = ("accession_number", *(f"A{n}" for n in range(6)))
        if limit == 1:
            with pytest.raises(UsageError, match="raise LimitFindResults"):
                found_in(client, stored, tmp_path, rows)
        else:
            assert found_in(client, stored, tmp_path, rows) == list(range(12))
        client.close()
    finally:
        server.stop()


def test_an_orthanc_has_no_file_names(pacs: Orthanc, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a PACS has no file names"):
        only_source(OrthancSource(pacs, Rules()), listed(tmp_path, "file_name", "a.dcm"))


def test_an_accession_number_in_two_studies_is_told(pacs: Orthanc, tmp_path: Path) -> None:
    pacs.store(image(0))
    pacs.store(image(30, AccessionNumber="A0"))
    only = listed(tmp_path, "accession_number", "A0")
    assert account(tmp_path, only_source(OrthancSource(pacs, Rules()), only), only)["more_than_once"] == 1
