"""Where work comes from: every item once, also when the source changes or the reading is broken off."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backlog.broker.job import SourceSpec
from backlog.broker.messages import FIRST_STAGES, Stage
from backlog.dicom.eligibility import Rules
from backlog.dicom.values import text
from backlog.errors import InstanceRejected, SourceUnavailable, UsageError
from backlog.inputs.zip_archive import ZipArchive
from backlog.outcomes import Reason
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.plan import make_plan
from producer.run.folder import Paths
from producer.sources import base as sources
from producer.sources import orthanc as source_orthanc
from producer.sources import series_listing
from producer.sources.base import Entry, ReplaySource, Source
from producer.sources.dicomweb import DicomwebSource
from producer.sources.folder import FolderSource
from producer.sources.modality import ModalitySource
from producer.sources.open import Selection, make_source
from producer.sources.orthanc import OrthancSource
from producer.sources.zip import ZipSource, check_same_source
from tests.support.dicom_images import chest, dicom
from tests.support.servers import ROOT, OrthancServer


def listed(source: Source, cursor: str = "") -> list[Entry]:
    pages = list(source.pages(cursor))
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    return [entry for page in pages for entry in page.entries]


def test_each_source_begins_at_the_stage_that_workers_expect() -> None:
    """A worker knows only the kind: a chunk that begins elsewhere would be dropped as one that was started again."""
    kinds: dict[str, type[Source]] = {
        "zip": ZipSource,
        "folder": FolderSource,
        "orthanc": OrthancSource,
        "dicomweb": DicomwebSource,
        "modality": ModalitySource,
    }
    assert {kind: source.first for kind, source in kinds.items()} == FIRST_STAGES


def names(source: Source, cursor: str = "") -> list[str]:
    return [source.name(entry.ref) for entry in listed(source, cursor)]


def every_cursor_goes_on(source: Source) -> None:
    """Break the reading off behind each page, as a killed producer does, and go on at its cursor."""
    whole = listed(source)
    read: list[Entry] = []
    for page in source.pages(""):
        read += page.entries
        if not page.last:
            assert read + listed(source, page.cursor) == whole
    assert read == whole


# -- zip -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PAGE", 3)
    monkeypatch.setattr(series_listing, "SERIES_PAGE", 3)
    monkeypatch.setattr(series_listing, "IDS_AT_ONCE", 3)


def test_members_of_a_zip_are_its_items(tmp_path: Path, small_pages: None) -> None:
    path = tmp_path / "backlog.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("folder")
        for name in (
            "folder/a",
            "folder/.DS_Store",
            "__MACOSX/folder/._a",
            "b",
            "DICOMDIR",
            "Thumbs.db",
            "._c",
            "d",
        ):
            archive.writestr(name, name)
    source = ZipSource(path)
    found = {source.name(entry.ref): entry.reason for entry in listed(source)}
    assert {name for name, reason in found.items() if reason is None} == {"folder/a", "b", "d"}
    assert {reason for reason in found.values() if reason} == {Reason.SYSTEM_FILE}
    assert len(found) == 8  # the folder itself is no item
    assert source.total == 9  # an upper bound until all is read
    assert [source.read(entry.ref) for entry in listed(source)][3] == b"b"
    every_cursor_goes_on(source)
    with ZipArchive(path) as opened:
        assert source.spec == {
            "kind": "zip",
            "path": str(path),
            "listing": "",
            "fingerprint": opened.fingerprint,
        }
    assert source.first is Stage.UPLOAD


def test_an_encrypted_member_ends_with_the_listing(tmp_path: Path) -> None:
    path = tmp_path / "backlog.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"x")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    (entry,) = listed(ZipSource(path))
    assert entry.reason is Reason.ENCRYPTED
    with pytest.raises(InstanceRejected):
        ZipSource(path).read(entry.ref)


def a_zip(path: Path, *names: str, content: bytes = b"x", when: int = 1_700_000_000) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), content)
    os.utime(path, (when, when))
    return path


def test_a_zip_that_was_replaced_is_refused(tmp_path: Path, small_pages: None) -> None:
    """Its places lead to other images, whose reports would be this run's."""
    path = a_zip(tmp_path / "z.zip", *"abcdefg")
    begun = ZipSource(path)
    cursor = next(begun.pages("")).cursor
    check_same_source(ZipSource(path), begun.spec)
    older: SourceSpec = {"kind": "zip", "path": str(path), "listing": ""}  # of a run before there were any
    check_same_source(ZipSource(path), older)
    for names_of, more in [
        ("abcdef", {}),
        ("abcdefg", {"content": b"y"}),  # the same layout, byte by byte
        ("abcdefg", {"when": 1_700_000_001}),
    ]:
        a_zip(path, *names_of, **more)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"z.zip: this zip is not the one"):
            check_same_source(ZipSource(path), begun.spec)
        with pytest.raises(UsageError, match=r"z.zip: this zip is not the one"):
            list(begun.pages(cursor))
    a_zip(path, *"abcdefg")
    check_same_source(ZipSource(path), begun.spec)
    assert len(listed(begun, cursor)) == 4


