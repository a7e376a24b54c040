"""A header is parsed once by each task that asks anything of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backlog.broker.messages import Stage
from backlog.dicom.eligibility import Rules
from backlog.dicom.file import DicomFile
from backlog.errors import InstanceRejected
from tests.support import parse_spy
from tests.support.dicom_images import chest, dicom
from tests.worker.test_chunk import BODIES, Shop, images, shop
from worker.reader.pool import Readers

__all__ = ["shop"]

_READER = """
from pathlib import Path
from tests.support import parse_spy
parse_spy.install(Path({log!r}), setattr)
from worker.reader.server import main
main()
"""


@pytest.mark.parametrize("derived", [[], ["pdf"]], ids=["reports", "reports and PDFs"])
def test_each_task_parses_a_header_once(
    shop: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    derived: list[str],
) -> None:
    if derived:
        pytest.importorskip("reportlab")
    log = tmp_path / "parsed"
    parse_spy.install(log, monkeypatch.setattr)
    command = (sys.executable, "-c", _READER.format(log=str(log)))
    shop.process.__dict__["_readers"] = Readers(shop.settings, Rules(), 1, command)
    large = dicom(chest(600, 600), SOPInstanceUID="1.2.3.9")  # whose header is not the whole of what is read
    shop.submit(images(2) | {"large": large})
    for stage in BODIES:
        for job, chunk, items in shop.take(stage):
            log.write_text("")
            shop.do(stage, ({**job, "derived_objects": derived}, chunk, items))
            extra = 3 * len(derived) if stage is Stage.REPORT else 0
            counts = parse_spy.counted(log)
            assert counts == {"walk": [1] * (3 + extra), "read": [1] * (3 + extra)}, stage
    assert [record["outcome"] for record in shop.records().values()] == ["reported"] * 3


def test_a_file_is_parsed_when_it_is_asked_about_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "parsed"
    parse_spy.install(log, monkeypatch.setattr)
    log.write_text("")
    file = DicomFile(dicom(chest(64, 64)))
    assert parse_spy.counted(log) == {"walk": [], "read": []}
    for _ in range(2):
        assert file.identity.sop_instance_uid == "1.2.3.4.5"
        assert file.parsed.has_pixels
        assert "Rows" in file.header
    assert parse_spy.counted(log) == {"walk": [1], "read": [1]}


@pytest.mark.parametrize("content", [b"", b"no DICOM", bytes(200)])
def test_what_is_no_dicom_file_says_so_each_time(content: bytes) -> None:
    file = DicomFile(content)
    for _ in range(2):
        with pytest.raises(InstanceRejected, match="DICM"):
            _ = file.identity
