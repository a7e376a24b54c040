"""`plan` from the command line: what it advises about what would not be scored."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli.main import main


def test_a_method_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    """Found: it was called "?"."""
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.dcm", bytes(4096))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 10  # APPNOTE.TXT 4.3.12: the compression method
    content[at : at + 2] = (77).to_bytes(2, "little")
    path.write_bytes(content)
    done = CliRunner().invoke(main, ["plan", str(path), "--json"], env={"CXR_WEIGHTS": "seeded"})
    (ending,) = json.loads(done.stdout)["quarantined"]
    assert ending["advice"] == "compressed with zip method 77: unpack the zip and give the folder"


@pytest.mark.parametrize(
    ("method", "name"),
    [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")],
)
def test_advice_on_a_zip_method_is_about_that_method(tmp_path: Path, method: int, name: str) -> None:
    """Deflate64 has a reader that can be installed; these have none."""
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.dcm", bytes(4096))
        archive.writestr("b.dcm", bytes(4096))
    done = CliRunner().invoke(main, ["plan", str(path), "--json"], env={"CXR_WEIGHTS": "seeded"})
    (ending,) = json.loads(done.stdout)["quarantined"]
    assert (ending["reason"], ending["items"]) == ("unsupported_compression", 2)
    assert ending["advice"] == (
        f"compressed with {name} (zip method {method}): unpack the zip and give the folder"
    )
    environment = {"CXR_WEIGHTS": "seeded", "CXR_LANGUAGE": "pt-BR"}
    said = CliRunner().invoke(main, ["plan", str(path)], env=environment).stdout
    assert f"comprimido com {name} (método de zip {method}): extraia o zip e indique a pasta" in said
