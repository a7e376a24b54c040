"""DICOMweb servers that fail, refuse, or answer in forms of their own: one image's fault, a wait, or the user's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from backlog.dicom.header import identity, read_header
from backlog.errors import (
    BacklogError,
    ForeignAnswer,
    InstanceRejected,
    ServiceUnavailable,
    StorageFull,
    UsageError,
)
from backlog.outcomes import Reason
from backlog.pacs.address import checked_address, is_dicomweb
from backlog.pacs.dicomweb import Dicomweb
from backlog.pacs.http_credentials import TokenFile
from backlog.pacs.multipart import boundary_of, encode, only_part
from backlog.pacs.stow import value
from tests.support.dicom_images import chest, dicom
from tests.support.dicomweb_servers import Answer, StrictServer, failed, stored
from tests.support.servers import free_port

IMAGE = dicom(chest(64, 64))
OF = identity(read_header(IMAGE))
ID = f"{OF.study_instance_uid}/{OF.series_instance_uid}/{OF.sop_instance_uid}"
DICOM_JSON = {"Content-Type": "application/dicom+json"}


@pytest.fixture
def server() -> Iterator[StrictServer]:
    with StrictServer() as strict:
        yield strict


def answering(server: StrictServer, status: int, body: bytes = b"", **headers: str) -> None:
    """Let the server answer so to every store."""
    server.store_answer = lambda sop, uid: (status, body, headers)


def raised(call: Any) -> BacklogError:
    with pytest.raises(BacklogError) as caught:
        call()
    return caught.value


@dataclass(frozen=True)
class Case:
    status: int
    body: Any
    kind: type[BacklogError]
    reason: Reason | None = None


#: What a server answers to a store, and what it means.
STORES = {
    "out of resources": Case(409, failed(0xA700), StorageFull),
    "out of resources, another code of them": Case(202, failed(0xA7FF, OF.sop_instance_uid), StorageFull),
    "wrong for its class": Case(409, failed(0xA900), InstanceRejected, Reason.REFUSED),
    "not understood": Case(409, failed(0xC000), InstanceRejected, Reason.REFUSED),
    "class not supported": Case(409, failed(0x0122), InstanceRejected, Reason.REFUSED),
    "encoding not supported": Case(409, failed(0xC122), InstanceRejected, Reason.REFUSED),
    "not authorized": Case(409, failed(0x0124), UsageError),
    "processing failure": Case(409, failed(0x0110), ServiceUnavailable),
    "a reason of no table": Case(202, failed(0x4711), ServiceUnavailable),
    "a failure without a reason": Case(409, {"00081198": {"vr": "SQ", "Value": [{}]}}, ServiceUnavailable),
    "the UID elsewhere": Case(409, failed(0x0111), InstanceRejected, Reason.UID_CONFLICT),
    "stored, by another UID": Case(200, stored("1.2.999"), InstanceRejected, Reason.REFUSED),
    "an empty object": Case(200, {}, InstanceRejected, Reason.REFUSED),
    "a conflict without a word": Case(409, None, InstanceRejected, Reason.REFUSED),
    "unreadable": Case(400, {"00081198": {"vr": "SQ"}}, InstanceRejected, Reason.REFUSED),
    "a proxy's 400": Case(400, None, ServiceUnavailable),
    "too large": Case(413, None, InstanceRejected, Reason.TOO_LARGE),
    "no room": Case(507, None, StorageFull),
    "overloaded": Case(503, None, ServiceUnavailable),
    "no such method": Case(405, None, UsageError),
    "no such type": Case(415, None, UsageError),
    "forbidden": Case(403, None, UsageError),
    "busy": Case(429, None, ServiceUnavailable),
}


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_fails_is_said_by_its_reason(server: StrictServer, name: str) -> None:
    case = STORES[name]
    answering(server, case.status, b"" if case.body is None else json.dumps(case.body).encode(), **DICOM_JSON)
    error = raised(lambda: server.client().store(IMAGE))
    assert type(error) is case.kind, error
    assert not isinstance(error, InstanceRejected) or error.reason is case.reason


@pytest.mark.parametrize("body", [failed(0x0110), failed(0x0111), None])
def test_an_image_that_another_worker_stored_meanwhile_is_there(server: StrictServer, body: Any) -> None:
    """A conflict is no outage."""

    def stored_by_another(sop: str, uid: str) -> Answer:
        server.add(IMAGE)
        return 409, json.dumps(body).encode() if body else b"", DICOM_JSON

    server.store_answer = stored_by_another
    result = server.client().store(IMAGE)
    assert (result.instance, result.already) == (ID, True)


def test_a_store_without_a_word_is_looked_up(server: StrictServer) -> None:
    def silently(sop: str, uid: str) -> Answer:
        server.add(IMAGE)
        return 200, b"", {}

    server.store_answer = silently
    result = server.client().store(IMAGE)
    assert (result.instance, result.already) == (ID, False)


def test_a_store_that_is_said_and_not_kept_is_sent_again(server: StrictServer) -> None:
    """Some servers lose what they take in parallel, and answer 200."""
    answering(server, 200, json.dumps(stored(OF.sop_instance_uid)).encode(), **DICOM_JSON)
    error = raised(lambda: server.client().store(IMAGE))
    assert type(error) is ServiceUnavailable, error
    assert "does not have it" in str(error)
    server.store_answer = lambda sop, uid: None
    assert server.client().store(IMAGE).instance in server.instances


def test_a_pacs_that_coerces_attributes_says_so(server: StrictServer) -> None:
    def renamed(sent: bytes) -> bytes:
        header = dcmread(BytesIO(sent))
        header.InstitutionName = "Another"
        kept = BytesIO()
        header.save_as(kept)
        return kept.getvalue()

    server.coerce = renamed
    assert server.client().store(IMAGE).changed


def wado(server: StrictServer, status: int, body: bytes, kind: str) -> None:
    server.override = lambda method, path: (
        (status, body, {"Content-Type": kind}) if "/instances/" in path else None
    )


MESSAGE, MESSAGE_TYPE = encode(IMAGE)


def test_one_file_without_a_message_around_it_is_read(server: StrictServer) -> None:
    wado(server, 200, IMAGE, "application/dicom; transfer-syntax=1.2.840.10008.1.2.1")
    assert server.client().fetch(ID) == IMAGE


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (MESSAGE[: len(MESSAGE) // 2], MESSAGE_TYPE),  # the closing boundary never comes
        (b"", MESSAGE_TYPE),
        (IMAGE, MESSAGE_TYPE),
        (MESSAGE.replace(b"--\r\n", b"\r\n\r\nmore\r\n"), MESSAGE_TYPE),
        (b"<html>please log in</html>", "text/html"),
        (b"<html>please log in</html>", "application/dicom"),
        (b"", "application/dicom"),
        (b"{}", ""),
    ],
)
def test_an_answer_that_is_no_dicom_file_is_waited_for(server: StrictServer, body: bytes, kind: str) -> None:
    wado(server, 200, body, kind)
    client = server.client()
    for read in (client.fetch, client.header):
        assert type(raised(lambda read=read: read(ID))) is ServiceUnavailable


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (IMAGE, ""),
        (IMAGE, "application/octet-stream"),
        (MESSAGE, ""),
        (b"\r\n" + MESSAGE, "multipart/related; type=application/dicom"),
    ],
)
def test_a_file_of_no_declared_type_is_told_by_its_content(
    server: StrictServer, body: bytes, kind: str
) -> None:
    wado(server, 200, body, kind)
    assert server.client().fetch(ID) == IMAGE
    assert server.client().header(ID).identity == OF


@pytest.mark.parametrize("boundary", ["a_b", "--=_Part 1:2/3", "'x'", "0" * 70, "a+b,c?d"])
@pytest.mark.parametrize("form", ['boundary="{}"', 'BOUNDARY = "{}" ', 'start="<1>";boundary="{}";x=y'])
def test_boundaries_of_any_letters_are_found(server: StrictServer, boundary: str, form: str) -> None:
    plain = MESSAGE_TYPE.rpartition("=")[2]
    kind = f"multipart/related; type=application/dicom; {form.format(boundary)}"
    wado(server, 200, MESSAGE.replace(plain.encode(), boundary.encode()), kind)
    assert server.client().fetch(ID) == IMAGE


@pytest.mark.parametrize("reason", [0xA700, "42752", 42752.0])
def test_numbers_are_read_in_any_form_of_json(server: StrictServer, reason: Any) -> None:
    body = failed(0)
    body["00081198"]["Value"][0]["00081197"]["Value"] = [reason]
    answering(server, 409, json.dumps(body).encode(), **DICOM_JSON)
    assert type(raised(lambda: server.client().store(IMAGE))) is StorageFull


def test_a_value_that_is_no_list_is_taken_whole() -> None:
    """Found: of a UID that stood without its list the first letter was taken."""
    assert value({"0020000D": {"vr": "UI", "Value": "1.2.3"}}, "0020000D") == "1.2.3"
    assert value({"00201208": {"vr": "IS", "Value": 12}}, "00201208") == 12
    assert value({"00201208": {"vr": "IS", "Value": {}}}, "00201208") is None


def test_several_instances_in_one_answer_are_none(server: StrictServer) -> None:
    boundary = boundary_of(MESSAGE_TYPE)
    assert boundary is not None
    part = MESSAGE[: MESSAGE.rindex(b"--" + boundary)]
    wado(server, 200, part + MESSAGE, MESSAGE_TYPE)
    assert "several instances" in str(raised(lambda: server.client().fetch(ID)))


def test_404_to_everything_is_an_outage_and_no_images_fault(server: StrictServer) -> None:
    server.override = lambda method, path: (404, b"<html>no such site</html>", {})
    client = server.client()
    assert type(raised(lambda: client.fetch(ID))) is ServiceUnavailable
    assert type(raised(lambda: client.contains(OF))) is ForeignAnswer
    assert "/studies" in str(raised(client.identity))


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_an_overloaded_server_is_waited_for(server: StrictServer, status: int) -> None:
    server.override = lambda method, path: (status, b"", {})
    client = server.client()
    for call in (
        client.identity,
        lambda: client.fetch(ID),
        lambda: client.store(IMAGE),
        lambda: client.delete(ID),
    ):
        assert type(raised(call)) is ServiceUnavailable


def test_406_is_the_users_to_change(server: StrictServer) -> None:
    wado(server, 406, b"", "text/plain")
    assert "406" in str(raised(lambda: server.client().fetch(ID)))


@pytest.mark.parametrize("page", [b"<html></html>", b"{}", b"[1]", b'"x"'])
def test_another_web_server_is_no_dicomweb(server: StrictServer, page: bytes) -> None:
    server.override = lambda method, path: (200, page, {"Content-Type": "application/json"})
    assert type(raised(server.client().identity)) is ForeignAnswer


def test_a_closed_port_is_waited_for() -> None:
    client = Dicomweb(f"dicomweb+http://127.0.0.1:{free_port()}/rs")
    assert type(raised(client.identity)) is ServiceUnavailable


def test_a_server_that_ignores_a_query_finds_nothing_by_it(server: StrictServer) -> None:
    """It answers whatever it has: what is found is compared with what was asked for."""
    server.add(dicom(chest(64, 64), SOPInstanceUID="1.2.3.4.77"))
    server.override = lambda method, path: None
    everything = server.search(2, [OF.study_instance_uid, OF.series_instance_uid], {})
    server.override = lambda method, path: (
        (200, json.dumps(everything).encode(), DICOM_JSON) if "/instances?" in path else None
    )
    assert everything
    assert not server.client().contains(OF)


def test_a_renewed_token_is_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with StrictServer(token="first") as server:
        client = server.client(token_file=str(token))
        client.identity()
        server.token = "second"
        assert "CXR_PACS_TOKEN_FILE" in str(raised(client.identity))
        renewed = tmp_path / "renewed"
        renewed.write_text("second\n")
        renewed.rename(token)
        client.identity()
        assert "first" not in repr(client.__dict__)


def test_a_token_that_runs_out_is_waited_for(tmp_path: Path) -> None:
    """Found: a run ended, since a token that its program renews seconds late looked like a wrong password."""
    token = tmp_path / "token"
    token.write_text("first\n")
    with StrictServer(token="first") as server:
        server.add(IMAGE)
        client = server.client(token_file=str(token))
        assert client.fetch(ID) == IMAGE
        server.token = "second"
        for call in (lambda: client.fetch(ID), lambda: client.store(IMAGE), client.identity):
            error = raised(call)
            assert type(error) is ServiceUnavailable, error
            assert "CXR_PACS_TOKEN_FILE" in str(error)
        for content in (None, b"", b"sec\x00"):  # what is seen while the file is replaced
            token.unlink() if content is None else token.write_bytes(content)
            assert type(raised(client.identity)) is ServiceUnavailable
        token.write_text("second\n")
        assert client.fetch(ID) == IMAGE


def test_a_token_that_never_was_good_is_the_users_to_correct(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("wrong\n")
    with StrictServer(token="right") as server:
        assert type(raised(server.client(token_file=str(token)).identity)) is UsageError


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"a\x00b", "ç".encode()])
def test_a_file_without_a_token_is_the_users_to_correct(tmp_path: Path, content: bytes) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    assert "CXR_PACS_TOKEN_FILE" in str(raised(lambda: TokenFile(token)))
    token.unlink()
    assert "CXR_PACS_TOKEN_FILE" in str(raised(lambda: TokenFile(token)))


def test_a_token_and_a_user_are_not_both_taken(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    error = raised(lambda: Dicomweb("dicomweb+http://x/rs", username="me", token_file=str(token)))
    assert "both set" in str(error)
    for name in ("ca", "certificate", "key"):
        more: dict[str, Any] = {name: "/nowhere"}
        assert f"CXR_PACS_{name.upper()}" in str(
            raised(lambda more=more: Dicomweb("dicomweb+http://x", **more))
        )


@pytest.mark.parametrize("address", ["DICOMweb+HTTPS://Host/Path", "dicomweb+http://host"])
def test_an_address_is_known_by_its_scheme(address: str) -> None:
    assert is_dicomweb(checked_address(address))
    assert checked_address(address).startswith("dicomweb+http")


@pytest.mark.parametrize("address", ["dicomweb+ftp://x", "dicomweb+x://y"])
def test_no_folder_is_made_of_a_misspelt_address(address: str) -> None:
    assert "dicomweb+https" in str(raised(lambda: checked_address(address)))


def test_addresses_of_one_service_are_one_identity(server: StrictServer) -> None:
    port = server.url.rpartition(":")[2]
    other = Dicomweb(f"dicomweb+http://127.0.0.1:{port}/")
    assert other.identity() == server.client().identity() == server.url


@pytest.mark.parametrize("step", [1, 2, 7, 64, 1 << 16])
def test_a_message_is_read_in_steps_of_any_size(step: int) -> None:
    boundary = boundary_of(MESSAGE_TYPE)
    assert boundary is not None
    steps = (MESSAGE[at : at + step] for at in range(0, len(MESSAGE), step))
    assert b"".join(only_part(steps, boundary)) == IMAGE


def test_a_message_without_parts_holds_nothing() -> None:
    assert b"".join(only_part(iter([b"--x--\r\n"]), b"x")) == b""


def test_a_preamble_without_an_end_is_not_kept() -> None:
    seen = []

    def endless() -> Iterator[bytes]:
        while True:
            seen.append(1)
            yield b"x" * 1024

    assert type(raised(lambda: list(only_part(endless(), b"b")))) is ServiceUnavailable
    assert len(seen) < 100


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', b"abc"),
        ('Multipart/Related; boundary="a b:c"; type=x', b"a b:c"),
        ("application/dicom", None),
        ("multipart/related", None),
        ("", None),
    ],
)
def test_a_boundary_is_found_quoted_or_not(kind: str, boundary: bytes | None) -> None:
    assert boundary_of(kind) == boundary
