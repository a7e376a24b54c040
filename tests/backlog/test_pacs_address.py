"""Which PACS an address means: none is taken for a folder because it was written carelessly."""

from __future__ import annotations

from pathlib import Path

import pytest

from backlog.errors import UsageError
from backlog.pacs.connect import connect
from backlog.pacs.folder import FolderPacs
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.doctor.examine import examine


@pytest.mark.parametrize("url", ["http://h:1", "HTTP://h:1", "Https://h/orthanc"])
def test_the_case_of_a_scheme_says_nothing(url: str) -> None:
    pacs = connect(Settings(), url)
    assert isinstance(pacs, Orthanc)
    assert pacs.url == url.replace("HTTP", "http").replace("Https", "https")
    pacs.close()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8042",
        "orthanc:80/dicom",
        "[::1]:8042",
        "me:hush@h:8042",
        "ftp://h",
        "file:///data",
        "tls://h:1",
    ],
)
def test_what_looks_like_an_address_is_no_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for written in (url, str(Path(url).absolute())):  # as the user wrote it, and as a ledger keeps it
        with pytest.raises(UsageError, match="CXR_PACS_URL") as error:
            connect(Settings(), written)
        assert "hush" not in str(error.value)
    finding = next(one for one in examine(Settings(pacs_url=url), tmp_path) if one.what == "pacs")
    assert (finding.state, "http(s)://" in finding.text) == ("BAD", True)
    assert not list(tmp_path.iterdir())


def test_a_folder_may_be_called_what_it_likes_once_it_is_there(tmp_path: Path) -> None:
    for name in ("scans", "2024-01-01", "a b: c", "12h"):
        assert isinstance(connect(Settings(), str(tmp_path / name)), FolderPacs)
    (tmp_path / "ward:12").mkdir()
    for folder in (tmp_path / "ward:12", tmp_path / "ward:12" / "pacs"):
        assert isinstance(connect(Settings(), str(folder)), FolderPacs)
