"""Orthanc over REST: a real one, and a local HTTP server that misbehaves in every way a network has."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backlog.dicom.eligibility import Rules
from backlog.dicom.file import DicomFile
from backlog.dicom.header import identity, read_header, screen
from backlog.dicom.parser import parse_file
from backlog.errors import InstanceRejected, ServiceUnavailable, StorageFull, UsageError
from backlog.outcomes import Reason
from backlog.pacs.base import StoreResult
from backlog.pacs.orthanc import Orthanc
from backlog.pacs.orthanc_find import Level
from backlog.settings import Settings
from tests.support.dicom_images import chest, dicom
from tests.support.newer_orthanc import VERSIONS, an_orthanc, lacking
from tests.support.servers import OrthancServer, free_port
from worker.reader.same_pixels import PixelComparison
from worker.tasks.image_store import ImageStore, SamePixels
from worker.tasks.report import only_one
from worker.tasks.withdraw import withdraw

IMAGE = dicom(chest(64, 64))
LARGE = dicom(chest(1024, 1024), SOPInstanceUID="1.2.3.4.6")
#: No instance has it: a well-formed identifier of Orthanc's.
NOBODY = "-".join(["0123abcd"] * 5)


def opened(server: OrthancServer, **more: object) -> Orthanc:
    return Orthanc(server.url, username=server.username, password=server.password, **more)  # type: ignore[arg-type]


@pytest.fixture
def pacs(orthanc: OrthancServer) -> Iterator[Orthanc]:
    client = opened(orthanc)
    yield client
    client.close()


def reason_of(call: Callable[[], object]) -> Reason:
    with pytest.raises(InstanceRejected) as error:
        call()
    return error.value.reason


# -- a real Orthanc ------------------------------------------------------------------------------------------


def test_what_is_stored_is_fetched_as_it_was(pacs: Orthanc) -> None:
    stored = pacs.store(IMAGE)
    assert not stored.already
    assert pacs.fetch(stored.instance) == IMAGE


def test_storing_again_changes_nothing(pacs: Orthanc, orthanc: OrthancServer) -> None:
    first = pacs.store(IMAGE)
    again = pacs.store(dicom(chest(64, 64)[::-1]))  # other pixels under the same UID
    assert again.already
    assert again.instance == first.instance
    assert pacs.fetch(first.instance) == IMAGE
    assert orthanc.get("/statistics").json()["CountInstances"] == 1


@pytest.mark.parametrize(
    "odd",
    [
        b"\x09\x00\x01\x10SQ\0\0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0",
        b"\x09\x00\x01\x10OX\x04\0ABCD",
    ],
    ids=["a delimiter of nothing", "an unknown VR"],
)
def test_readable_dicom_that_orthanc_refuses_is_refused(
    odd: bytes, pacs: Orthanc, orthanc: OrthancServer
) -> None:
    at = IMAGE.index(b"\x10\x00\x20\x00LO")
    assert reason_of(lambda: pacs.store(IMAGE[:at] + odd + IMAGE[at:])) is Reason.REFUSED
    assert orthanc.get("/statistics").json()["CountInstances"] == 0


def test_what_is_no_dicom_is_to_blame_itself(pacs: Orthanc, orthanc: OrthancServer) -> None:
    assert reason_of(lambda: pacs.store(b"x" * 5000)) is Reason.NOT_DICOM
    assert reason_of(lambda: pacs.store(b"")) is Reason.NOT_DICOM
    without_uids = dicom(chest(64, 64), SOPInstanceUID=None, StudyInstanceUID=None)
    assert reason_of(lambda: pacs.store(without_uids)) in (Reason.INVALID_UID, Reason.NOT_DICOM)
    assert orthanc.get("/statistics").json()["CountInstances"] == 0


def test_an_instance_that_is_gone_is_told_apart(pacs: Orthanc) -> None:
    instance = pacs.store(IMAGE).instance
    assert pacs.delete(instance)
    assert not pacs.delete(instance)
    for call in (pacs.fetch, pacs.header):
        assert reason_of(lambda call=call: call(instance)) is Reason.NOT_IN_PACS  # type: ignore[misc]


@pytest.mark.parametrize(
    "instance", ["", "..", "../system", "1", NOBODY + "\n", NOBODY + "/x", NOBODY.upper()]
)
def test_an_identifier_of_another_form_is_never_asked_for(pacs: Orthanc, instance: str) -> None:
    for call in (pacs.fetch, pacs.header, pacs.delete):
        try:
            assert call(instance) is False
        except InstanceRejected as error:
            assert error.reason is Reason.NOT_IN_PACS


def test_the_header_of_a_small_and_of_a_large_file_is_enough(pacs: Orthanc) -> None:
    for image in (IMAGE, LARGE):
        header = pacs.header(pacs.store(image).instance)
        assert image.startswith(header.content)
        assert header.identity == identity(read_header(image))
    assert len(header.content) < 1 << 18
    assert pacs.fetch(pacs.store(LARGE).instance) == LARGE  # the connection is still good


def test_holders_are_counted_in_every_study(pacs: Orthanc) -> None:
    assert pacs.count_instances("1.2.3.4.5", "") == 0
    instance = pacs.store(IMAGE).instance
    assert pacs.count_instances("1.2.3.4.5", instance) == 1
    pacs.store(dicom(chest(64, 64), StudyInstanceUID="1.2.99"))
    assert pacs.count_instances("1.2.3.4.5", instance) == 2
    assert pacs.count_instances("1.2.3.4", instance) == 0  # that is its study's


def test_series_come_in_pages_and_by_query(pacs: Orthanc) -> None:
    for i in range(5):
        modality = "CR" if i % 2 else "DX"
        pacs.store(
            dicom(chest(32, 32), SOPInstanceUID=f"1.2.{i}", SeriesInstanceUID=f"1.9.{i}", Modality=modality)
        )
    every = pacs.series_ids(0, 100, {})
    assert len(every) == 5
    assert pacs.series_ids(0, 2, {}) + pacs.series_ids(2, 2, {}) + pacs.series_ids(4, 2, {}) == every
    found = pacs.series_ids(0, 100, {"Modality": "CR"})
    assert len(found) == 2
    assert pacs.series_ids(0, 1, {"Modality": "CR"}) + pacs.series_ids(1, 1, {"Modality": "CR"}) == found
    assert pacs.series_ids(0, 100, {"Modality": "MG"}) == []


def test_many_series_are_told_of_in_one_answer(pacs: Orthanc, orthanc: OrthancServer) -> None:
    for i in range(5):
        pacs.store(dicom(chest(32, 32), SOPInstanceUID=f"1.2.{i}", SeriesInstanceUID=f"1.9.{i}"))
    ids = pacs.series_ids(0, 100, {})
    by_offset = {one["ID"]: one for one in orthanc.get("/series?expand").json()}
    told = pacs.series([*ids[:2], NOBODY, *ids[2:]])
    # Some versions tell more of what is asked for by its id.
    assert [by_offset[one].items() <= dict(found).items() for one, found in zip(ids, told, strict=True)] == [
        True
    ] * 5
    assert pacs.series([]) == []


def test_files_are_read_from_the_storage_folder_where_it_is(orthanc: OrthancServer, pacs: Orthanc) -> None:
    for image in (IMAGE, LARGE):
        pacs.store(image)
    instance = pacs.store(LARGE).instance
    beside = opened(orthanc, storage=orthanc.storage)
    assert beside.fetch(instance) == LARGE
    assert LARGE.startswith(beside.header(instance).content)
    (file,) = (
        path for path in orthanc.storage.rglob("*") if path.is_file() and path.stat().st_size == len(LARGE)
    )
    with file.open("r+b") as changed:
        changed.seek(len(LARGE) - 4)
        changed.write(b"MARK")  # shows who was asked
    assert beside.fetch(instance).endswith(b"MARK")
    beside.close()


def test_without_the_storage_folder_rest_is_asked(
    orthanc: OrthancServer, pacs: Orthanc, tmp_path: Path
) -> None:
    instance = pacs.store(LARGE).instance
    elsewhere = opened(orthanc, storage=tmp_path / "not mounted")
    assert elsewhere.fetch(instance) == LARGE
    assert LARGE.startswith(elsewhere.header(instance).content)
    assert reason_of(lambda: elsewhere.fetch(NOBODY)) is Reason.NOT_IN_PACS
    elsewhere.close()


@contextmanager
def own_orthanc(folder: Path, **options: object) -> Iterator[OrthancServer]:
    """An Orthanc that is configured in another way than ours."""
    server = OrthancServer(folder / "orthanc", options=options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def newer(version: str, folder: Path, **options: object) -> Iterator[OrthancServer]:
    """An Orthanc of a version, configured in another way than ours."""
    if why := lacking(version):
        pytest.skip(why)
    with an_orthanc(version, folder, **options) as server:
        yield server


def test_files_that_orthanc_stores_compressed_come_over_rest(tmp_path: Path) -> None:
    with own_orthanc(tmp_path, StorageCompression=True) as server:
        beside = opened(server, storage=server.storage)
        for image in (IMAGE, LARGE):
            instance = beside.store(image).instance
            assert beside.fetch(instance) == image
            assert beside.header(instance).header == read_header(image)
        beside.close()


@pytest.mark.parametrize("first", ["the run's start", "a store"])
def test_an_orthanc_that_overwrites_is_given_nothing_that_it_has(tmp_path: Path, first: str) -> None:
    other = dicom(chest(64, 64)[::-1])
    with own_orthanc(tmp_path, OverwriteInstances=True) as server, closing(opened(server)) as client:
        if first == "the run's start":
            client.identity()  # this version doesn't say whether it overwrites
        stored = client.store(IMAGE)
        assert not stored.already
        assert client.store(other) == StoreResult(stored.instance, already=True)
        assert client.fetch(stored.instance) == IMAGE


def test_an_orthanc_that_says_that_it_overwrites_is_refused() -> None:
    said = b'{"DatabaseServerIdentifier": "x", "OverwriteInstances": true}'
    with (
        Misbehaving(answer(200, said)) as server,
        closing(Orthanc(server.url)) as client,
        pytest.raises(UsageError, match="OverwriteInstances"),
    ):
        client.identity()


def test_an_orthanc_that_never_overwrites_is_not_asked_first() -> None:
    said = b'{"DatabaseServerIdentifier": "x", "OverwriteInstances": false, "Status": "Success", "ID": "%s"}'
    with Misbehaving(answer(200, said % NOBODY.encode())) as server, closing(Orthanc(server.url)) as client:
        client.identity()
        client.store(IMAGE)
        assert [(method, path) for method, path, *_ in server.seen] == [
            ("GET", "/system"),
            ("POST", "/instances"),
        ]


def test_a_report_under_a_uid_that_is_taken_is_withdrawn(pacs: Orthanc) -> None:
    """Two patients have images of one UID: their reports' UIDs, which derive from it, would be one as well."""
    first = pacs.store(dicom(chest(64, 64), SOPInstanceUID="1.2.77", PatientID="A")).instance
    take_back = partial(withdraw, pacs)
    only_one(pacs, "1.2.77", first, take_back)
    second = pacs.store(dicom(chest(64, 64), SOPInstanceUID="1.2.77", PatientID="B")).instance
    assert reason_of(lambda: only_one(pacs, "1.2.77", second, take_back)) is Reason.UID_CONFLICT
    assert reason_of(lambda: pacs.fetch(second)) is Reason.NOT_IN_PACS
    assert pacs.count_instances("1.2.77", first) == 1


