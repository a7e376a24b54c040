"""Images by C-GET: over the association that Orthanc opens, for a PACS that can't reach Orthanc."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from celery.exceptions import Reject
from pydicom import dcmread

from backlog.errors import ModalityFailed, UsageError
from backlog.pacs.brought_in import evict
from backlog.settings import Settings
from producer.run.delivery import Delivery
from producer.sources.open import Selection, make_source
from tests.support.dicom_images import (
    EXPLICIT,
    JPEG_2000_LOSSLESS,
    JPEG_LS,
    chest,
    dicom,
    jpeg_2000,
    jpeg_ls,
)
from tests.support.hospital import ScriptedHospital, dicom_options, make_known
from tests.support.newer_orthanc import an_orthanc, lacking
from tests.support.servers import OrthancServer, free_port
from tests.worker.test_retrieve import Ward, image

WORDS = chest(64, 64)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    """An Orthanc that asks by C-GET. Nothing reaches its DICOM port under the address that peers know."""
    if why := lacking("1.12"):
        pytest.skip(why)
    with an_orthanc(
        "1.12", tmp_path_factory.mktemp("newer"), **dicom_options("STACK", free_port())
    ) as server:
        yield server


@pytest.fixture
def ward(redis_url: str, newer: OrthancServer) -> Iterator[Ward]:
    newer.clear()
    hospital = ScriptedHospital()  # it knows no address for C-MOVE
    hospital.start()
    make_known(newer, "hospital", hospital.title, hospital.port)
    for uid in "123":
        hospital.hold(image(uid))
    made = Ward(settings(newer, redis_url), hospital, newer)
    yield made
    hospital.stop()
    made.claims.broker.close()
    made.app.close()


def settings(server: OrthancServer, redis_url: str = "") -> Settings:
    return Settings(
        redis_url=redis_url,
        pacs_url=server.url,
        pacs_username=server.username,
        pacs_password=server.password,
        pacs_seconds=5.0,
        lease_seconds=60.0,  # longer than a busy machine pauses a test
        retrieve_method="get",
    )


def test_images_come_by_c_get_and_leave_again(ward: Ward) -> None:
    ward.do(ward.submit(["1", "2"]))
    assert [item["instance"] for item in ward.following()] == [*ward.held("1"), *ward.held("2")]
    assert (ward.hospital.moves, sorted(ward.hospital.gets)) == ([], ["1.9.1.1.0", "1.9.2.1.0"])
    assert evict(ward.modality.orthanc, ward.held("1")[0], "run1", ward.claims.broker.exclusive)
    assert ward.held("1") == []


def test_an_image_that_c_get_fails_on_costs_no_other(ward: Ward) -> None:
    ward.hospital.refuses_move = lambda uid: uid == "1.9.2.1.0"
    ward.do(ward.submit(["1", "2", "3"]))
    assert [item["i"] for item in ward.following()] == [0, 2]
    assert ward.records()[1]["reason"] == "not_retrieved"


@pytest.fixture(scope="module")
def other_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    server = OrthancServer(tmp_path_factory.mktemp("peer"), options=dicom_options("OTHER", free_port()))
    server.options["UnknownSopClassAccepted"] = True
    server.start()
    yield server
    server.stop()


def kept_by(other: OrthancServer, ward: Ward, syntax: str) -> None:
    """Have the second Orthanc hold an image, and be the hospital."""
    encode = {JPEG_2000_LOSSLESS: jpeg_2000, JPEG_LS: jpeg_ls}.get(syntax)
    stream = encode(WORDS, 12) if encode else None
    uids = {"StudyInstanceUID": "1.9.4", "SeriesInstanceUID": "1.9.4.1", "SOPInstanceUID": "1.9.4.1.0"}
    make_known(ward.orthanc, "hospital", "OTHER", int(str(other.options["DicomPort"])))
    make_known(other, "stack", "STACK", free_port())  # an address where nobody listens
    other.clear()
    assert other.post("/instances", dicom(WORDS, syntax, stream=stream, **uids)).ok


@pytest.mark.parametrize("syntax", [EXPLICIT, JPEG_LS])
def test_a_second_orthanc_gives_its_pixels(ward: Ward, other_orthanc: OrthancServer, syntax: str) -> None:
    """Orthanc 1.12 offers no compressed transfer: what is compressed the peer has to decompress."""
    kept_by(other_orthanc, ward, syntax)
    ward.do(ward.submit(["4"]))
    (item,) = ward.following()
    held = dcmread(BytesIO(ward.orthanc.get(f"/instances/{item['instance']}/file").content))
    assert np.array_equal(held.pixel_array, WORDS)


def test_what_the_peer_can_not_decompress_is_not_sent(ward: Ward, other_orthanc: OrthancServer) -> None:
    kept_by(other_orthanc, ward, JPEG_2000_LOSSLESS)
    with pytest.raises(ModalityFailed):
        ward.modality.retrieve("1.9.4", "1.9.4.1", "1.9.4.1.0")


def test_an_orthanc_too_old_for_c_get_is_refused(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, tmp_path: Path
) -> None:
    """Before a run begins."""
    if dicom_orthanc.get("/system").json()["Version"] >= "1.12.6":
        pytest.skip("the Orthanc that is installed is new enough")
    ours = settings(dicom_orthanc)
    source = make_source("modality:hospital", ours, dicom_orthanc.url, tmp_path / "listing", Selection())
    with pytest.raises(UsageError, match=r"1\.12\.6 is the first"):
        Delivery().check(ours, dicom_orthanc.url, source)


def test_a_worker_beside_an_old_orthanc_ends_no_image(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, redis_url: str
) -> None:
    if dicom_orthanc.get("/system").json()["Version"] >= "1.12.6":
        pytest.skip("the Orthanc that is installed is new enough")
    hospital.hold(image("1"))
    made = Ward(settings(dicom_orthanc, redis_url), hospital, dicom_orthanc)
    with pytest.raises(Reject):
        made.do(made.submit(["1"]))
    assert made.records() == {}
    assert "1.12.6 is the first" in made.claims.waiting_reason("run1")
    made.claims.broker.close()
    made.app.close()
