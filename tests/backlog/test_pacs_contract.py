"""What every PACS does alike, whatever it is: a folder, Orthanc, DICOMweb servers of three makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backlog.dicom.header import identity, read_header
from backlog.dicom.parser import parse_file
from backlog.errors import DeletionUnsupported, InstanceRejected, UsageError
from backlog.outcomes import Reason
from backlog.pacs.base import Keeping, Pacs
from backlog.pacs.connect import connect
from backlog.pacs.dicomweb import Dicomweb
from backlog.pacs.folder import FolderPacs
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from tests.support.dicom_images import EXPLICIT, IMPLICIT, chest, dicom
from tests.support.dicomweb_servers import StrictServer, address, orthanc_dicomweb, tiny_pacs
from tests.support.servers import OrthancServer

#: Opens the same PACS again, as another process does.
Opener = Callable[[], Pacs]

MAKES = ("folder", "Orthanc", "orthanc-dicomweb", "tiny-pacs", "strict DICOMweb")

#: They delete nothing by DICOMweb.
WITHOUT_DELETION = ("orthanc-dicomweb", "tiny-pacs")


@pytest.fixture(scope="module", params=MAKES)
def make(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def opener(
    make: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opener]:
    folder = tmp_path_factory.mktemp("pacs")
    with _opener(make, request, folder) as found:
        yield found


@contextmanager
def _opener(make: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Opener]:
    if make == "folder":
        yield lambda: FolderPacs(folder / "pacs")
    elif make == "Orthanc":
        rest: OrthancServer = request.getfixturevalue("orthanc_server")
        yield lambda: Orthanc(rest.url, username=rest.username, password=rest.password)
    elif make == "orthanc-dicomweb":
        with orthanc_dicomweb(folder) as server:
            yield lambda: Dicomweb(address(server), username=server.username, password=server.password)
    elif make == "tiny-pacs":
        token = folder / "token"
        token.write_text("sesame\n")
        with tiny_pacs(folder, "sesame") as url:
            yield lambda: Dicomweb(url, token_file=str(token))
    else:
        with StrictServer() as strict:
            yield strict.client


@pytest.fixture
def pacs(opener: Opener) -> Iterator[Pacs]:
    client = opener()
    yield client
    client.close()


_counter = iter(range(1, 1000))


def new_image(**attributes: Any) -> bytes:
    number = next(_counter)
    return dicom(chest(64, 64), **uids(number), **attributes)


def uids(number: int) -> dict[str, Any]:
    levels = {"StudyInstanceUID": 76, "SeriesInstanceUID": 77, "SOPInstanceUID": 78}
    return {keyword: f"1.2.{level}.{number}" for keyword, level in levels.items()}


def number_of(image: bytes) -> int:
    return int(identity(read_header(image)).sop_instance_uid.rpartition(".")[2])


def test_what_is_stored_is_fetched_as_it_was(pacs: Pacs) -> None:
    image = new_image()
    stored = pacs.store(image)
    assert not stored.already
    assert stored.instance == pacs.expected_id(identity(read_header(image)))
    assert pacs.fetch(stored.instance) == image
    assert image.startswith(pacs.header(stored.instance).content)


def test_the_transfer_syntax_of_what_is_held_is_told(pacs: Pacs) -> None:
    assert pacs.keeping() in Keeping
    for syntax in (EXPLICIT, IMPLICIT):
        stored = pacs.store(dicom(chest(64, 64), syntax, **uids(next(_counter))))
        assert (
            pacs.transfer_syntax(stored.instance)
            == parse_file(pacs.fetch(stored.instance)).transfer_syntax_uid
        )


def test_storing_again_changes_nothing(pacs: Pacs) -> None:
    image = new_image()
    first = pacs.store(image)
    changed = dicom(chest(64, 64)[::-1], **uids(number_of(image)))
    again = pacs.store(changed)
    assert again.already
    assert (again.instance, again.study) == (first.instance, first.study)
    assert pacs.fetch(first.instance) == image


def test_the_header_of_a_large_image_is_enough(pacs: Pacs) -> None:
    large = dicom(chest(2048, 1024), **uids(next(_counter)))
    stored = pacs.store(large)
    assert pacs.fetch(stored.instance) == large
    header = pacs.header(stored.instance)
    assert large.startswith(header.content)
    assert header.identity == identity(read_header(large))


def test_an_instance_is_known_and_counted(pacs: Pacs) -> None:
    image = new_image()
    of = identity(read_header(image))
    assert not pacs.contains(of)
    stored = pacs.store(image)
    assert pacs.contains(of)
    assert pacs.count_instances(of.sop_instance_uid, stored.instance) == 1
    assert pacs.studies_of([stored.instance]) == {stored.instance: stored.study}
    assert pacs.study_of(stored.instance, of) == stored.study
    found = pacs.find([of.sop_instance_uid, "1.2.3.9999"])
    assert found in (None, {of.sop_instance_uid: [stored.instance]})


@pytest.mark.parametrize("patient", ["PÄ7", "Д7"])
def test_a_patient_id_beyond_ascii_leads_to_one_study(pacs: Pacs, patient: str) -> None:
    image = new_image(PatientID=patient, SpecificCharacterSet="ISO_IR 192")
    of = identity(read_header(image))
    stored = pacs.store(image)
    assert stored.study == pacs.study_of(stored.instance, of) != ""


def test_what_is_gone_is_not_in_the_pacs(pacs: Pacs) -> None:
    of = identity(read_header(new_image()))
    for read in (pacs.fetch, pacs.header):
        with pytest.raises(InstanceRejected) as caught:
            read(pacs.expected_id(of))
        assert caught.value.reason is Reason.NOT_IN_PACS
    assert pacs.count_instances(of.sop_instance_uid, pacs.expected_id(of)) == 0


def test_many_are_fetched_in_order_without_those_gone(pacs: Pacs) -> None:
    images = [new_image(), new_image()]
    first, last = (pacs.store(image).instance for image in images)
    gone = pacs.expected_id(identity(read_header(new_image())))
    assert pacs.fetch_many([first, gone, last]) == [images[0], None, images[1]]


@pytest.mark.parametrize("instance", ["../../etc/passwd", "1.2/3.4", "1.2/3.4/5.6?x=1", "", "a/b/c"])
def test_an_identifier_of_another_form_is_never_asked_for(pacs: Pacs, instance: str) -> None:
    with pytest.raises(InstanceRejected) as caught:
        pacs.fetch(instance)
    assert caught.value.reason is Reason.NOT_IN_PACS


def test_what_is_no_dicom_is_to_blame_itself(pacs: Pacs) -> None:
    with pytest.raises(InstanceRejected) as caught:
        pacs.store(b"this is no DICOM file")
    assert caught.value.reason is Reason.NOT_DICOM


def test_two_clients_name_a_pacs_alike(pacs: Pacs, opener: Opener) -> None:
    other = opener()
    assert other.identity() == pacs.identity()
    other.close()


def test_an_instance_is_deleted_or_the_pacs_says_it_deletes_none(pacs: Pacs, make: str) -> None:
    image = new_image()
    stored = pacs.store(image)
    if make in WITHOUT_DELETION:
        with pytest.raises(DeletionUnsupported, match="deletes nothing"):
            pacs.delete(stored.instance)
        assert pacs.fetch(stored.instance) == image
        return
    assert pacs.delete(stored.instance)
    assert not pacs.delete(stored.instance)
    pacs.delete_many([stored.instance])
    assert not pacs.contains(identity(read_header(image)))


def test_settings_lead_to_dicomweb(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame")
    with StrictServer(token="sesame") as server:
        image = new_image()
        client = connect(
            Settings(pacs_url=server.url.upper().replace("/RS", "/rs"), pacs_token_file=str(token))
        )
        assert client.fetch(client.store(image).instance) == image
        client.close()
        with pytest.raises(UsageError, match="CXR_PACS_TOKEN_FILE"):
            connect(Settings(pacs_url=server.url)).identity()
