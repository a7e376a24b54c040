"""Entries of zips and folders, one level of nesting included."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog.broker.job import ConversionSpec
from backlog.errors import InstanceRejected, SourceUnavailable, UsageError
from backlog.inputs.conversion import NOTHING, Picture, opened, reason_of_other
from backlog.inputs.entries import FolderEntries, SourceFile, ZipEntries
from backlog.inputs.path_list import PathList, listing_record, new_list_id, parse_record
from backlog.outcomes import Reason
from producer.sources.base import Source
from producer.sources.folder import FolderSource
from producer.sources.zip import ZipSource


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


INNER = {"IM0": b"one", "sub/IM1": b"two", "Thumbs.db": b"x", "sub/": b""}
OUTER = {
    "studies/a.zip": zip_of(INNER),
    "b.ZIP": zip_of({"deep.zip": zip_of({"x": b"y"})}),
    "empty.zip": zip_of({}),
    "damaged.zip": b"PK\x03\x04" + bytes(40),
    "plain": b"three",
    "__MACOSX/a.zip": zip_of(INNER),
}
#: What is listed of it, however the outer one is held.
LISTED = {
    "studies/a.zip/IM0": b"one",
    "studies/a.zip/sub/IM1": b"two",
    "studies/a.zip/Thumbs.db": None,
    "b.ZIP/deep.zip": OUTER["b.ZIP"] and zip_of({"x": b"y"}),
    "empty.zip": OUTER["empty.zip"],
    "damaged.zip": OUTER["damaged.zip"],
    "plain": b"three",
    "__MACOSX/a.zip": None,
}


def contents(source: Source) -> dict[str, bytes | None]:
    entries = [entry for page in source.pages("") for entry in page.entries]
    return {
        source.name(entry.ref): None if entry.reason is Reason.SYSTEM_FILE else source.read(entry.ref)
        for entry in entries
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips_in_a_zip_are_read_one_level_deep(tmp_path: Path, method: int) -> None:
    (tmp_path / "z.zip").write_bytes(zip_of(OUTER, method))
    source = ZipSource(tmp_path / "z.zip")
    assert contents(source).keys() == LISTED.keys()
    assert {name: c for name, c in contents(source).items() if c and b"PK" not in c} == {
        name: c for name, c in LISTED.items() if c and b"PK" not in c
    }
    refs = [entry.ref for page in source.pages("") for entry in page.entries]
    assert len(set(refs)) == len(refs)
    with ZipEntries(tmp_path / "z.zip", source.spec["fingerprint"]) as entries:
        assert [entries.read(ref).name for ref in reversed(refs)] == list(reversed(LISTED))


def test_zips_in_a_folder_are_read_one_level_deep(tmp_path: Path) -> None:
    for name, content in OUTER.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "out").mkdir()
    source = FolderSource(tmp_path / "in", tmp_path / "out" / "source.list")
    assert contents(source).keys() == LISTED.keys()
    refs = [entry.ref for page in source.pages("") for entry in page.entries]
    with FolderEntries(source.path, source.paths) as entries:
        read = {entries.read(ref).name: entries.read(ref).content for ref in refs}
    assert read["studies/a.zip/sub/IM1"] == b"two"
    (tmp_path / "in" / "studies" / "another").write_bytes(
        b"x"
    )  # an empty folder could be one without its disk
    (tmp_path / "in" / "studies" / "a.zip").unlink()
    with FolderEntries(source.path, source.paths) as entries:
        gone = [ref for ref in refs if entries.name(ref) == "studies/a.zip/?"]
        assert len(gone) == 3
        with pytest.raises(InstanceRejected) as caught:
            entries.read(gone[0])
    assert caught.value.reason is Reason.UNREADABLE


def test_the_total_of_a_zip_of_zips_is_not_known_beforehand(tmp_path: Path) -> None:
    (tmp_path / "z.zip").write_bytes(zip_of(OUTER))
    assert ZipSource(tmp_path / "z.zip").total is None
    (tmp_path / "y.zip").write_bytes(zip_of({"a": b"x"}))
    assert ZipSource(tmp_path / "y.zip").total == 1


def test_a_zip_inside_that_is_a_bomb_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.sources.zip.MAX_BYTES", 1 << 20)
    monkeypatch.setattr("backlog.inputs.entries.MAX_BYTES", 1 << 20)
    inner = zip_of({"a": bytes(1 << 20)}, zipfile.ZIP_STORED)
    (tmp_path / "z.zip").write_bytes(zip_of({"bomb.zip": inner}))
    source = ZipSource(tmp_path / "z.zip")
    (entry,) = [entry for page in source.pages("") for entry in page.entries]
    with pytest.raises(InstanceRejected) as caught:
        source.read(entry.ref)
    assert caught.value.reason is Reason.TOO_LARGE


@given(
    st.integers(0, 2**40),
    st.binary(min_size=1, max_size=60).filter(lambda b: b"\0" not in b and b[:1] != b"/"),
)
def test_a_listing_record_comes_back(inner: int, path: bytes) -> None:
    assert parse_record(listing_record(path).rstrip(b"\0")) == (None, path)
    assert parse_record(listing_record(path, inner)[:-1]) == (inner, path)


@given(st.binary(max_size=400))
def test_a_zip_inside_may_hold_anything(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "z.zip"
        path.write_bytes(zip_of({"in.zip": b"PK\x05\x06" + content, "b": b"x"}))
        listed = contents_or_reasons(ZipSource(path))
    assert listed["b"] == 1


def contents_or_reasons(source: Source) -> Counter[str]:
    found: Counter[str] = Counter()
    for page in source.pages(""):
        for entry in page.entries:
            found[source.name(entry.ref)] += 1
            try:
                source.read(entry.ref)
            except InstanceRejected:
                continue
    return found


WRAP: ConversionSpec = {"make_uids": False, "wrap_images": True}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


def test_what_is_read_of_an_entry_is_told_by_its_content() -> None:
    plain = SourceFile("a.dcm", b"x")
    assert opened(plain, NOTHING) is plain
    assert opened(SourceFile("a.dcm.gz", gzip.compress(b"x")), NOTHING) == plain
    assert opened(SourceFile("a", PNG), WRAP) == Picture("a", PNG)
    assert opened(SourceFile("a.png.gz", gzip.compress(PNG)), WRAP) == Picture("a.png", PNG)
    with pytest.raises(InstanceRejected, match="--wrap-images") as caught:
        opened(SourceFile("a", PNG), NOTHING)
    assert caught.value.reason is Reason.IMAGE_FILE
    twice = SourceFile("a.gz", gzip.compress(gzip.compress(b"x")))
    assert opened(twice, NOTHING) is twice  # one level


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.zip", b"PK\x03\x04" + bytes(40), Reason.UNREADABLE),
        ("x.zip", zip_of({"a": b"b"}), Reason.ARCHIVE_FILE),
        ("README", b"text", Reason.DOCUMENT_FILE),
        ("x.dcm", b"text", Reason.NOT_DICOM),
    ],
)
def test_a_file_that_is_no_dicom_ends_as_what_it_is(name: str, content: bytes, reason: Reason) -> None:
    rejected = InstanceRejected(Reason.NOT_DICOM)
    assert reason_of_other(SourceFile(name, content), rejected).reason is reason
    other = InstanceRejected(Reason.TOO_LARGE)
    assert reason_of_other(SourceFile(name, content), other) is other


def test_a_zip_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        ZipEntries(tmp_path / "none.zip")


def test_a_list_of_files_is_read_where_a_path_begins(tmp_path: Path) -> None:
    own = PathList(tmp_path / "list", new_list_id())
    with pytest.raises(SourceUnavailable, match="list of files"):
        own.record(0)
    own.path.write_bytes(own.head + listing_record(b"a/b") + listing_record(b"c", 7) + b"cut o")
    assert [own.record(own.first + place) for place in (0, 4)] == [b"a/b", b"/7/c"]
    for place in (0, own.first - 1, own.first + 1, own.first + 9, own.first + 99):
        with pytest.raises(UsageError, match="no path begins at"):
            own.record(place)
    with pytest.raises(UsageError, match="another run's list of files"):
        PathList(own.path, new_list_id()).record(own.first)