def stored_as(client: Orthanc, image: bytes, same_pixels: SamePixels) -> StoreResult:
    file = DicomFile(image)
    return ImageStore(client, same_pixels).store(file, screen(file.header, Rules()))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.2"]
)
def test_an_image_that_orthanc_transcodes_is_the_same_image(
    version: str, syntax: str, tmp_path: Path
) -> None:
    with (
        newer(version, tmp_path, IngestTranscoding=syntax) as server,
        closing(opened(server)) as client,
        closing(PixelComparison(Settings())) as pixels,
    ):
        instance = stored_as(client, IMAGE, pixels.same).instance
        assert parse_file(client.fetch(instance)).transfer_syntax_uid == syntax
        assert stored_as(client, IMAGE, pixels.same) == StoreResult(instance, already=True)
        for other in (dicom(chest(64, 64), KVP="99"), dicom(chest(64, 64)[::-1])):
            found = reason_of(lambda other=other: stored_as(client, other, pixels.same))  # type: ignore[misc]
            assert found is Reason.UID_CONFLICT


@pytest.mark.parametrize("version", VERSIONS)
def test_an_image_that_a_pacs_gives_another_uid_is_withdrawn(version: str, tmp_path: Path) -> None:
    """Lossy compression on receipt makes another image of it, at each delivery a new one."""
    image = dicom((chest(64, 64) >> 4).astype("uint8"), BitsStored=8)
    with (
        newer(version, tmp_path, IngestTranscoding="1.2.840.10008.1.2.4.50") as server,
        closing(opened(server)) as client,
    ):
        for _ in range(2):
            assert reason_of(lambda: stored_as(client, image, lambda *_: True)) is Reason.REFUSED
        assert server.get("/statistics").json()["CountInstances"] == 0


