"""A whole run over a hospital's PACS that can't reach Orthanc: its images come by C-GET, its reports go by C-STORE."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.support.hospital import ScriptedHospital, dicom_options, make_known
from tests.support.newer_orthanc import an_orthanc, lacking
from tests.support.servers import free_port
from tests.system.test_modality_runs import image, images_in, run, summary

pytestmark = pytest.mark.slow


def test_a_hospital_is_scored_by_c_get(cli: Cli, tmp_path: Path) -> None:
    if why := lacking("1.12"):
        pytest.skip(why)
    hospital = ScriptedHospital()  # it knows no address of Orthanc
    hospital.start()
    try:
        with an_orthanc("1.12", tmp_path, **dicom_options("STACK", free_port())) as orthanc:
            make_known(orthanc, "hospital", hospital.title, hospital.port)
            for study in range(3):
                hospital.hold(image(study))
            done = run(cli, orthanc, tmp_path / "out", CXR_RETRIEVE_METHOD="get", CXR_CHUNK_SIZE="1")
            assert done.returncode == 0, done.stdout + done.stderr
            assert summary(tmp_path / "out")["reported"] == 3
            assert (hospital.moves, len(set(hospital.gets))) == ([], 3)
            delivered = Counter(str(one.StudyInstanceUID) for one in hospital.stored)
            assert delivered == Counter(f"1.9.{study}" for study in range(3))
            assert images_in(orthanc) == 0
            assert cli("verify", tmp_path / "out", **orthanc.environment).returncode == 0
    finally:
        hospital.stop()
