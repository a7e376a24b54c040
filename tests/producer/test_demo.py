"""The invented backlog: deterministic, varied, decodable, and like a chest."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="drawing needs numpy (cxr-backlog[inference])")

from pydicom import Dataset, dcmread  # noqa: E402

from producer.demo import backlog as synthetic  # noqa: E402
from producer.demo.backlog import Shot, dicom, radiograph, write_backlog  # noqa: E402
from tests.support.sr_reports import program  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Dataset]]:
    path = tmp_path_factory.mktemp("synthetic") / "backlog.zip"
    assert write_backlog(path) == 24
    with zipfile.ZipFile(path) as archive:
        return [(name, dcmread(io.BytesIO(archive.read(name)))) for name in archive.namelist()]


def test_the_backlog_has_studies_of_several_people(backlog: list[tuple[str, Dataset]]) -> None:
    assert len({name for name, _ in backlog}) == 24
    assert len({header.SOPInstanceUID for _, header in backlog}) == 24
    assert len({header.StudyInstanceUID for _, header in backlog}) == 8
    assert len({header.PatientID for _, header in backlog}) == 8
    patients: dict[str, set[str]] = {}
    for _, header in backlog:
        patients.setdefault(header.StudyInstanceUID, set()).add(header.PatientID)
    assert all(len(ids) == 1 for ids in patients.values())  # a study has one patient
    assert all(header.SOPInstanceUID.is_valid for _, header in backlog)


def test_the_backlog_is_varied(backlog: list[tuple[str, Dataset]]) -> None:
    headers = [header for _, header in backlog]
    modalities = Counter(header.Modality for header in headers)
    assert modalities["SR"] == modalities["CT"] == 1
    assert modalities["CR"] >= 5
    assert modalities["DX"] >= 5
    assert {header.BitsStored for header in headers if "BitsStored" in header} == {8, 10, 12, 14, 16}
    assert {header.get("PhotometricInterpretation") for header in headers} >= {"MONOCHROME1", "MONOCHROME2"}
    assert {"PA", "AP", "LL"} <= {header.get("ViewPosition") for header in headers}


def test_every_codec_is_used_where_its_encoder_is_installed(backlog: list[tuple[str, Dataset]]) -> None:
    for package in ("openjpeg", "jpeg_ls", "rle", "gdcm"):
        pytest.importorskip(package)
    used = {header.file_meta.TransferSyntaxUID for _, header in backlog}
    assert used == {
        synthetic.NATIVE,
        synthetic.IMPLICIT,
        synthetic.RLE,
        synthetic.JPEG_LS,
        synthetic.JPEG_2000,
        synthetic.JPEG_LOSSLESS,
    }


def test_every_image_decodes(backlog: list[tuple[str, Dataset]]) -> None:
    for name, header in backlog:
        if header.Modality != "SR":
            pixels = header.pixel_array
            assert pixels.shape == (header.Rows, header.Columns), name
            assert pixels.std() > 0.05 * 2**header.BitsStored, name


def test_a_pair_holds_values_beyond_its_depth(backlog: list[tuple[str, Dataset]]) -> None:
    doubled = []
    for _, header in backlog:
        if header.Modality == "DX" and header.file_meta.TransferSyntaxUID == synthetic.NATIVE:
            words = np.frombuffer(header.PixelData, "<u2")
            if words.max() >= 2**header.BitsStored:
                doubled.append((header.PhotometricInterpretation, int(words.max())))
    assert {"MONOCHROME1", "MONOCHROME2"} == {photometric for photometric, _ in doubled}
    assert all(4096 < brightest < 8192 for _, brightest in doubled)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    write_backlog(tmp_path / "a.zip", count=3, seed=5)
    write_backlog(tmp_path / "b.zip", count=3, seed=5)
    write_backlog(tmp_path / "c.zip", count=3, seed=6)
    contents = [(tmp_path / name).read_bytes() for name in ("a.zip", "b.zip", "c.zip")]
    assert contents[0] == contents[1] != contents[2]


def test_broken_members_are_added_when_asked_for(tmp_path: Path) -> None:
    assert write_backlog(tmp_path / "b.zip", count=1, broken=True) == 3
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        names = archive.namelist()
        assert names[1:] == ["readme.txt", "STUDY999/IM0001.dcm"]
        cut = dcmread(io.BytesIO(archive.read(names[2])))
    with pytest.raises(ValueError, match="less than expected"):
        _ = cut.pixel_array


def test_a_radiograph_looks_like_a_chest() -> None:
    chest = radiograph(3, 600, 500, 12).astype(float) / 4095
    right_lung, left_lung = chest[200:300, 110:160].mean(), chest[200:300, 350:400].mean()
    spine, belly, air = chest[300:380, 240:260].mean(), chest[560:, 150:220].mean(), chest[:40, :10].mean()
    assert max(right_lung, left_lung) < 0.6 * min(spine, belly)
    assert air < min(right_lung, left_lung)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_radiograph_uses_its_bits(bits: int) -> None:
    chest = radiograph(1, 300, 200, bits)
    assert chest.shape == (300, 200)
    assert chest.dtype == np.uint16
    assert 2 ** (bits - 1) < chest.max() < 2**bits
    assert not np.array_equal(chest, radiograph(2, 300, 200, bits))


@pytest.mark.parametrize(
    "transfer_syntax", [synthetic.RLE, synthetic.JPEG_LS, synthetic.JPEG_2000, synthetic.JPEG_LOSSLESS]
)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_compression_changes_no_pixel(transfer_syntax: str, bits: int) -> None:
    for package in ("openjpeg", "jpeg_ls", "rle", "gdcm"):
        pytest.importorskip(package)
    pixels = radiograph(4, 201, 150, bits)
    header = dcmread(io.BytesIO(dicom(pixels, Shot(bits=bits, transfer_syntax=transfer_syntax))))
    assert header.file_meta.TransferSyntaxUID == transfer_syntax
    assert np.array_equal(header.pixel_array, pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_lossless_holds_every_difference(bits: int) -> None:
    pytest.importorskip("gdcm")
    extremes = np.random.default_rng(0).choice([0, 1, 2 ** (bits - 1), 2**bits - 1], (40, 50))
    shot = Shot(bits=bits, transfer_syntax=synthetic.JPEG_LOSSLESS)
    header = dcmread(io.BytesIO(dicom(extremes.astype(np.uint16), shot)))
    assert np.array_equal(header.pixel_array, extremes)


@pytest.mark.parametrize(
    ("package", "transfer_syntax"),
    [
        ("openjpeg.utils", synthetic.JPEG_2000),
        ("jpeg_ls", synthetic.JPEG_LS),
        ("rle.utils", synthetic.RLE),
        ("gdcm", synthetic.JPEG_LOSSLESS),
    ],
)
def test_without_an_encoder_pixels_are_stored_as_they_are(
    monkeypatch: pytest.MonkeyPatch, package: str, transfer_syntax: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    pixels = radiograph(4, 64, 63, 8)
    header = dcmread(io.BytesIO(dicom(pixels, Shot(bits=8, transfer_syntax=transfer_syntax))))
    assert header.file_meta.TransferSyntaxUID == synthetic.NATIVE
    assert np.array_equal(header.pixel_array, pixels)


def test_the_objects_conform_to_their_standard(backlog: list[tuple[str, Dataset]], tmp_path: Path) -> None:
    for name, header in backlog[:16]:  # the recipes, once each
        path = tmp_path / "one.dcm"
        header.save_as(path)
        run = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True)
        errors = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], name


def test_importing_the_demo_loads_no_numpy_or_codec() -> None:
    light = (
        "import sys, producer.demo.backlog\n"
        "sys.exit(' '.join({'numpy', 'pydicom', 'rle', 'openjpeg'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", light], cwd=ROOT, check=True)


def test_uids_depend_on_seed_study_and_number_only() -> None:
    def uids(**options: Any) -> tuple[str, str]:
        header = dcmread(io.BytesIO(dicom(radiograph(1, 32, 32, 12), **options)))
        return header.StudyInstanceUID, header.SOPInstanceUID

    assert uids(shot=Shot(study=1, bits=12)) == uids(shot=Shot(study=1, modality="CR"))
    assert uids(shot=Shot(study=1))[0] == uids(shot=Shot(study=1, number=2))[0]
    assert uids(shot=Shot(study=1))[1] != uids(shot=Shot(study=1, number=2))[1]
    assert uids(seed=1)[0] != uids(seed=2)[0]