def test_the_study_of_an_instance_is_told_by_its_store(pacs: Orthanc) -> None:
    of = identity(read_header(IMAGE))
    stored = pacs.store(IMAGE)
    assert pacs.study_of(stored.instance, of) == stored.study
    assert pacs.study_of(stored.instance, replace(of, patient_id="another")) == stored.study
    assert pacs.store(IMAGE, of).study == stored.study


def test_a_wrong_password_is_the_users_to_fix(orthanc: OrthancServer) -> None:
    client = Orthanc(orthanc.url, username=orthanc.username, password="wrong")
    for call in (client.identity, lambda: client.store(IMAGE), lambda: client.fetch(NOBODY)):
        with pytest.raises(UsageError, match="CXR_PACS_PASSWORD"):
            call()
    client.close()


def test_an_orthanc_that_stops_is_unavailable_until_it_is_back(orthanc: OrthancServer, pacs: Orthanc) -> None:
    instance = pacs.store(IMAGE).instance
    orthanc.stop()
    try:
        with pytest.raises(ServiceUnavailable, match="is unavailable"):
            pacs.fetch(instance)
    finally:
        orthanc.start()
    assert pacs.fetch(instance) == IMAGE


def test_it_logs_in_as_the_settings_say(pacs: Orthanc, orthanc: OrthancServer) -> None:
    settings = Settings(pacs_username=orthanc.username, pacs_password=orthanc.password, pacs_seconds=5)
    with closing(Orthanc.from_settings(settings, orthanc.url + "/")) as client:
        assert client.identity() == pacs.identity()
    refused = Orthanc.from_settings(replace(settings, pacs_password="wrong"), orthanc.url)
    with closing(refused), pytest.raises(UsageError):
        refused.identity()


