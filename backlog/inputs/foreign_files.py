"""Files that lie beside the radiographs of an archive and are none: told by their content, and by their name.

A README, a licence, a table of labels, a preview, a zip or a program is skipped for a reason that says what it is. A
file that calls itself one of these and holds something else isn't: it may be a damaged radiograph, which an operator
looks at. Nor is an empty file, or one of unknown bytes, whose name could be an image's.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

from backlog.outcomes import Reason

_PICTURES: Final = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF, of either byte order
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
)
_ARCHIVES: Final = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",  # gzip
    b"BZh",
    b"\xfd7zXZ\0",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x28\xb5\x2f\xfd",  # Zstandard
)
#: Formats of documents that are zips inside.
_ZIPPED_DOCUMENTS: Final = frozenset({".xlsx", ".docx", ".pptx", ".ods", ".odt", ".odp", ".epub"})
_BINARY_DOCUMENTS: Final = {
    b"%PDF-": frozenset({".pdf"}),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": frozenset({".doc", ".xls", ".ppt", ".msg", ".db"}),
    b"SQLite format 3\0": frozenset({".sqlite", ".db", ".sqlite3"}),
    b"PAR1": frozenset({".parquet"}),
    b"{\\rtf": frozenset({".rtf"}),
}
#: What else lies beside images: (where its first bytes stand, these, what it is called).
_OTHERS: Final = tuple(
    (at, magic, frozenset(names.split()))
    for at, magic, names in (
        (0, b"MZ", ".exe .dll .ocx .sys .cpl .scr"),  # the viewer on a patient's disc, and what belongs to it
        (0, b"ITSF", ".chm"),
        (0, b"MSCF", ".cab"),
        (0, b"L\0\0\0\x01\x14\x02\0", ".lnk"),
        (0, b"\x7fELF", ".so .bin .run .elf"),
        (0, b"\xca\xfe\xba\xbe", ".class .dylib"),
        (0, b"\0\0\1\0", ".ico"),
        (0, b"8BPS", ".psd"),
        (0, b"wOFF", ".woff"),
        (0, b"wOF2", ".woff2"),
        (0, b"\0\1\0\0", ".ttf"),
        (0, b"OTTO", ".otf"),
        (0, b"RIFF", ".wav .avi .webp"),
        (4, b"ftyp", ".mp4 .m4v .mov .heic .avif"),
        (0, b"\x1aE\xdf\xa3", ".mkv .webm"),
        (0, b"\0\0\1\xba", ".mpg .mpeg .vob"),
        (0, b"ID3", ".mp3"),
        (0, b"OggS", ".ogg .oga .ogv"),
        (0, b"\x93NUMPY", ".npy"),
        (0, b"\x89HDF\r\n\x1a\n", ".h5 .hdf5 .mat .keras .nc"),
        (0, b"MATLAB 5.0 MAT-file", ".mat"),
        (0, b"\x80", ".pkl .pickle .pt .pth"),  # Python's pickle, protocol 2 and later
        (0, b"ARROW1", ".feather .arrow"),
        (0, b"NRRD000", ".nrrd"),
        (344, b"n+1\0", ".nii"),
    )
)
#: Names of empty files that only mark something.
_MARKERS: Final = frozenset({"_SUCCESS", "_STARTED", "_COMMITTED"})
_TEXT_SUFFIXES: Final = frozenset(
    """
    .txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .html .htm .css .js .log .ini .inf .cfg .toml .bib .tex
    .py .r .ipynb .sh .bat .sql .md5 .sha1 .sha256 .sha512 .sfv .url .sum .xsl .xsd .dtd .conf .properties .ps1 .lock
    """.split()
)
#: Suffixes, besides those of texts, that no image has, so that an empty file may have them.
_FOREIGN_SUFFIXES: Final = (
    frozenset(_ZIPPED_DOCUMENTS).union(
        *_BINARY_DOCUMENTS.values(),
        *(names for _, _, names in _OTHERS),
    )
    - {".bin"}
    - _TEXT_SUFFIXES
)
_TEXT_NAMES: Final = re.compile(
    r"(READ[-_ .]?ME|LEIA[-_ .]?ME|LICEN[CS]E|LICENCA|COPYING|NOTICE|CHANGES|CHANGELOG|CITATION|AUTHORS|CONTENTS|INDEX|"
    r"VERSION|RECORDS|(MD5|SHA1|SHA256|SHA512)?SUMS?|CHECKSUMS?|MANIFEST|AUTORUN)([-_ .].*)?",
    re.IGNORECASE,
)
#: How much of a file tells whether it is text.
_HEAD: Final = 4096
_TAR: Final = (257, b"ustar")  # POSIX.1-1988
_DICM: Final = (128, b"DICM")  # PS3.10 7.1


def is_picture(content: bytes | memoryview) -> bool:
    """Whether a file is a PNG or JPEG, by its first bytes."""
    return bytes(content[:8]).startswith(_PICTURES[:2])


def is_gzip(content: bytes | memoryview) -> bool:
    """Whether a file is compressed by gzip, by its first bytes."""
    return bytes(content[:3]) == b"\x1f\x8b\x08"


def foreign_reason(name: str, content: bytes | memoryview) -> Reason | None:
    """Return why a file that is no DICOM file is skipped, or None where nothing tells that it is rightly none.

    Parameters
    ----------
    name
        Its path, of which the last part counts.
    content
        The file, or some kilobytes of its beginning.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    suffix, head = path.suffix.lower(), bytes(content[:_HEAD])
    if head[_DICM[0] :].startswith(_DICM[1]):
        return None
    if head.startswith(_PICTURES) or (suffix == ".bmp" and head.startswith(b"BM")):
        return Reason.IMAGE_FILE
    if suffix in _ZIPPED_DOCUMENTS and head.startswith(_ARCHIVES[0]):
        return Reason.DOCUMENT_FILE
    if head.startswith(_ARCHIVES) or head[_TAR[0] :].startswith(_TAR[1]):
        return Reason.ARCHIVE_FILE
    if any(head.startswith(magic) and suffix in suffixes for magic, suffixes in _BINARY_DOCUMENTS.items()):
        return Reason.DOCUMENT_FILE
    hidden = path.name.startswith(".")
    if not head and (hidden or path.name in _MARKERS or suffix in _FOREIGN_SUFFIXES):
        return Reason.OTHER_FILE
    if (hidden or suffix in _TEXT_SUFFIXES or _TEXT_NAMES.fullmatch(path.name)) and _is_text(head):
        return Reason.DOCUMENT_FILE
    if any(suffix in names and head[at:].startswith(magic) for at, magic, names in _OTHERS):
        return Reason.OTHER_FILE
    return None


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True  # UTF-16, as Windows writes it
    return not any(sign < 9 or 13 < sign < 27 for sign in head)
