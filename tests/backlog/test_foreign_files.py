"""Files that are no radiographs: told by name and content together."""

from __future__ import annotations

import gzip
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog.inputs.foreign_files import foreign_reason, is_gzip, is_picture
from backlog.outcomes import Outcome, Reason
from tests.support.dicom_images import chest, dicom

PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)
JPEG = b"\xff\xd8\xff\xe0" + bytes(50)


def a_zip() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("a", b"x")
    return written.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        *[("README.txt", b"An archive.", Reason.DOCUMENT_FILE), ("a/LICENSE", b"CC0", Reason.DOCUMENT_FILE)],
        *[("labels.csv", b"a,b\r\n1,2", Reason.DOCUMENT_FILE), ("Data.csv", b"\xef\xbb\xbfx", Reason.DOCUMENT_FILE)],
        *[("SHA256SUMS.txt", b"00 a", Reason.DOCUMENT_FILE), ("LEIAME", "À mão".encode(), Reason.DOCUMENT_FILE)],
        *[("x.csv", b"\xfc,\xe9\n", Reason.DOCUMENT_FILE), ("x.csv", "a\n".encode("utf-16"), Reason.DOCUMENT_FILE)],
        *[("paper.pdf", b"%PDF-1.7\n\0\0", Reason.DOCUMENT_FILE), ("t.xlsx", a_zip(), Reason.DOCUMENT_FILE)],
        *[("viewer.exe", b"MZ\x90\0", Reason.OTHER_FILE), ("AUTORUN.OCX", b"MZ\x90\0", Reason.OTHER_FILE)],
        *[("mask.npy", b"\x93NUMPY\1\0", Reason.OTHER_FILE), ("a.h5", b"\x89HDF\r\n\x1a\n\0", Reason.OTHER_FILE)],
        *[("x.nii", bytes(344) + b"n+1\0", Reason.OTHER_FILE), ("how.mp4", b"\0\0\0 ftypisom", Reason.OTHER_FILE)],
        *[("HELP.CHM", b"ITSF\3\0", Reason.OTHER_FILE), ("libviewer.so", b"\x7fELF\2", Reason.OTHER_FILE)],
        *[(".gitkeep", b"", Reason.OTHER_FILE), ("a/_SUCCESS", b"", Reason.OTHER_FILE)],
        ("x.pdf", b"", Reason.OTHER_FILE),
        *[(".gitignore", b"*.tmp\n", Reason.DOCUMENT_FILE), ("empty.csv", b"", Reason.DOCUMENT_FILE)],
        *[("preview.jpg", JPEG, Reason.IMAGE_FILE), ("x", PNG, Reason.IMAGE_FILE), ("x.dcm", PNG, Reason.IMAGE_FILE)],
        *[("x.tif", b"II*\0" + bytes(9), Reason.IMAGE_FILE), ("x.gif", b"GIF89a", Reason.IMAGE_FILE)],
        *[("study.zip", a_zip(), Reason.ARCHIVE_FILE), ("x", a_zip(), Reason.ARCHIVE_FILE)],
        ("x.tar", bytes(257) + b"ustar\0" + bytes(200), Reason.ARCHIVE_FILE),
        ("x.tar.gz", gzip.compress(b"x", mtime=0), Reason.ARCHIVE_FILE),
        # What calls itself one and holds something else may be a damaged radiograph.
        *[("labels.csv", b"\0\1\2" * 100, None), ("x.jpg", b"\0" * 100, None), ("x.dcm", b"no image", None)],
        *[("paper.pdf", b"\0" * 10, None), ("IM0001", b"no image", None), ("x.dcm", b"", None), ("x.zip", b"x", None)],
        ("labels.csv", dicom(chest(64, 64)), None),
        *[(name, dicom(chest(64, 64)), None) for name in ("viewer.exe", "a.npy", ".hidden", "x.pkl")],
        # An empty file may be a copy that failed; unknown bytes may be an image without its header.
        *[(name, b"", None) for name in ("IM0001", "1.2.840.113", "x.dicom", "x.ima", "x.jpg", "x.raw", "x.bin")],
        *[(name, dicom(chest(64, 64))[:120], None) for name in ("a.npy", ".hidden", "x", "x.dcm", "x.pkl", "x.ttf")],
        *[("x.dat", b"\x93NUMPY", None), ("viewer.exe", b"\0" * 200, None), ("x.bin", b"\1\2\3" * 90, None)],
    ],
)  # fmt: skip
def test_name_and_content_tell_together(name: str, content: bytes, reason: Reason | None) -> None:
    assert foreign_reason(name, content) is reason


@pytest.mark.parametrize("name", ["A\\README.TXT", "a/b\\readme.txt"])
def test_backslashes_separate_folders_too(name: str) -> None:
    assert foreign_reason(name, b"text") is Reason.DOCUMENT_FILE


@given(st.text(max_size=40), st.binary(max_size=300))
def test_any_file_is_told_or_left_to_an_operator(name: str, content: bytes) -> None:
    reason = foreign_reason(name, content)
    assert reason is None or (reason.outcome is Outcome.SKIPPED and reason.value.endswith("_file"))
    assert not is_picture(content) or reason is Reason.IMAGE_FILE
    assert not is_gzip(content) or reason is Reason.ARCHIVE_FILE