# -- servers that misbehave ----------------------------------------------------------------------------------


class Misbehaving:
    """A local HTTP server that answers everything in one way, byte for byte."""

    def __init__(self, answer: bytes, *, seconds: float = 0.0, hold: bool = False) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.command, self.path, dict(self.headers), body))
                time.sleep(seconds)
                self.wfile.write(answer)
                self.wfile.flush()
                if hold:
                    outer.released.wait()
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815  # the base class looks for these

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Misbehaving:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join(10)
        self.server.server_close()


def answer(status: int, body: bytes = b"{}", *lines: str) -> bytes:
    head = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def calls(client: Orthanc) -> list[Callable[[], object]]:
    return [
        lambda: client.store(IMAGE),
        lambda: client.fetch(NOBODY),
        lambda: client.header(NOBODY),
        lambda: client.delete(NOBODY),
        lambda: client.count_instances("1.2", NOBODY),
        lambda: client.series_ids(0, 10, {}),
        lambda: client.series_ids(0, 10, {"Modality": "CR"}),
        lambda: client.series([NOBODY]),
        client.identity,
    ]


def every_call_raises(server: Misbehaving, kind: type[Exception], seconds: float = 5.0) -> None:
    client = Orthanc(server.url, seconds=seconds)
    for call in calls(client):
        with pytest.raises(kind):
            call()
    client.close()


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_an_overloaded_pacs_is_waited_for(status: int) -> None:
    with Misbehaving(answer(status)) as server:
        every_call_raises(server, ServiceUnavailable)


