"""What a PACS holds after a store is the image that was sent: a PACS that transcodes may change its pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backlog.broker.messages import Stage
from backlog.dicom.eligibility import Rules
from backlog.dicom.file import DicomFile
from backlog.dicom.header import screen
from backlog.dicom.parser import parse_file
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from backlog.pacs.base import Keeping, Pacs, StoreResult
from backlog.pacs.folder import FolderPacs
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from tests.support import dicom_images as made
from tests.support.dicom_images import IMPLICIT, JPEG_LOSSLESS_SV1, JPEG_LS, chest, dicom
from tests.support.dicomweb_servers import StrictServer
from tests.support.newer_orthanc import VERSIONS, an_orthanc, lacking
from tests.worker.test_chunk import Shop, shop
from worker.pixels.attributes import declared
from worker.pixels.decode import decode
from worker.reader.same_pixels import PixelComparison
from worker.tasks.image_store import ImageStore

__all__ = ["shop"]

#: Its words use 13 bits, of which Bits Stored declares 12.
DEEP = 2 * chest(64, 64)


@pytest.fixture(scope="module")
def pixels() -> Iterator[PixelComparison]:
    with closing(PixelComparison(Settings())) as comparison:
        yield comparison


class Spy:
    """A PACS that counts what it is asked."""

    def __init__(self, inner: Pacs) -> None:
        self.inner = inner
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name == "expected_id":  # asks nobody
            return found

        def counted(*arguments: Any) -> Any:
            self.asked[name] += 1
            return found(*arguments)

        return counted


def image(number: int, words: Any = None, **attributes: Any) -> bytes:
    return dicom(chest(64, 64) if words is None else words, SOPInstanceUID=f"1.2.3.4.{number}", **attributes)


def stored(pacs: Any, same: Callable[[bytes, bytes], bool], *images: bytes) -> list[StoreResult]:
    """Store images as one chunk's."""
    store = ImageStore(pacs, same)
    files = [DicomFile(one) for one in images]
    return [store.store(file, screen(file.header, Rules())) for file in files]


def refused(pacs: Any, same: Callable[[bytes, bytes], bool], *images: bytes) -> InstanceRejected:
    with pytest.raises(InstanceRejected) as error:
        stored(pacs, same, *images)
    return error.value


def transcoded(content: bytes, bits: int = 12) -> bytes:
    """What an encoder to JPEG-LS makes of an image of `image` that keeps so many bits of each word."""
    file = DicomFile(content)
    words = decode(file.parsed, declared(file.header)).words
    stream = made.jpeg_ls(words & ((1 << bits) - 1), bits)
    view = str(file.header.ViewPosition)
    of = str(file.header.SOPInstanceUID)
    return dicom(
        words, JPEG_LS, stream=stream + b"\0" * (len(stream) % 2), SOPInstanceUID=of, ViewPosition=view
    )


# -- Orthanc -------------------------------------------------------------------------------------------------


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    if why := lacking(request.param):
        pytest.skip(why)
    return str(request.param)


def opened(server: Any) -> Orthanc:
    return Orthanc(server.url, username=server.username, password=server.password)


@pytest.mark.parametrize("view", ["PA", "LL"])
def test_an_image_that_orthanc_wraps_around_is_withdrawn(
    version: str, view: str, tmp_path: Path, pixels: PixelComparison
) -> None:
    """Also one that is not scored: the PACS would keep a damaged image of a patient."""
    deep, flat = image(1, DEEP, ViewPosition=view), image(2)
    with (
        an_orthanc(version, tmp_path, IngestTranscoding=JPEG_LS) as server,
        closing(opened(server)) as pacs,
    ):
        for _ in range(2):
            rejected = refused(pacs, pixels.same, deep)
            assert rejected.reason is Reason.REFUSED
            assert "set its IngestTranscoding to none" in rejected.detail
            assert rejected.detail.endswith("it was deleted")
            assert server.get("/statistics").json()["CountInstances"] == 0
        (kept,) = stored(pacs, pixels.same, flat)
        assert parse_file(pacs.fetch(kept.instance)).transfer_syntax_uid == JPEG_LS


def test_an_image_that_was_wrapped_around_before_is_no_match(
    version: str, tmp_path: Path, pixels: PixelComparison
) -> None:
    """Its worker died before it looked, or another system stored it: it is not ours to delete."""
    deep = image(1, DEEP)
    with (
        an_orthanc(version, tmp_path, IngestTranscoding=JPEG_LS) as server,
        closing(opened(server)) as pacs,
    ):
        assert server.post("/instances", deep).ok
        rejected = refused(pacs, pixels.same, deep)
        assert rejected.reason is Reason.UID_CONFLICT
        assert "IngestTranscoding" in rejected.detail
        assert server.get("/statistics").json()["CountInstances"] == 1


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS_SV1, IMPLICIT])
def test_a_deep_image_may_be_kept_in_another_syntax(
    version: str, syntax: str, tmp_path: Path, pixels: PixelComparison
) -> None:
    deep = image(1, DEEP)
    with (
        an_orthanc(version, tmp_path, IngestTranscoding=syntax) as server,
        closing(opened(server)) as pacs,
    ):
        assert [stored(pacs, pixels.same, deep)[0].already for _ in range(2)] == [False, True]
        (kept,) = stored(pacs, pixels.same, deep)
        assert parse_file(pacs.fetch(kept.instance)).transfer_syntax_uid == syntax


