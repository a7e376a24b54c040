"""Zips as people have them: large, damaged, locked, lying, hostile. ``zipfile`` is the oracle."""

from __future__ import annotations

import errno
import io
import os
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from backlog.errors import InstanceRejected, SourceUnavailable, UsageError
from backlog.inputs.zip_archive import ZipArchive
from backlog.inputs.zip_directory import Member
from backlog.outcomes import Reason

LIMIT = 1 << 20


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def contents(path: Path, limit: int = LIMIT) -> dict[str, bytes]:
    """Read a zip as the upload task does: by place, each member on its own."""
    with ZipArchive(path) as archive:
        return {
            member.name: archive.read(archive.member(member.place), limit=limit)
            for member in archive.members()
            if not member.is_folder
        }


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "backlog.zip"
    path.write_bytes(content)
    return path


def rejected(path: Path, name: str = "a", limit: int = LIMIT) -> Reason:
    """Return why one member can't be read."""
    with ZipArchive(path) as archive:
        member = next(one for one in archive.members() if one.name == name)
        with pytest.raises(InstanceRejected) as error:
            archive.read(member, limit=limit)
    return error.value.reason


def entry_changed(content: bytes, offset: int, form: str, value: int) -> bytes:
    """Return a zip with one field of its first directory entry overwritten."""
    at = content.index(b"PK\x01\x02") + offset
    changed = bytearray(content)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_come_back_as_they_went_in(tmp_path: Path, method: int) -> None:
    members = {"a": b"", "b/c": bytes(range(256)) * 300, "d": b"x"}
    assert contents(saved(tmp_path, zipped(members, method))) == members


def test_an_empty_zip_has_no_members(tmp_path: Path) -> None:
    path = saved(tmp_path, zipped({}))
    assert contents(path) == {}
    with ZipArchive(path) as archive:
        assert (archive.count, archive.first_place) == (0, archive.end_place)


def test_zip64_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "backlog.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"content")
    assert contents(path) == {"a": b"content"}


def test_more_than_65535_entries_are_all_listed_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "backlog.zip"
    count = 200_000
    _write_many(path, count)
    with ZipArchive(path) as archive:
        assert archive.count == count
        process = psutil.Process()
        before = process.memory_info().rss
        seen = most = 0
        for member in archive.members():  # noqa: B007  # the last one is looked at below
            seen += 1
            if seen % 20_000 == 0:
                most = max(most, process.memory_info().rss - before)
        assert archive.read(archive.member(member.place), limit=9) == b"199999"
    assert seen == count
    assert most < 30 << 20  # kept members would take over 80 MB