def test_what_a_rule_of_the_pacs_forbids_is_named() -> None:
    """A proxy may let some addresses pass and others not: a new password is no help then."""
    with Misbehaving(answer(403)) as server, closing(Orthanc(server.url, seconds=5)) as client:
        for call, said in (
            (client.statistics, "forbids GET /statistics to"),
            (lambda: client.fetch(NOBODY), "forbids GET /instances/…/file to"),
            (lambda: client.lookup(Level.INSTANCE, "1.2"), "forbids POST /tools/lookup to"),
            (lambda: client.series_ids(0, 1, {}), "forbids GET /series to"),
            (lambda: client.put_label(NOBODY, "ai-mass"), "forbids PUT /studies/…/labels/… to"),
        ):
            with pytest.raises(UsageError, match=said):
                call()


@pytest.mark.parametrize("status", [408, 425, 429, 502])
def test_an_overloaded_proxy_is_no_unknown_server(status: int) -> None:
    page = answer(status, b"<html>slow down</html>", "Retry-After: 3")
    with Misbehaving(page) as server, closing(Orthanc(server.url, seconds=5)) as client:
        for call in (lambda: client.store(IMAGE), lambda: client.fetch(NOBODY), client.identity):
            with pytest.raises(ServiceUnavailable, match=f"answers {status}$"):
                call()


def test_a_full_pacs_is_waited_for() -> None:
    with Misbehaving(answer(507)) as server:
        every_call_raises(server, StorageFull)
    with Misbehaving(answer(500, json.dumps({"OrthancStatus": 11}).encode())) as server:
        every_call_raises(server, StorageFull)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_the_users_to_fix(status: int) -> None:
    with Misbehaving(answer(status)) as server:
        every_call_raises(server, UsageError)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"", id="closed without a word"),
        pytest.param(b"\x00\xff nonsense\r\n\r\n", id="no HTTP"),
        pytest.param(answer(200, b"abc").replace(b": 3", b": 3000"), id="body cut off"),
        pytest.param(answer(200, b"abc").replace(b": 3", b": 3000000"), id="large body cut off"),
        pytest.param(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nabc", id="chunk cut off"),
        pytest.param(answer(503, b"<html>not json"), id="an error page"),
    ],
)
def test_a_broken_connection_is_waited_for(broken: bytes) -> None:
    """Half an image must never be taken for a whole one."""
    with Misbehaving(broken) as server:
        client = Orthanc(server.url, seconds=5)
        for call in (
            lambda: client.store(IMAGE),
            lambda: client.fetch(NOBODY),
            lambda: client.header(NOBODY),
        ):
            with pytest.raises(ServiceUnavailable):
                call()
        client.close()


def test_a_connection_that_was_closed_as_idle_is_opened_again() -> None:
    """Orthanc closes one after a second; a request that was on its way then has no answer."""
    closing_once: list[bool] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if closing_once:
                closing_once.clear()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(answer(200, IMAGE).replace(b"Connection: close\r\n", b""))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with closing(Orthanc(f"http://127.0.0.1:{server.server_port}", seconds=5)) as client:
        for _ in range(3):
            assert client.fetch(NOBODY) == IMAGE
            closing_once.append(True)
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.mark.timeout(60, func_only=True)
def test_a_silent_pacs_is_given_up_in_time() -> None:
    for part in (
        b"",
        answer(200, b"abc").replace(b": 3", b": 30"),
        answer(200, b"a").replace(b": 1", b": 3000000"),
    ):
        with Misbehaving(part, hold=True) as server:
            client = Orthanc(server.url, seconds=0.3)
            for call in (client.fetch, client.header):
                with pytest.raises(ServiceUnavailable):
                    call(NOBODY)
            client.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_file_is_fetched_from_nowhere_else(status: int) -> None:
    with (
        Misbehaving(answer(status, b"", "Location: http://127.0.0.1:1/")) as server,
        closing(Orthanc(server.url, seconds=5)) as client,
        pytest.raises(UsageError, match="redirects"),
    ):
        client.fetch(NOBODY)