def test_a_directory_with_a_wrong_count_never_ends_as_read(tmp_path: Path, small_pages: None) -> None:
    path = a_zip(tmp_path / "z.zip", *"abcdefg")
    content = bytearray(path.read_bytes())
    content[-22 + 8 : -22 + 12] = bytes([9, 0, 9, 0])
    path.write_bytes(content)
    source = ZipSource(path)
    pages = source.pages("")
    cursor = [next(pages).cursor, next(pages).cursor][-1]
    for rest in (pages, source.pages(cursor)):
        with pytest.raises(UsageError, match="holds 7 entries, not 9"):
            next(rest)
    older = cursor.partition(":")[0]
    assert len(listed(source, older)) == 1


# -- folder --------------------------------------------------------------------------------------------------


def folder_source(tmp_path: Path) -> FolderSource:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    return FolderSource(root, out / "source.list")


def test_files_of_a_folder_are_its_items(tmp_path: Path, small_pages: None) -> None:
    source = folder_source(tmp_path)
    (source.path / "a" / "b").mkdir(parents=True)
    (source.path / "empty").mkdir()
    for name in ("1", "a/2", "a/3", "a/b/4", "a/b/.DS_Store", "a/b/5"):
        (source.path / name).write_text(name)
    found = {source.name(entry.ref): entry.reason for entry in listed(source)}
    assert {name for name, reason in found.items() if reason is None} == {"1", "a/2", "a/3", "a/b/4", "a/b/5"}
    assert found["a/b/.DS_Store"] is Reason.SYSTEM_FILE
    assert {source.read(entry.ref).decode() for entry in listed(source)} == set(found)
    every_cursor_goes_on(source)


def test_an_empty_folder_has_no_items(tmp_path: Path) -> None:
    assert listed(folder_source(tmp_path)) == []


def test_a_source_without_anything_is_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder_source(tmp_path)
    assert listed(source) == []
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.mkdir("folder")
    assert listed(ZipSource(tmp_path / "z.zip")) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"{source.path}: this folder holds no files",
        f"{tmp_path / 'z.zip'}: this zip holds no files",
    ]
    caplog.clear()
    (source.path / "a").write_text("x")
    source.listing.unlink()
    cursor = list(source.pages(""))[-1].cursor
    assert listed(source, cursor) == []  # resumed behind its end
    assert not caplog.records