def _write_many(path: Path, count: int) -> None:
    """Write a zip64 with very many stored members; ``zipfile`` would take half a minute."""
    directory = bytearray()
    with path.open("wb") as file:
        at = 0
        for i in range(count):
            name, content = f"m{i}".encode(), str(i).encode()
            fields = (zlib.crc32(content), len(content), len(content), len(name), 0)
            local = struct.pack("<4s5HL2L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, *fields) + name + content
            directory += struct.pack("<4s6H3L2H", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, *fields)
            directory += struct.pack("<3H2L", 0, 0, 0, 0, at) + name
            file.write(local)
            at += len(local)
        file.write(directory)
        size = len(directory)
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, at))
        file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, at + size, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def test_a_member_written_to_a_pipe_is_read_by_the_directory(tmp_path: Path) -> None:
    """Bit 3: sizes and CRC follow the data, the local header holds zeros."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.content = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]  # bytes are enough here
            self.content += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"content" * 99)
    content = bytes(pipe.content)
    assert content[14:26] == bytes(12)
    assert contents(saved(tmp_path, content)) == {"a": b"content" * 99}


@pytest.mark.parametrize("zip64", [False, True])
def test_a_self_extracting_archive_is_read_behind_its_program(tmp_path: Path, zip64: bool) -> None:
    path = tmp_path / "backlog.zip"
    if zip64:
        _write_many(path, 70_000)
        content, expected = path.read_bytes(), b"0"
    else:
        content, expected = zipped({"m0": b"content"}), b"content"
    path.write_bytes(b"MZ\x90 program PK\x05\x06" + bytes(4000) + content)
    with ZipArchive(path) as archive:
        member = next(iter(archive.members()))
        assert archive.read(archive.member(member.place), limit=LIMIT) == expected


def test_a_comment_may_hold_what_looks_like_the_end(tmp_path: Path) -> None:
    members = {"a": b"one", "b": b"two"}
    for comment in (b"PK\x05\x06", b"see PK\x05\x06" + bytes(18), b"PK\x05\x06" * 2000, b"x" * 65535):
        assert contents(saved(tmp_path, zipped(members, comment=comment))) == members, comment[:9]


def test_bytes_behind_the_end_do_no_harm(tmp_path: Path) -> None:
    assert contents(saved(tmp_path, zipped({"a": b"one"}) + bytes(512))) == {"a": b"one"}


def test_duplicate_names_are_two_members(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a", b"one")
        archive.writestr("a", b"two")
    with ZipArchive(saved(tmp_path, buffer.getvalue())) as opened:
        assert [opened.read(member, limit=9) for member in opened.members()] == [b"one", b"two"]


def test_names_are_never_used_as_paths_and_may_be_anything(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "/absolute", "C:\\x", "line\nbreak\x1b[2J\x07", "ä€😀", "n" * 65535, "."]
    path = saved(tmp_path, zipped({name: name[:3].encode() for name in names}))
    with ZipArchive(path) as archive:
        assert [member.name for member in archive.members()] == names
        assert [archive.read(m, limit=99) for m in archive.members()] == [n[:3].encode() for n in names]
    assert [one.name for one in tmp_path.iterdir()] == ["backlog.zip"]


@pytest.mark.parametrize(
    ("raw", "name"), [("é/1".encode(), "é/1"), (b"\x82/1", "é/1"), (b"Jos\xe9", "JosΘ"), (b"plain", "plain")]
)
def test_names_are_utf8_also_without_the_flag(tmp_path: Path, raw: bytes, name: str) -> None:
    content = zipped({"x" * len(raw): b"x"}).replace(b"x" * len(raw), raw)
    with ZipArchive(saved(tmp_path, content)) as archive:
        assert [member.name for member in archive.members()] == [name]


def test_a_name_that_is_no_utf8_stays_another_than_the_next(tmp_path: Path) -> None:
    content = zipped({"ab": b"x"}).replace(b"ab", b"\xff\xfe")
    with ZipArchive(saved(tmp_path, entry_changed(content, 8, "<H", 0x800))) as archive:
        (member,) = archive.members()
        assert member.name == "\udcff\udcfe"
        assert archive.read(member, limit=9) == b"x"


def test_a_folder_is_none_of_the_items_but_content_is_never_lost(tmp_path: Path) -> None:
    path = saved(tmp_path, zipped({"folder/": b"", "odd/": b"content"}))
    with ZipArchive(path) as archive:
        assert [member.is_folder for member in archive.members()] == [True, False]


def test_members_are_listed_on_from_any_place(tmp_path: Path) -> None:
    path = saved(tmp_path, zipped({f"m{i}": b"x" for i in range(20)}))
    with ZipArchive(path) as archive:
        every = list(archive.members())
        for i, member in enumerate(every):
            assert list(archive.members(member.place)) == every[i:]
        assert list(archive.members(archive.end_place)) == []


# -- what can't be read costs one member ---------------------------------------------------------------------


def test_an_encrypted_member_is_told_apart(tmp_path: Path) -> None:
    for bits in (0x1, 0x41, 0x2001):
        path = saved(tmp_path, entry_changed(zipped({"a": b"x"}), 8, "<H", bits))
        assert rejected(path) is Reason.ENCRYPTED


def test_an_unknown_method_is_told_apart(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = saved(tmp_path, zipped({"a": b"x" * 99}, method))
        assert rejected(path) is Reason.UNSUPPORTED_COMPRESSION


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        pytest.param(16, "<L", 0xDEAD, Reason.UNREADABLE, id="wrong checksum"),
        pytest.param(24, "<L", 3, Reason.UNREADABLE, id="holds more than it declares"),
        pytest.param(24, "<L", 9999, Reason.UNREADABLE, id="holds less than it declares"),
        pytest.param(24, "<L", LIMIT + 1, Reason.TOO_LARGE, id="declares more than the limit"),
        pytest.param(20, "<L", LIMIT + 1, Reason.TOO_LARGE, id="declares more packed bytes than the limit"),
        pytest.param(20, "<L", 5000, Reason.UNREADABLE, id="packed bytes behind the end"),
        pytest.param(20, "<L", 3, Reason.UNREADABLE, id="packed bytes missing"),
        pytest.param(20, "<L", 0, Reason.UNREADABLE, id="no packed bytes"),
        pytest.param(42, "<L", 7, Reason.UNREADABLE, id="local header elsewhere"),
        pytest.param(42, "<L", 0xFFFFFF, Reason.UNREADABLE, id="local header behind the end"),
        pytest.param(10, "<H", 0, Reason.UNREADABLE, id="deflated, but said to be stored"),
    ],
)
def test_a_lying_entry_costs_that_member_only(
    tmp_path: Path, offset: int, form: str, value: int, reason: Reason
) -> None:
    content = zipped({"a": b"some content, " * 9, "b": b"other"})
    path = saved(tmp_path, entry_changed(content, offset, form, value))
    assert rejected(path) is reason
    with ZipArchive(path) as archive:
        assert archive.read(list(archive.members())[1], limit=9) == b"other"


@pytest.mark.parametrize("offset", [1 << 63, (1 << 63) - 1, 9 << 56])
def test_a_member_said_to_lie_where_no_file_reaches_is_damaged(tmp_path: Path, offset: int) -> None:
    """The kernel's answer to such a seek is an error of the disk's kind, but no outage."""
    path = saved(tmp_path, zipped({"a": b"some content, " * 9}))
    with ZipArchive(path) as archive:
        (member,) = archive.members()
        with pytest.raises(InstanceRejected) as error:
            archive.read(replace(member, header=offset), limit=LIMIT)
        assert error.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("reads", range(6))
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_at_any_read_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: int, number: int
) -> None:
    """EIO, as soft NFS mounts and SMB give it: while the zip is opened, its directory listed, or a member read."""

    class Failing(io.BytesIO):
        left = reads

        def read(self, size: int | None = -1, /) -> bytes:
            Failing.left -= 1
            if Failing.left < 0:
                raise OSError(number, os.strerror(number))
            return super().read(size)

    path = saved(tmp_path, zipped({"a": b"content", "b": b"content"}))
    content = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda *_: Failing(content))
    with pytest.raises(SourceUnavailable, match="is its disk there"), ZipArchive(path) as archive:
        for _ in range(9):
            for member in archive.members():
                archive.read(member, limit=LIMIT)


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    content = zipped({"a": bytes(200 << 20)})  # declares what it holds
    lying = entry_changed(content, 24, "<L", 1000)  # declares little and holds much
    tracemalloc.start()
    assert rejected(saved(tmp_path, content)) is Reason.TOO_LARGE
    assert rejected(saved(tmp_path, lying)) is Reason.UNREADABLE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_zip64_values_beyond_all_bounds_are_refused(tmp_path: Path) -> None:
    """The extra field can place a header at 2**64 - 1, which no file offset can be."""
    path = tmp_path / "backlog.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a")
        info.extra = struct.pack("<2HQ", 1, 8, 2**64 - 1)
        archive.writestr(info, b"x")
    content = path.read_bytes()
    assert rejected(saved(tmp_path, entry_changed(content, 42, "<L", 0xFFFFFFFF))) is Reason.UNREADABLE
    assert rejected(saved(tmp_path, entry_changed(content, 24, "<L", 0xFFFFFFFF))) is Reason.TOO_LARGE


def test_a_place_that_holds_no_entry_is_a_changed_file(tmp_path: Path) -> None:
    with ZipArchive(saved(tmp_path, zipped({"a": b"x", "b": b"y"}))) as archive:
        for place in (0, archive.first_place + 1, archive.end_place, 1 << 40):
            with pytest.raises(InstanceRejected) as error:
                archive.member(place)
            assert error.value.reason is Reason.UNREADABLE


# -- what is no zip fails at once, with a clear line ---------------------------------------------------------


def test_what_is_no_zip_is_refused_in_words(tmp_path: Path) -> None:
    for content, words in [
        (b"", "no zip archive"),
        (b"DICM" * 9999, "no zip archive"),
        (zipped({"a": b"x" * 9999})[:-30], "cut off"),
        (b"PK\x05\x06", "no zip archive"),
    ]:
        with pytest.raises(UsageError, match=words):
            ZipArchive(saved(tmp_path, content))
    with pytest.raises(UsageError, match="no such file"):
        ZipArchive(tmp_path / "nothing")
    with pytest.raises(UsageError, match="can't be read"):
        ZipArchive(tmp_path)


def test_a_zip_cut_off_anywhere_is_refused_or_complete(tmp_path: Path) -> None:
    """Never half a list: what was cut off must not go missing in silence."""
    members = {f"m{i}": bytes([i]) * 40 for i in range(12)}
    content = zipped(members, comment=b"a comment")
    for length in range(len(content)):
        path = saved(tmp_path, content[:length])
        try:
            found = contents(path)
        except UsageError:
            continue
        assert found == members, length
        assert length >= len(content) - len(b"a comment")


@pytest.mark.parametrize("gone", [1, 5, 19])
def test_a_directory_that_says_too_little_is_refused(tmp_path: Path, gone: int) -> None:
    """An end record with a smaller count and size would hide the other members."""
    content = zipped({f"m{i}": b"x" for i in range(20)})
    at = content.rindex(b"PK\x05\x06")
    entry = (at - content.index(b"PK\x01\x02")) // 20
    changed = bytearray(content)
    start = struct.unpack_from("<L", content, at + 16)[0]
    for size, begin in ((entry * 20 - gone * 3, start), (entry * (20 - gone), start)):
        struct.pack_into("<2H2L", changed, at + 8, 20 - gone, 20 - gone, size, begin)
        with pytest.raises(UsageError, match="damaged"):
            contents(saved(tmp_path, bytes(changed)))


def test_a_directory_with_a_wrong_count_is_refused(tmp_path: Path) -> None:
    content = zipped({f"m{i}": b"x" for i in range(20)})
    at = content.rindex(b"PK\x05\x06")
    changed = bytearray(content)
    struct.pack_into("<2H", changed, at + 8, 21, 21)
    with pytest.raises(UsageError, match="holds 20 entries, not 21"):
        contents(saved(tmp_path, bytes(changed)))


def test_a_directory_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({f"m{i:02}": b"x" for i in range(20)}))
    content[content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 200)] ^= 0xFF
    with pytest.raises(UsageError, match="damaged at byte"):
        contents(saved(tmp_path, bytes(content)))


def test_an_encrypted_directory_is_refused(tmp_path: Path) -> None:
    """Its bytes are noise, and its end record stands where it always does (APPNOTE 7.3.3)."""
    content = zipped({"a": b"x"})
    start, end = content.index(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    noise = random.Random(3).randbytes(end - start)
    with pytest.raises(UsageError, match="damaged"):
        contents(saved(tmp_path, content[:start] + noise + content[end:]))


def test_one_part_of_several_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": b"x"}))
    struct.pack_into("<2H", content, content.rindex(b"PK\x05\x06") + 4, 2, 1)
    with pytest.raises(UsageError, match="several parts"):
        ZipArchive(saved(tmp_path, bytes(content)))


def test_a_missing_zip64_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "backlog.zip"
    _write_many(path, 70_000)
    content = path.read_bytes()
    with pytest.raises(UsageError, match="zip64"):
        ZipArchive(saved(tmp_path, content.replace(b"PK\x06\x06", b"PK\x06\x00")))


# -- against the oracle --------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


@settings(max_examples=60)
@given(
    members=st.dictionaries(names, st.binary(max_size=3000), max_size=12),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    comment=st.binary(max_size=60),
    before=st.binary(max_size=60),
)
@example(
    members={"0": b"PK\x01\x02"}, method=0, comment=b"", before=bytes(4)
)  # an entry's mark where none begins
@example(members={}, method=0, comment=b"", before=b"PK\x01\x02")
def test_it_reads_what_zipfile_writes(
    tmp_path_factory: pytest.TempPathFactory,
    members: dict[str, bytes],
    method: int,
    comment: bytes,
    before: bytes,
) -> None:
    assume(b"PK\x05\x06" not in comment)  # which the oracle takes for the archive's end
    path = saved(tmp_path_factory.mktemp("zip"), before + zipped(members, method, comment))
    with ZipArchive(path) as archive, zipfile.ZipFile(path) as oracle:
        found = list(archive.members())
        assert [member.name for member in found] == [info.orig_filename for info in oracle.infolist()]
        for member, info in zip(found, oracle.infolist(), strict=True):
            assert archive.read(member, limit=LIMIT) == oracle.read(info)


def _read_all(path: Path) -> dict[str, bytes | Reason]:
    found: dict[str, bytes | Reason] = {}
    with ZipArchive(path) as archive:

        def read(member: Member) -> bytes | Reason:
            try:
                return archive.read(member, limit=LIMIT)
            except InstanceRejected as error:
                return error.reason

        for member in archive.members():  # the last one is looked at below
            found[member.name] = read(member)
    return found


def _flip(content: bytes, at: int, to: int) -> bytes:
    return content[:at] + bytes([to]) + content[at + 1 :]


@settings(max_examples=400)
@given(where=st.floats(0, 1, exclude_max=True), to=st.integers(0, 255), more=st.booleans())
def test_a_changed_byte_is_refused_or_changes_no_content(
    tmp_path_factory: pytest.TempPathFactory, where: float, to: int, more: bool
) -> None:
    members = {f"m{i}": f"content {i} ".encode() * 5 for i in range(4)}
    content = zipped(members)
    change: Callable[[bytes], bytes] = lambda one: _flip(one, int(where * len(one)), to)  # noqa: E731
    damaged = change(content) if not more else _flip(change(content), len(content) // 2, to ^ 0x55)
    path = tmp_path_factory.mktemp("zip") / "backlog.zip"
    path.write_bytes(damaged)
    try:
        found = _read_all(path)
    except UsageError:
        return
    assert len(found) == len(members)
    for content_or_reason in found.values():
        assert isinstance(content_or_reason, Reason) or content_or_reason in members.values()


# -- as other programs write them -----------------------------------------------------------------------------


def as_macos_writes(path: Path, before: int, after: int, hole: int) -> dict[str, bytes]:
    """Write a zip past 4 GiB without zip64: offsets begin anew at zero. Sparse; returns what its members hold."""
    contents, directory, count = {}, b"", 0
    with path.open("wb") as file:
        for number in range(before + 1 + after):
            name = b"%d.dcm" % number
            content = None if number == before else b"image %d" % number
            at, size = file.tell(), hole if content is None else len(content)
            crc = 0 if content is None else zlib.crc32(content)
            sizes = (0, 0x21, crc, size & 0xFFFFFFFF, size & 0xFFFFFFFF, len(name), 0)
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, *sizes) + name)
            if content is None:
                file.seek(hole, 1)
            else:
                file.write(content)
                contents[name.decode()] = content
            directory += (
                struct.pack("<4s6H3L5H2L", b"PK\1\2", 0x0315, 20, 0, 0, *sizes, 0, 0, 0, 0, at & 0xFFFFFFFF)
                + name
            )
            count += 1
        at = file.tell()
        file.write(directory)
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), at & 0xFFFFFFFF, 0)
        file.write(end)
    return contents


@pytest.mark.parametrize("gigabytes", [4, 5, 9])
def test_a_zip_of_macos_over_4_gib_is_read(tmp_path: Path, gigabytes: int) -> None:
    path = tmp_path / "mac.zip"
    expected = as_macos_writes(path, 3, 3, (gigabytes << 30) + 12_345)
    with ZipArchive(path) as archive:
        found = {}
        for member in archive.members():
            if member.name in expected:
                found[member.name] = archive.read(archive.member(member.place), limit=1000)
        assert found == expected
        (hole,) = [member for member in archive.members() if member.name not in expected]
        with pytest.raises(InstanceRejected):
            archive.read(hole, limit=1 << 20)


@pytest.mark.parametrize("system", [0, 3, 10])
def test_backslashes_separate_folders(tmp_path: Path, system: int) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name, content in (("A\\", b""), ("A\\B\\", b""), ("A\\IM0", b"x"), ("A\\odd\\", b"content")):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, system
            archive.writestr(info, content)
    with ZipArchive(tmp_path / "z.zip") as opened:
        assert [member.name for member in opened.members() if not member.is_folder] == ["A\\IM0", "A\\odd\\"]