def test_a_file_is_fetched_with_new_token_and_cookie(tmp_path: Path) -> None:
    got: list[tuple[str | None, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            got.append((self.headers["Authorization"], self.headers["Cookie"]))
            cookie = "Set-Cookie: backend=2; Path=/" if self.path == "/proxy/system" else "X: y"
            body = b"{}" if self.path == "/proxy/system" else IMAGE
            self.wfile.write(answer(200, body, cookie).replace(b"Connection: close\r\n", b""))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    token = tmp_path / "token"
    token.write_text("first")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/proxy"
    with closing(Orthanc(address, seconds=5, token_file=str(token))) as client:
        assert client.fetch(NOBODY) == IMAGE
        token.write_text("second")
        assert client.fetch(NOBODY) == IMAGE
        client.identity()
        assert client.fetch(NOBODY) == IMAGE
    server.shutdown()
    thread.join(10)
    server.server_close()
    assert [one for one, _ in got] == ["Bearer first", "Bearer second", "Bearer second", "Bearer second"]
    assert [one for _, one in got] == [None, None, None, "backend=2"]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(answer(200, b"<html>Welcome to the proxy</html>"), id="html"),
        pytest.param(answer(200, b""), id="nothing"),
        pytest.param(answer(302, b"", "Location: https://elsewhere/"), id="redirect"),
        pytest.param(answer(307, b"", "Location: http://127.0.0.1:1/"), id="redirect that keeps the method"),
    ],
)
def test_what_is_no_orthanc_is_the_users_to_fix(page: bytes) -> None:
    """Otherwise every image of the backlog would be refused, one by one."""
    with Misbehaving(page) as server:
        client = Orthanc(server.url, seconds=5)
        for call in (client.identity, lambda: client.store(IMAGE), lambda: client.series_ids(0, 1, {})):
            with pytest.raises(UsageError):
                call()
        client.close()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            answer(200, b"<html>log in</html>", "Content-Type: text/html; charset=utf-8"), id="html"
        ),
        pytest.param(answer(200, b"<!DOCTYPE html>" + b" " * 2_000_000), id="a long page"),
        pytest.param(answer(200, b'{"error": "expired"}', "Content-Type: application/json"), id="json"),
        pytest.param(answer(200, b""), id="nothing"),
        pytest.param(b"HTTP/1.1 204 x\r\nConnection: close\r\n\r\n", id="no content"),
        pytest.param(answer(302, b"", "Location: /login"), id="redirect"),
    ],
)
def test_a_proxys_page_is_never_taken_for_an_image(page: bytes) -> None:
    """As when the proxy's session has expired: every image would seem damaged, and every report changed."""
    with Misbehaving(page) as server, closing(Orthanc(server.url, seconds=5)) as client:
        for call in (lambda: client.fetch(NOBODY), lambda: client.header(NOBODY)):
            with pytest.raises((ServiceUnavailable, UsageError)):
                call()


@pytest.mark.parametrize(
    "page",
    [
        answer(200, b"<html>log in</html>", "Content-Type: text/html"),
        answer(200, b"<html>log in</html>"),
        answer(200, b""),
        answer(302, b"", "Location: /login"),
    ],
)
def test_a_proxys_page_deletes_nothing(page: bytes) -> None:
    with Misbehaving(page) as server, closing(Orthanc(server.url, seconds=5)) as client:
        with pytest.raises((ServiceUnavailable, UsageError)):
            client.delete(NOBODY)
        with pytest.raises((ServiceUnavailable, UsageError)):
            client.delete_many([NOBODY])


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"x"'])
def test_json_of_another_kind_is_no_orthanc(body: bytes) -> None:
    with Misbehaving(answer(200, body)) as server, pytest.raises(UsageError, match="no Orthanc"):
        Orthanc(server.url).identity()


def test_another_path_of_a_server_is_no_orthanc() -> None:
    with Misbehaving(answer(404)) as server, pytest.raises(UsageError, match="no Orthanc"):
        Orthanc(server.url + "/wrong").identity()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, {"Status": "FilteredOut", "ID": ""}, Reason.REFUSED),
        (200, {"Status": "Success", "ID": "../system"}, Reason.REFUSED),
        (200, {"Status": "Success"}, Reason.REFUSED),
        (200, [{"Status": "Success", "ID": NOBODY}], Reason.REFUSED),
        (413, {}, Reason.TOO_LARGE),
        (404, {"OrthancStatus": 21}, Reason.INVALID_UID),
        (400, {"OrthancStatus": 15}, Reason.NOT_DICOM),
        (400, {"OrthancStatus": 8}, Reason.REFUSED),
        (409, {"OrthancStatus": 8}, Reason.REFUSED),
    ],
)
def test_a_refused_image_has_its_reason(status: int, body: object, reason: Reason) -> None:
    with Misbehaving(answer(status, json.dumps(body).encode())) as server:
        client = Orthanc(server.url)
        assert reason_of(lambda: client.store(IMAGE)) is reason
        client.close()