def test_an_orthanc_that_keeps_syntaxes_is_asked_little(version: str, tmp_path: Path) -> None:
    """Orthanc 1.10 doesn't tell what it makes of images, and is asked about each one."""
    with an_orthanc(version, tmp_path) as server, closing(opened(server)) as pacs:
        spy = Spy(pacs)
        stored(spy, decoded_for_nothing, *(image(number, DEEP) for number in range(3)))
        told = {"transfer_syntax": 3} if version == "installed" else {}
        assert spy.asked == {"store": 3, "keeping": 1} | told
        spy.asked.clear()
        stored(spy, decoded_for_nothing, *(image(number, DEEP) for number in range(3)))
        assert spy.asked == {"store": 3, "fetch": 3}


def decoded_for_nothing(ours: bytes, held: bytes) -> bool:
    raise AssertionError


# -- other PACSs ---------------------------------------------------------------------------------------------


def test_a_folder_is_asked_nothing_more(tmp_path: Path) -> None:
    spy = Spy(FolderPacs(tmp_path / "pacs"))
    stored(spy, decoded_for_nothing, image(1, DEEP), image(2))
    assert spy.asked == {"store": 2, "keeping": 1}


@pytest.mark.parametrize("deletes", [True, False])
def test_a_dicomweb_server_that_wraps_is_found_out(deletes: bool, pixels: PixelComparison) -> None:
    with StrictServer(coerce=transcoded, deletes=deletes) as server, closing(server.client()) as pacs:
        rejected = refused(pacs, pixels.same, image(1), image(2, DEEP))
        assert rejected.reason is Reason.REFUSED
        assert rejected.detail.endswith("it was deleted") is deletes
        held = [name.rpartition("/")[2] for name in server.instances]
        assert held == ["1.2.3.4.1"] if deletes else ["1.2.3.4.1", "1.2.3.4.2"]
        assert refused(pacs, pixels.same, image(2, DEEP)).reason is (
            Reason.REFUSED if deletes else Reason.UID_CONFLICT
        )


def test_of_a_dicomweb_server_one_image_of_each_kind_is_read() -> None:
    with StrictServer() as server, closing(server.client()) as pacs:
        spy = Spy(pacs)
        more = [image(number, BitsStored=13) for number in (8, 9)]
        stored(spy, decoded_for_nothing, *(image(number) for number in range(4)), *more)
        assert spy.asked == {"store": 6, "keeping": 1, "transfer_syntax": 2}


def test_once_a_dicomweb_server_transcoded_every_image_is_read(pixels: PixelComparison) -> None:
    """It may choose by what no header says: the first image of a kind was left alone."""

    def sometimes(content: bytes) -> bytes:
        return content if b"1.2.3.4.7" in content else transcoded(content)

    with StrictServer(coerce=sometimes) as server, closing(server.client()) as pacs:
        spy = Spy(pacs)
        cr = image(8, SOPClassUID="1.2.840.10008.5.1.4.1.1.1", Modality="CR")
        assert refused(spy, pixels.same, image(7), cr, image(9, DEEP)).reason is Reason.REFUSED
        assert spy.asked["transfer_syntax"] == 3


def test_an_instance_that_is_listed_and_not_given_is_waited_for() -> None:
    """A server may take a moment for what it was just sent."""
    with StrictServer() as server, closing(server.client()) as pacs:
        (kept,) = stored(pacs, decoded_for_nothing, image(1))
        server.override = lambda method, path: (
            (404, b"", {}) if path.endswith("/instances/1.2.3.4.1") else None
        )
        with pytest.raises(ServiceUnavailable, match="does not give it"):
            pacs.transfer_syntax(kept.instance)


# -- where nothing can be compared ---------------------------------------------------------------------------


class Transcoding:
    """A folder that keeps what it is sent as an encoder left it."""

    def __init__(self, inner: Any, bits: int = 12) -> None:
        self.inner = inner
        self.bits = bits

    def keeping(self) -> Keeping:
        return Keeping.ASK

    def store(self, content: bytes, of: Any = None) -> Any:
        is_image = parse_file(content).has_pixels
        return self.inner.store(transcoded(content, self.bits) if is_image else content, of)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("view", ["PA", "LL"])
def test_what_cannot_be_compared_ends_where_it_is_scored(view: str, tmp_path: Path) -> None:
    def crashes(ours: bytes, held: bytes) -> bool:
        raise InstanceRejected(Reason.DECODER_CRASHED, "twice")

    pacs = Transcoding(FolderPacs(tmp_path))
    if view == "PA":
        assert refused(pacs, crashes, image(1)).reason is Reason.DECODER_CRASHED
    else:
        assert not stored(pacs, crashes, image(1, ViewPosition=view))[0].already


def test_a_worker_without_decoders_accepts_nothing_unseen(tmp_path: Path) -> None:
    def missing(ours: bytes, held: bytes) -> bool:
        raise UsageError("install cxr-backlog[codecs]")

    with pytest.raises(UsageError, match="codecs"):
        stored(Transcoding(FolderPacs(tmp_path)), missing, image(1))


def test_a_run_ends_a_wrapped_image_without_a_score(shop: Shop, pixels: PixelComparison) -> None:
    shop.process.__dict__.update(pacs=Transcoding(shop.process.pacs), _pixel_comparison=pixels)
    shop.submit({"deep": image(1, DEEP), "flat": image(2)})
    shop.do_all()
    deep, flat = shop.records().values()
    assert (deep["outcome"], deep["reason"], deep["stage"]) == ("quarantined", "refused", Stage.UPLOAD.value)
    assert flat["outcome"] == "reported"
    assert len(shop.files()) == 2, "the flat image and its report"
