"""How many bytes a plan counts, and how many it says that a run stores: as files lie in the PACS, unpacked."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog.inputs.conversion import NOTHING
from backlog.settings import Settings
from producer.cli.main import main
from producer.plan import Plan, make_plan
from producer.sources.open import Selection
from tests.support.dicom_images import chest, dicom

IMAGE = dicom(chest(300, 300))


def planned(source: Path, sample: int = 0, *, wrap: bool = False) -> Plan:
    return make_plan(str(source), Settings(), "", Selection(), sample, NOTHING | {"wrap_images": wrap})


def a_zip(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def a_folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def png(width: int, height: int, bits: int) -> bytes:
    """A grey picture, all black: a few bytes hold it."""

    def block(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    rows = zlib.compress(bytes((1 + width * bits // 8) * height))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", rows) + block(b"IEND", b"")


def test_members_of_zips_in_a_folder_are_counted_unpacked(tmp_path: Path) -> None:
    """Found: they counted as nothing, and the disk that a run needs was promised too small."""
    inner = a_zip({"deep.dcm": IMAGE})
    members = {"a.dcm": IMAGE, "b/c.dcm": IMAGE, "empty": b"", "inner.zip": inner}
    source = a_folder(tmp_path / "in", {"one.dcm": IMAGE, "z.zip": a_zip(members)})
    made = planned(source)
    assert (made.total, made.size) == (5, 3 * len(IMAGE) + len(inner))
    assert made.stored == made.size


def test_members_of_zips_in_a_zip_are_counted_unpacked(tmp_path: Path) -> None:
    inner = a_zip({"a.dcm": IMAGE, "empty": b""})
    (tmp_path / "z.zip").write_bytes(a_zip({"inner.zip": inner, "b.dcm": IMAGE}))
    made = planned(tmp_path / "z.zip")
    assert (made.total, made.size) == (3, 2 * len(IMAGE))


@pytest.mark.parametrize("sample", [0, 2])
def test_compressed_files_are_stored_unpacked(tmp_path: Path, sample: int) -> None:
    packed = gzip.compress(IMAGE)
    assert len(packed) < len(IMAGE)
    source = a_folder(tmp_path / "in", {f"{number}.dcm.gz": packed for number in range(4)})
    made = planned(source, sample)
    assert (made.size, made.stored) == (4 * len(packed), 4 * len(IMAGE))


def test_a_file_cut_off_in_its_gzip_is_counted_as_it_is(tmp_path: Path) -> None:
    made = planned(a_folder(tmp_path / "in", {"a.dcm.gz": gzip.compress(IMAGE)[:-9]}))
    assert made.stored == made.size


@pytest.mark.parametrize("bits", [8, 16])
def test_pictures_are_stored_as_pixels(tmp_path: Path, bits: int) -> None:
    pictures = {"a.png": png(400, 300, bits), "b.png.gz": gzip.compress(png(400, 300, bits))}
    made = planned(a_folder(tmp_path / "in", pictures), wrap=True)
    assert (made.would_score, made.size) == (2, sum(map(len, pictures.values())))
    assert made.stored == 2 * 400 * 300 * bits // 8
    assert planned(tmp_path / "in").stored == made.size  # none is stored


@pytest.mark.parametrize("cut", [8, 20, 30])
def test_a_damaged_picture_is_counted_as_it_is(tmp_path: Path, cut: int) -> None:
    damaged = png(400, 300, 8)[:cut]
    huge = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\xff" * 17
    made = planned(a_folder(tmp_path / "in", {"a.png": damaged, "b.png": huge}), wrap=True)
    assert made.stored <= made.size + 400 * 300


def test_the_disk_is_for_what_is_stored(tmp_path: Path) -> None:
    a_folder(tmp_path / "in", {"a.dcm.gz": gzip.compress(dicom(chest(3000, 2000)))})
    said = CliRunner().invoke(main, ["plan", str(tmp_path / "in"), "--pacs", str(tmp_path)])
    assert "Disk      about 12.1 MB needed here" in said.output, said.output