def test_a_request_that_is_too_large_says_whose_limit_it_is() -> None:
    """A proxy's default may be 1 MB: the reason alone looks like a limit of ours."""
    with Misbehaving(answer(413, b"<h1>413</h1>")) as server, closing(Orthanc(server.url)) as client:
        with pytest.raises(InstanceRejected, match=r"a proxy before it.*\(413\): raise that limit") as caught:
            client.store(IMAGE)
        assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("status", [400, 404, 409])
@pytest.mark.parametrize("body", [b"404 page not found", b"", b"[]", b"{}", b'{"OrthancStatus": "x"}'])
def test_an_error_that_is_not_orthancs_own_is_waited_out(status: int, body: bytes) -> None:
    """A proxy says so while Orthanc starts behind it; every image would be refused, or seem to be gone."""
    with Misbehaving(answer(status, body)) as server, closing(Orthanc(server.url)) as client:
        for call in (
            lambda: client.store(IMAGE),
            lambda: client.fetch(NOBODY),
            lambda: client.header(NOBODY),
            lambda: client.delete(NOBODY),
        ):
            with pytest.raises(ServiceUnavailable, match="no mention of Orthanc's"):
                call()


def test_an_address_below_the_root_is_no_orthanc(orthanc: OrthancServer) -> None:
    with closing(
        Orthanc(f"{orthanc.url}/viewer", username=orthanc.username, password=orthanc.password)
    ) as client:
        for path in ("/system", "/series?since=0&limit=5", "/changes?limit=1"):
            with pytest.raises(UsageError, match="is no Orthanc: see CXR_PACS_URL"):
                client.rest.json(path)


def test_a_closed_port_and_an_unknown_host_are_unavailable() -> None:
    for url in (f"http://127.0.0.1:{free_port()}", "http://no-such-host.invalid"):
        with pytest.raises(ServiceUnavailable, match="is unavailable"):
            Orthanc(url, seconds=2).identity()


@pytest.mark.timeout(60, func_only=True)
def test_a_port_that_speaks_no_http_is_unavailable() -> None:
    """A socket that accepts and never answers, as a half-dead host does."""
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(ServiceUnavailable):
        Orthanc(f"http://127.0.0.1:{deaf.getsockname()[1]}", seconds=0.3).identity()


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://host:99999", "http://ho st", "http://:80"])
def test_an_address_that_is_none_is_the_users_to_fix(url: str) -> None:
    with pytest.raises((UsageError, ServiceUnavailable)):
        Orthanc(url, seconds=1).identity()


def test_a_password_in_the_address_is_refused_and_not_quoted() -> None:
    with pytest.raises(UsageError, match="CXR_PACS_PASSWORD") as error:
        Orthanc("http://me:secret@host:8042")
    assert "secret" not in str(error.value)


def test_a_plain_server_has_no_trusted_certificate() -> None:
    with Misbehaving(answer(200)) as server, pytest.raises((UsageError, ServiceUnavailable)):
        Orthanc(server.url.replace("http:", "https:"), seconds=2).identity()


def test_a_missing_authority_file_is_the_users_to_fix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CXR_PACS_CA"):
        Orthanc("https://127.0.0.1:1", ca=str(tmp_path / "nothing.pem"))


def test_nothing_is_asked_for_that_a_server_could_compress(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And no proxy of the environment and no netrc comes between."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Misbehaving(answer(200, IMAGE)) as server:
        assert Orthanc(server.url).fetch(NOBODY) == IMAGE
    ((method, path, headers, _),) = server.seen
    assert (method, path) == ("GET", f"/instances/{NOBODY}/file")
    assert headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in headers