def test_odd_names_are_found_again(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    odd = [
        b"line\nbreak",
        b"tab\tand \x1b[2J",
        b"no \xff utf-8 \xfe",
        "acentuação".encode(),
        b" ",
        b"-rf",
        b"x" * 255,
    ]
    for name in odd:
        (source.path / os.fsdecode(name)).write_bytes(name)
    found = [os.fsencode(name) for name in names(source)]
    assert sorted(found) == sorted(odd)
    assert [source.read(entry.ref) for entry in listed(source)] == found


def test_links_lead_to_files_but_not_into_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_source(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "image").write_text("x")
    (source.path / "file").symlink_to(outside / "image")
    (source.path / "folder").symlink_to(outside)
    (source.path / "circle").symlink_to(source.path)
    assert names(source) == ["file"]
    (warning,) = caplog.records
    assert "2 links to folders were not followed" in warning.getMessage()


def test_a_link_to_nowhere_is_an_item_that_will_be_unreadable(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    (source.path / "nowhere").symlink_to("gone")
    (source.path / "itself").symlink_to("itself")
    assert sorted(names(source)) == ["itself", "nowhere"]


def test_what_is_no_file_is_no_item(tmp_path: Path) -> None:
    """Reading a pipe would wait for ever."""
    source = folder_source(tmp_path)
    os.mkfifo(source.path / "pipe")
    (source.path / "to pipe").symlink_to("pipe")
    assert names(source) == []


def test_files_that_come_later_belong_to_a_later_run(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    (source.path / "a").write_text("x")
    assert names(source) == ["a"]
    (source.path / "b").write_text("x")
    (source.path / "a").unlink()
    assert names(source) == ["a"]
    again = FolderSource(source.path, source.listing)
    assert names(again) == ["a"]
    with pytest.raises(OSError, match="No such file"):
        again.read(listed(again)[0].ref)


def test_no_more_of_a_file_is_read_than_its_header_needs(tmp_path: Path) -> None:
    """A plan of a folder with a forgotten disk image took all memory."""
    source = folder_source(tmp_path)
    image = dicom(chest(1500, 1500))
    (source.path / "image").write_bytes(image)
    with (source.path / "sparse").open("wb") as file:
        file.truncate(40 << 30)
    (source.path / "text").write_bytes(b"no image" * 50_000)
    found = {source.name(entry.ref): entry.ref for entry in listed(source)}
    assert len(source.read(found["image"])) < len(image) / 4
    assert len(source.read(found["text"])) == 400_000
    with pytest.raises(InstanceRejected, match="too_large"):
        source.read(found["sparse"])
    made = make_plan(str(source.path), Settings(), "", Selection(), 0)
    assert made.quarantined() == {Reason.TOO_LARGE: 1, Reason.NOT_DICOM: 1}
    assert made.would_score == 1


def test_a_listing_that_was_broken_off_is_begun_again(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    (source.path / "a").write_text("x")
    source.listing.with_suffix(".part").write_bytes(b"half\0a na")
    assert names(source) == ["a"]


def test_the_runs_own_folder_is_no_part_of_the_source(tmp_path: Path) -> None:
    """`cxr-backlog run .` makes its folder there."""
    (tmp_path / "a").write_text("x")
    out = tmp_path / "cxr-run-1"
    (out / "pacs").mkdir(parents=True)
    (out / "pacs" / "report").write_text("x")
    (out / "ledger.sqlite").write_text("x")
    assert names(FolderSource(tmp_path, out / "source.list")) == ["a"]


def test_what_other_runs_wrote_is_no_part_of_the_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder_source(tmp_path)
    (source.path / "image").write_text("x")
    earlier = source.path / "below" / "cxr-run-1"
    (earlier / "pacs").mkdir(parents=True)
    (earlier / "pacs" / "image").write_text("x")
    (earlier / "ledger.sqlite").write_text("x")
    assert names(source) == ["image"]
    assert "1 folders of runs were left out" in caplog.text
    # A PACS that lies in a run's folder may be asked for by name.
    assert names(FolderSource(earlier / "pacs", tmp_path / "out" / "other.list")) == ["image"]


def test_a_runs_folder_is_no_source(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    for out in (source.path, source.path / "." / "..", tmp_path):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(out)
        with pytest.raises(UsageError, match="a run's folder"):
            FolderSource(out, tmp_path / "link" / "source.list")
    (source.path / "ledger.sqlite").write_text("x")
    with pytest.raises(UsageError, match="a run's folder"):
        FolderSource(source.path, source.listing)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_folder_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    (source.path / "locked").mkdir(mode=0o700)
    (source.path / "locked" / "image").write_text("x")
    for folder in (source.path, tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
    source.listing.parent.chmod(0o777)
    script = (
        "import os, sys; from pathlib import Path; from producer.sources.folder import FolderSource\n"
        "from backlog.errors import UsageError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "os.umask(0)\n"
        "try: list(FolderSource(Path(sys.argv[1]), Path(sys.argv[2])).pages(''))\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(source.path), str(source.listing)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    assert "1 folders can't be read (permission denied), and count as unreadable: locked" in done.stderr
    assert b"locked\0" in source.listing.read_bytes()


# -- Orthanc -------------------------------------------------------------------------------------------------


@pytest.fixture
def pacs(orthanc: OrthancServer) -> Iterator[Orthanc]:
    client = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    yield client
    client.close()


def image(number: int, series: int, **attributes: Any) -> bytes:
    return dicom(
        chest(32, 32),
        SOPInstanceUID=f"1.2.{series}.{number}",
        SeriesInstanceUID=f"1.9.{series}",
        **attributes,
    )


def stored(pacs: Orthanc, count: int, **attributes: Any) -> list[str]:
    """Store so many series of one image."""
    return [pacs.store(image(1, series, **attributes)).instance for series in range(1, count + 1)]


def refs(entries: list[Entry]) -> list[str]:
    return sorted(str(entry.ref) for entry in entries)


def test_instances_of_an_orthanc_are_its_items(pacs: Orthanc, small_pages: None) -> None:
    expected = [pacs.store(image(n, series)).instance for series in range(1, 8) for n in (1, 2)]
    source = OrthancSource(pacs, Rules())
    assert refs(listed(source)) == sorted(expected)
    assert source.first is Stage.INFER
    assert source.read(expected[0]).startswith(bytes(128) + b"DICM")
    assert source.name(expected[0]) == expected[0]
    every_cursor_goes_on(source)


def test_a_page_that_is_exactly_full_is_followed_by_an_empty_one(pacs: Orthanc, small_pages: None) -> None:
    expected = stored(pacs, 6)
    assert refs(listed(OrthancSource(pacs, Rules()))) == sorted(expected)


def test_an_empty_orthanc_has_no_items(pacs: Orthanc) -> None:
    assert listed(OrthancSource(pacs, Rules())) == []


@pytest.mark.parametrize("gone", [[0], [0, 1], [1, 2], [2], [0, 1, 2], [3], [5, 6]])
def test_a_deletion_meanwhile_hides_no_other_series(
    pacs: Orthanc, small_pages: None, gone: list[int]
) -> None:
    """Offsets move towards the beginning: a plain offset would jump over as many as were deleted."""
    stored(pacs, 8)
    source = OrthancSource(pacs, Rules())
    in_order = [str(entry.ref) for entry in listed(source)]
    pages = source.pages("")
    seen = [str(entry.ref) for entry in next(pages).entries]
    for index in gone:
        pacs.delete(in_order[index])
    seen += [str(entry.ref) for page in pages for entry in page.entries]
    left = {ref for index, ref in enumerate(in_order) if index not in gone}
    assert left <= set(seen)


def test_a_deletion_between_two_producers_hides_no_other_series(pacs: Orthanc, small_pages: None) -> None:
    stored(pacs, 8)
    source = OrthancSource(pacs, Rules())
    in_order = [str(entry.ref) for entry in listed(source)]
    cursor = next(source.pages("")).cursor
    for ref in in_order[:3]:
        pacs.delete(ref)
    assert set(in_order[3:]) <= set(refs(listed(source, cursor)))


def test_reports_that_come_in_meanwhile_hide_no_series(pacs: Orthanc, small_pages: None) -> None:
    expected = stored(pacs, 8)
    seen: list[str] = []
    for number, page in enumerate(OrthancSource(pacs, Rules()).pages("")):
        seen += [str(entry.ref) for entry in page.entries]
        pacs.store(image(1, 100 + number, Modality="SR", Manufacturer="cxr-backlog (x)"))
    assert sorted(seen) == sorted(expected)


def test_our_own_reports_are_no_items_and_others_are_skipped(pacs: Orthanc) -> None:
    expected = pacs.store(image(1, 1)).instance
    pacs.store(image(1, 2, Modality="SR", Manufacturer="cxr-backlog project"))
    other = pacs.store(image(1, 3, Modality="SR", Manufacturer="Somebody")).instance
    found = {str(entry.ref): entry.reason for entry in listed(OrthancSource(pacs, Rules()))}
    assert found == {expected: None, other: Reason.NOT_RADIOGRAPH} or found == {
        expected: None,
        other: Reason.NOT_IMAGE,
    }


def test_instances_of_a_series_are_judged_without_a_download(pacs: Orthanc) -> None:
    wanted = {
        "CT": Reason.NOT_RADIOGRAPH,  # a DX object that says so
        "MR": Reason.NOT_RADIOGRAPH,
        "DX": None,
        "CR": None,
        "OT": None,  # a capture: its own header decides
    }
    for series, modality in enumerate(wanted):
        pacs.store(image(1, series, Modality=modality, BodyPartExamined=None))
    knee = pacs.store(image(1, 77, Modality="DX", BodyPartExamined="KNEE")).instance
    found = {str(entry.ref): entry.reason for entry in listed(OrthancSource(pacs, Rules()))}
    assert found.pop(knee) in (Reason.NOT_CHEST, None)
    by_modality = {text(pacs.header(ref).header, "Modality"): reason for ref, reason in found.items()}
    assert by_modality == wanted


SR = "1.2.840.10008.5.1.4.1.1.88.22"
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ({"SOPClassUID": SR, "Modality": "SR", "BodyPartExamined": None}, Reason.NOT_IMAGE),
        ({"SOPClassUID": CT, "Modality": "CT"}, Reason.NOT_RADIOGRAPH),
        ({"BodyPartExamined": "ABDOMEN"}, Reason.NOT_CHEST),
        ({"SeriesDescription": "KNEE", "BodyPartExamined": None}, Reason.NOT_CHEST),
        ({"ViewPosition": "LL", "BodyPartExamined": "HAND"}, Reason.NOT_CHEST),
    ],
)
@pytest.mark.parametrize("few", [True, False])
def test_a_chest_behind_another_object_of_its_series_is_found(
    pacs: Orthanc, monkeypatch: pytest.MonkeyPatch, first: dict[str, Any], reason: Reason, few: bool
) -> None:
    """Orthanc's tags of a series are those of the instance that it got first."""
    other = pacs.store(image(1, 1, **first)).instance
    behind = pacs.store(image(2, 1)).instance
    if not few:
        monkeypatch.setattr(source_orthanc, "MAX_HEADERS", 1)
    found = {str(entry.ref): entry.reason for entry in listed(OrthancSource(pacs, Rules()))}
    assert found == {other: reason if few else None, behind: None}
    pacs.delete(other)  # the tags of the series stay those of the deleted one
    assert {entry.ref: entry.reason for entry in listed(OrthancSource(pacs, Rules()))} == {behind: None}


def test_a_large_series_is_skipped_by_what_its_headers_share(
    pacs: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_orthanc, "MAX_HEADERS", 1)
    for number in range(3):
        pacs.store(image(number + 1, 1, SOPClassUID=CT, Modality="CT", InstanceNumber=number))
    entries = listed(OrthancSource(pacs, Rules()))
    assert [entry.reason for entry in entries] == [Reason.NOT_RADIOGRAPH] * 3


def test_a_selection_is_taken(pacs: Orthanc, caplog: pytest.LogCaptureFixture) -> None:
    old = pacs.store(image(1, 1, Modality="CR", StudyDate="20200101", StudyInstanceUID="1.2.1")).instance
    new = pacs.store(image(1, 2, Modality="DX", StudyDate="20240615", StudyInstanceUID="1.2.2")).instance
    assert refs(listed(OrthancSource(pacs, Rules(), modality="CR"))) == [old]
    assert refs(listed(OrthancSource(pacs, Rules(), modality="CR\\DX"))) == sorted([old, new])
    assert refs(listed(OrthancSource(pacs, Rules(), study_date="20240101-20241231"))) == [new]
    assert not caplog.records
    assert refs(listed(OrthancSource(pacs, Rules(), study_date="20240101-", modality="CR"))) == []
    assert "nothing that was selected" in caplog.text


def test_only_what_changed_since_is_taken(pacs: Orthanc) -> None:
    instance = pacs.store(image(1, 1)).instance
    now = datetime.now(UTC)
    for hours, expected in ((-48, [instance]), (48, [])):
        since = f"{now + timedelta(hours=hours):%Y%m%dT%H%M%S}"
        assert refs(listed(OrthancSource(pacs, Rules(), since=since))) == expected


# -- what SOURCE means ---------------------------------------------------------------------------------------


def test_source_is_a_zip_a_folder_or_the_word(tmp_path: Path, pacs: Orthanc) -> None:
    paths = Paths(tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "z", "w"):
        pass
    assert isinstance(make_source(str(tmp_path / "z"), Settings(), "", paths.listing, Selection()), ZipSource)
    assert isinstance(make_source(str(tmp_path), Settings(), "", paths.listing, Selection()), FolderSource)
    chosen = make_source("orthanc", Settings(), pacs.url, paths.listing, Selection(modality="CR"))
    assert isinstance(chosen, OrthancSource)
    assert chosen.modality == "CR"


@pytest.mark.parametrize(
    ("word", "pacs_url", "selection", "words"),
    [
        ("nothing", "", Selection(), "no such file or folder"),
        ("orthanc", "", Selection(), "needs the address"),
        ("orthanc", "/folder", Selection(), "needs the address"),
        (".", "", Selection(since="20240101"), "taken whole"),
        (".", "http://x", Selection(modality="CR"), "taken whole"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, word: str, pacs_url: str, selection: Selection, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        make_source(word, Settings(), pacs_url, Paths(tmp_path).listing, selection)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EHOSTDOWN])
def test_a_share_that_is_unavailable_is_waited_for(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the kernel still knew that it is a folder, and "permission denied" ended what followed it."""
    rules = Rules.from_settings(Settings())
    share = tmp_path / "share"
    share.mkdir()
    scandir, access = os.scandir, os.access

    def away(path: Any) -> Any:
        if os.fspath(path) == str(share):
            raise OSError(number, os.strerror(number))
        return scandir(path)

    with monkeypatch.context() as unavailable:
        unavailable.setattr(os, "scandir", away)
        unavailable.setattr(os, "access", lambda path, mode: path != share and access(path, mode))
        for begun in (rules, None):
            with pytest.raises(SourceUnavailable, match="is its disk there"):
                make_source(str(share), Settings(), "", Paths(tmp_path).listing, Selection(), begun)
    share.rmdir()
    with pytest.raises(SourceUnavailable, match="is its disk there"):
        make_source(str(share), Settings(), "", Paths(tmp_path).listing, Selection(), rules)


def test_a_replay_takes_the_chosen_entries(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    for name in "abcd":
        (source.path / name).write_text(name)
    chosen = [entry.ref for entry in listed(source)][1:3]
    again = ReplaySource(source, chosen)
    assert [entry.ref for entry in listed(again)] == chosen
    assert [again.read(ref) for ref in chosen] == [source.read(ref) for ref in chosen]
    assert (again.total, again.first, again.spec) == (2, Stage.UPLOAD, source.spec)
    assert listed(again, "2") == []
