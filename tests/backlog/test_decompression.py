"""What archives compress by: the content or a reason, within bounds."""

from __future__ import annotations

import gzip
import importlib
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog.errors import InstanceRejected
from backlog.inputs.decompression import gunzip, inflate, inflate64
from backlog.outcomes import Reason


def deflate64(content: bytes, folder: Path) -> bytes:
    """Compress as Windows Explorer does, by 7-Zip."""
    import shutil
    import zipfile

    program = shutil.which("7z") or shutil.which("7za")
    if program is None:
        pytest.skip("7z, which the test compresses by, is not installed")
    (folder / "member").write_bytes(content)
    subprocess.run(
        [program, "a", "-tzip", "-mm=Deflate64", "z.zip", "member"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(folder / "z.zip") as archive:
        info = archive.getinfo("member")
        assert info.compress_type == 9
        raw = (folder / "z.zip").read_bytes()
    start = (
        info.header_offset + 30 + len("member") + int.from_bytes(raw[info.header_offset + 28 :][:2], "little")
    )
    return raw[start : start + info.compress_size]


CONTENT = bytes(random.Random(1).choices(range(40), k=300_000)) + bytes(400_000)


def test_deflate64_comes_back_and_a_bomb_of_it_stays_small(tmp_path: Path) -> None:
    pytest.importorskip("inflate64", reason="the extra deflate64 is not installed")
    packed = deflate64(CONTENT, tmp_path)
    assert inflate64(packed, len(CONTENT)) == CONTENT
    assert len(inflate64(deflate64(bytes(100 << 20), tmp_path), 1000)) < 32 << 20


def test_damaged_deflate64_is_content_or_a_reason(tmp_path: Path) -> None:
    pytest.importorskip("inflate64", reason="the extra deflate64 is not installed")
    packed = deflate64(CONTENT, tmp_path)
    rolls = random.Random(2)
    for _ in range(300):
        changed = bytearray(packed[: rolls.randrange(len(packed))] or packed)
        for _ in range(rolls.randrange(5)):
            changed[rolls.randrange(len(changed))] = rolls.randrange(256)
        try:
            assert isinstance(inflate64(bytes(changed), len(CONTENT)), bytes)
        except InstanceRejected as rejected:
            assert rejected.reason is Reason.UNREADABLE


def test_without_inflate64_the_reason_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inflate64", None)
    with pytest.raises(InstanceRejected, match="Explorer") as caught:
        inflate64(b"x", 1)
    assert caught.value.reason is Reason.UNSUPPORTED_COMPRESSION
    monkeypatch.undo()
    importlib.invalidate_caches()


@given(st.binary(max_size=2000))
def test_deflate_comes_back_and_foreign_bytes_end_with_a_reason(content: bytes) -> None:
    packer = zlib.compressobj(wbits=-15)
    assert inflate(packer.compress(content) + packer.flush(), len(content)) == content
    try:
        assert len(inflate(content, 100)) <= 101
    except InstanceRejected as rejected:
        assert rejected.reason is Reason.UNREADABLE


def test_gzip_comes_back_of_all_its_members() -> None:
    packed = gzip.compress(b"a" * 1000, mtime=0) + gzip.compress(b"b", mtime=0) + bytes(512)
    assert gunzip(packed, limit=1001) == b"a" * 1000 + b"b"


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (gzip.compress(bytes(10_000), mtime=0), Reason.TOO_LARGE),
        (gzip.compress(bytes(600), mtime=0) + gzip.compress(bytes(600), mtime=0), Reason.TOO_LARGE),
        (gzip.compress(b"x" * 500, mtime=0)[:-9], Reason.UNREADABLE),
        (gzip.compress(b"x" * 500, mtime=0)[:-8] + bytes(8), Reason.UNREADABLE),
        (b"\x1f\x8b\x08" + bytes(50), Reason.UNREADABLE),
        (gzip.compress(b"x", mtime=0) + b"trailing", Reason.UNREADABLE),
    ],
)
def test_a_gzip_file_that_cannot_be_read_ends_with_a_reason(packed: bytes, reason: Reason) -> None:
    with pytest.raises(InstanceRejected) as caught:
        gunzip(packed, limit=1000)
    assert caught.value.reason is reason
