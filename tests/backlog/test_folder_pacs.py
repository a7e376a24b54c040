"""A folder as the PACS: whole files or none, nothing overwritten, nothing outside of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from backlog.dicom.header import identity, read_header
from backlog.dicom.partial_file import read_until_pixel_data
from backlog.errors import InstanceRejected, ServiceUnavailable, StorageFull
from backlog.outcomes import Reason
from backlog.pacs.connect import connect
from backlog.pacs.folder import FolderPacs, instance_id
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from tests.support.dicom_images import chest, dicom, explicit_element, with_elements
from tests.support.servers import ROOT, OrthancServer
from tests.support.sr_headers import CASES
from tests.support.sr_reports import report

IMAGE = dicom(chest(64, 64))
ID = instance_id(identity(read_header(IMAGE)))


@pytest.fixture
def pacs(tmp_path: Path) -> FolderPacs:
    return FolderPacs(tmp_path / "pacs")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_stored_is_fetched_as_it_was(pacs: FolderPacs) -> None:
    stored = pacs.store(IMAGE)
    assert not stored.already
    assert pacs.fetch(stored.instance) == IMAGE
    assert files(pacs.root) == [pacs.root / f"{stored.instance}.dcm"]


def test_storing_again_changes_nothing(pacs: FolderPacs) -> None:
    first = pacs.store(IMAGE)
    changed = dicom(chest(64, 64)[::-1])  # other pixels under the same UID
    again = pacs.store(changed)
    assert again.already
    assert again.instance == first.instance
    assert pacs.fetch(first.instance) == IMAGE


def test_instances_of_a_study_lie_together(pacs: FolderPacs) -> None:
    one = pacs.store(dicom(chest(64, 64), SOPInstanceUID="1.2.1"))
    two = pacs.store(dicom(chest(64, 64), SOPInstanceUID="1.2.2", SeriesInstanceUID="1.9"))
    elsewhere = pacs.store(dicom(chest(64, 64), StudyInstanceUID="1.2.99"))
    study = one.instance.split("/")[0]
    assert two.instance.startswith(study)
    assert not elsewhere.instance.startswith(study)


def test_the_same_uids_of_another_patient_are_another_instance(pacs: FolderPacs) -> None:
    assert pacs.store(IMAGE).instance != pacs.store(dicom(chest(64, 64), PatientID="OTHER")).instance


#: Patient IDs, and how their letters are declared.
LETTERS = {
    "Cyrillic": ("ISO_IR 144", "Д7".encode("iso8859-5")),
    "Latin-1 undeclared": (None, "PÄ7".encode("latin-1")),
    "UTF-8": ("ISO_IR 192", "PÄ7".encode()),
    "UTF-8 undeclared": (None, "Pé7".encode()),
    "katakana": ("ISO_IR 13", "ﾔﾏ7".encode("shift_jis")),
}


def of_patient(charset: str | None, patient: bytes) -> bytes:
    image = dicom(chest(64, 64), SpecificCharacterSet=charset, PatientID=None)
    patient += b" " * (len(patient) % 2)
    return with_elements(image, explicit_element(0x00100020, b"LO", patient), before=b"\x18\0\x15\0CS")


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if "patient id" in n and not case.refused])
def test_a_report_lies_in_the_study_of_its_image(pacs: FolderPacs, name: str) -> None:
    image = CASES[name].dicom
    study = pacs.store(image).instance.split("/")[0]
    assert pacs.store(report(image).dicom).instance.startswith(study)


@pytest.mark.parametrize("name", LETTERS)
def test_names_are_made_of_what_orthanc_makes_its_identifiers_of(
    pacs: FolderPacs, orthanc: OrthancServer, name: str
) -> None:
    image = of_patient(*LETTERS[name])
    theirs = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    for file in (image, report(image).dicom):
        assert pacs.store(file).instance.split("/")[1] == theirs.store(file).instance.replace("-", "")
    assert len(orthanc.get("/studies").json()) == 1
    theirs.close()


@pytest.mark.parametrize(
    ("charset", "patient"), [("ISO_IR 192", b"P\xc37"), ("KLINGON", b"P\xc47"), ("ISO_IR 6", b"\xc4")]
)
def test_an_image_with_undecidable_letters_is_stored_too(
    pacs: FolderPacs, charset: str, patient: bytes
) -> None:
    """It gets no report; but the PACS keeps it, and finds it again."""
    image = of_patient(charset, patient)
    assert pacs.fetch(pacs.store(image).instance) == image


def test_the_header_ends_at_the_pixels(pacs: FolderPacs) -> None:
    large = dicom(chest(1024, 1024))
    instance = pacs.store(large).instance
    header = pacs.header(instance)
    assert len(header.content) <= 1 << 16
    assert large.startswith(header.content)
    assert header.identity == identity(read_header(large))


@pytest.mark.parametrize("before", range(-2, 14))
def test_a_header_is_whole_wherever_a_step_ends(before: int) -> None:
    """Before, in and behind the element that begins the pixels."""
    pixels = IMAGE.index(b"\xe0\x7f\x10\x00")
    steps = [IMAGE[: pixels + before], IMAGE[pixels + before : pixels + 100], b"never"]
    assert identity(read_header(read_until_pixel_data(iter(steps)))) == identity(read_header(IMAGE))
    assert len(read_until_pixel_data(iter(steps))) <= pixels + 100


def test_what_has_no_pixels_is_read_to_its_end() -> None:
    assert read_until_pixel_data(iter([b"no", b"mark"])) == b"nomark"


def _icon(side: int, *, undefined: bool) -> bytes:
    icon = Dataset()
    icon.Rows = icon.Columns = side
    icon.SamplesPerPixel, icon.PhotometricInterpretation, icon.PixelRepresentation = 1, "MONOCHROME2", 0
    icon.BitsAllocated, icon.BitsStored, icon.HighBit = 8, 8, 7
    icon.PixelData = bytes(side * side)
    icon["PixelData"].VR = "OB"
    image = dcmread(BytesIO(dicom(chest(1024, 1024))))
    image.IconImageSequence = [icon]
    image["IconImageSequence"].is_undefined_length = undefined
    return _written(image)


def _private() -> bytes:
    image = dcmread(BytesIO(dicom(chest(1024, 1024))))
    block = image.private_block(0x0029, "ACME", create=True)
    block.add_new(0x10, "OB", b"\xe0\x7f\x10\x00" + bytes(200_000))
    return _written(image)


def _written(image: Dataset) -> bytes:
    file = BytesIO()
    image.save_as(file)
    return file.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(_icon(128, undefined=False), id="an icon"),
        pytest.param(_icon(512, undefined=False), id="an icon longer than a step"),
        pytest.param(_icon(512, undefined=True), id="one of undefined length"),
        pytest.param(_private(), id="a private element"),
    ],
)
def test_pixels_elsewhere_in_the_header_do_not_end_it(pacs: FolderPacs, image: bytes) -> None:
    header = pacs.header(pacs.store(image).instance)
    assert "Rows" in header.header
    assert len(header.content) < len(image) / 2


def test_deleting_says_whether_it_was_there(pacs: FolderPacs) -> None:
    instance = pacs.store(IMAGE).instance
    assert pacs.count_instances("1.2.3.4.5", instance) == 1
    assert pacs.delete(instance)
    assert pacs.count_instances("1.2.3.4.5", instance) == 0
    assert not pacs.delete(instance)
    with pytest.raises(InstanceRejected) as error:
        pacs.fetch(instance)
    assert error.value.reason is Reason.NOT_IN_PACS
    with pytest.raises(InstanceRejected):
        pacs.header(instance)


@pytest.mark.parametrize(
    "instance",
    [
        "",
        "..",
        "../x",
        "/etc/passwd",
        f"{'a' * 40}/../{'a' * 40}",
        "A" * 40 + "/" + "a" * 40,
        ID + "\n",
        ID + "/x",
    ],
)
def test_an_identifier_of_another_form_leads_nowhere(pacs: FolderPacs, instance: str) -> None:
    for method in (pacs.fetch, pacs.header, pacs.delete, lambda one: pacs.count_instances("1.2", one)):
        with pytest.raises(InstanceRejected) as error:
            method(instance)
        assert error.value.reason is Reason.NOT_IN_PACS


def test_no_header_text_becomes_a_path(pacs: FolderPacs, tmp_path: Path) -> None:
    for patient in ("../../../escape", "/etc/cron.d/x", "a\\b", "nul\0byte", "é" * 64, ""):
        pacs.store(dicom(chest(64, 64), PatientID=patient))
    assert files(tmp_path)
    for path in files(tmp_path):
        assert path.resolve().is_relative_to(pacs.root.resolve())
        assert path.relative_to(pacs.root).as_posix().replace("/", "").removesuffix(".dcm").isalnum()


def test_what_is_no_dicom_is_rejected_before_anything_is_made(pacs: FolderPacs) -> None:
    for content, reason in [
        (b"", Reason.NOT_DICOM),
        (b"x" * 4096, Reason.NOT_DICOM),
        (dicom(chest(64, 64), SOPInstanceUID=None), Reason.INVALID_UID),
    ]:
        with pytest.raises(InstanceRejected) as error:
            pacs.store(content)
        assert error.value.reason is reason
    assert not pacs.root.exists()


_STORE = """
import errno, os, sys
from pathlib import Path
from backlog.pacs.folder import FolderPacs
def no_links(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")  # what FAT and exFAT answer
if sys.argv[3] == "exFAT":
    os.link = no_links
sys.stdin.buffer.readline()
print(FolderPacs(Path(sys.argv[1])).store(Path(sys.argv[2]).read_bytes()).already)
"""


@pytest.mark.parametrize("disk", ["ext4", "exFAT"])
def test_processes_that_store_the_same_instance_write_one_file(
    pacs: FolderPacs, tmp_path: Path, disk: str
) -> None:
    (tmp_path / "image").write_bytes(IMAGE)
    command = [sys.executable, "-c", _STORE, str(pacs.root), str(tmp_path / "image"), disk]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(answers) == [b"False"] + [b"True"] * 3
    assert [path.read_bytes() for path in files(pacs.root)] == [IMAGE]


def test_a_full_disk_is_waited_for_and_leaves_no_part(pacs: FolderPacs) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    pacs.store(IMAGE)
    study = next(pacs.root.iterdir())
    code = (
        "import errno, os, sys; from pathlib import Path; from backlog.pacs import folder;"
        "from backlog.errors import StorageFull;"
        # The file system is asked for room that it doesn't have: the first fsync of the part finds out.
        "os.fsync = lambda handle: os.write(os.open('/dev/full', os.O_WRONLY), b'x')\n"
        "try: folder.FolderPacs(Path(sys.argv[1])).store(Path(sys.argv[2]).read_bytes())\n"
        "except StorageFull as error: print(error)\n"
    )
    (pacs.root / "image").write_bytes(dicom(chest(64, 64), SOPInstanceUID="1.2.77"))
    done = subprocess.run(
        [sys.executable, "-c", code, str(pacs.root), str(pacs.root / "image")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "no room left on the disk" in done.stdout, done.stderr
    assert [path.name for path in study.iterdir()] == [f"{ID.split('/')[1]}.dcm"]


def test_a_part_that_could_not_be_written_is_no_file(pacs: FolderPacs) -> None:
    """The kernel cuts the write short: the file is not there afterwards, and is to be stored again."""
    (pacs.root).mkdir()
    (pacs.root / "image").write_bytes(IMAGE)

    def limited() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from backlog.pacs.folder import FolderPacs\n"
            "from backlog.errors import ServiceUnavailable\n"
            "try: FolderPacs(Path(sys.argv[1])).store(Path(sys.argv[2]).read_bytes())\n"
            "except ServiceUnavailable as error: print(type(error).__name__)\n",
            str(pacs.root),
            str(pacs.root / "image"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=limited,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.strip() == "StorageFull", done.stderr
    assert [path.name for path in files(pacs.root)] == ["image"]


def test_a_folder_that_cannot_be_is_waited_for(tmp_path: Path) -> None:
    """A share that is not mounted is something else, or nothing: no image is to blame."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ServiceUnavailable):
        FolderPacs(tmp_path / "file").store(IMAGE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_folder_without_permission_is_waited_for(tmp_path: Path) -> None:
    """Every image would otherwise end as an error of ours."""
    script = (
        "import os, sys; from pathlib import Path; from backlog.pacs.folder import FolderPacs\n"
        "from backlog.errors import ServiceUnavailable\n"
        "image = Path(sys.argv[2]).read_bytes()\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "pacs = FolderPacs(Path(sys.argv[1]))\n"
        "name = sys.argv[3]\n"
        "for call in (lambda: pacs.store(image), lambda: pacs.fetch(name), lambda: pacs.count_instances('', name)):\n"
        "    try: call()\n"
        "    except ServiceUnavailable as error: print('waits')\n"
    )
    (tmp_path / "pacs").mkdir(mode=0o700)
    (tmp_path / "image").write_bytes(IMAGE)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "pacs"), str(tmp_path / "image"), ID],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["waits"] * 3, done.stderr


def test_connect_takes_an_address_or_a_folder(tmp_path: Path) -> None:
    folder = connect(Settings(pacs_url=str(tmp_path)))
    assert isinstance(folder, FolderPacs)
    assert folder.identity() == str(tmp_path)
    folder.close()
    for address in ("http://somewhere", "https://somewhere"):
        server = connect(Settings(pacs_url=str(tmp_path)), address)
        assert isinstance(server, Orthanc)
        server.close()


def test_full_is_a_kind_of_unavailable() -> None:
    """Whoever waits for a PACS waits for its disk too."""
    assert issubclass(StorageFull, ServiceUnavailable)
