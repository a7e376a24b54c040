"""A PACS over https that asks for a client's certificate: real handshakes, with an authority made for the test."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backlog.errors import UsageError
from backlog.pacs.dicomweb import Dicomweb
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from tests.conftest import need

_UIDS = "1.2.3|1.2.3.4|1.2.3.4.5"
#: What Orthanc hands out as a file begins with the preamble of PS3.10 7.1.
_FILE = bytes(128) + b"DICM"
_ID = "-".join(["0123abcd"] * 5)


class _Empty(BaseHTTPRequestHandler):
    """A DICOMweb server that holds nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.clients.append(self.connection.getpeercert())  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        body = _FILE if self.path.endswith("/file") else b"[]"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    """Reads what a client still sends before it closes: else the kernel takes back an alert that was not read."""

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError), socket.socket(fileno=os.dup(request.fileno())) as raw:
            raw.settimeout(30)
            while raw.recv(4096):
                pass
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a refused handshake is no news."""


@dataclass
class Place:
    """The files, and the server."""

    folder: Path
    server: ThreadingHTTPServer

    def pacs(self, **files: str) -> Dicomweb:
        address = f"dicomweb+https://localhost:{self.server.server_port}/dicom-web"
        named: dict[str, Any] = {f"pacs_{name}": str(self.folder / file) for name, file in files.items()}
        return Dicomweb.from_settings(Settings(pacs_seconds=10.0, **named), address)

    def orthanc(self, **files: str) -> Orthanc:
        address = f"https://localhost:{self.server.server_port}"
        named: dict[str, Any] = {name: str(self.folder / file) for name, file in files.items()}
        return Orthanc(address, seconds=10.0, **named)

    def clients(self) -> list[str]:
        """The common names of the certificates that clients showed."""
        seen = self.server.clients  # type: ignore[attr-defined]
        return [dict(part[0] for part in one["subject"])["commonName"] for one in seen]


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def _authority(folder: Path, name: str) -> None:
    subject = ("-subj", f"/CN={name}")
    more = ("-addext", "keyUsage=critical,keyCertSign")
    files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
    _openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *more, *files)


def _signed(folder: Path, name: str, by: str, extension: str) -> None:
    files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
    _openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", *files)
    (folder / f"{name}.ext").write_text(extension)
    authority = ("-CA", f"{by}.crt", "-CAkey", f"{by}.key", "-CAcreateserial")
    more = ("-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *authority, *more)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("openssl")
    folder = tmp_path_factory.mktemp("certificates")
    for authority in ("hospital", "stranger"):
        _authority(folder, authority)
    _signed(folder, "server", "hospital", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
    _signed(folder, "worker", "hospital", "extendedKeyUsage=clientAuth\n")
    _signed(folder, "intruder", "stranger", "extendedKeyUsage=clientAuth\n")
    both = (folder / "worker.crt").read_text() + (folder / "worker.key").read_text()
    (folder / "worker.pem").write_text(both)
    return folder


def _context(files: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(files / "server.crt", files / "server.key")
    return context


@contextmanager
def _serving(files: Path, context: ssl.SSLContext) -> Iterator[Place]:
    server = _Server(("localhost", 0), _Empty)
    server.clients = []  # type: ignore[attr-defined]
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Place(files, server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def place(files: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    context = _context(files, request.param)
    context.load_verify_locations(files / "hospital.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    with _serving(files, context) as served:
        yield served


@pytest.mark.parametrize(
    "own", [{"certificate": "worker.crt", "key": "worker.key"}, {"certificate": "worker.pem"}]
)
def test_a_client_with_a_certificate_is_let_in(place: Place, own: dict[str, str]) -> None:
    assert place.pacs(ca="hospital.crt", **own).count_instances("1.2.3.4.5", _UIDS) == 0
    assert set(place.clients()) == {"worker"}


def test_files_are_fetched_with_a_certificate_alone(place: Place) -> None:
    with closing(place.orthanc(ca="hospital.crt", certificate="worker.pem")) as client:
        assert client.fetch(_ID) == _FILE
        assert client.fetch(_ID) == _FILE
    for files, setting in (
        ({"ca": "hospital.crt"}, "CXR_PACS_CERTIFICATE"),
        ({"ca": "stranger.crt", "certificate": "worker.pem"}, "CXR_PACS_CA"),
    ):
        with closing(place.orthanc(**files)) as client, pytest.raises(UsageError, match=setting):
            client.fetch(_ID)
    assert set(place.clients()) == {"worker"}


@pytest.mark.parametrize("own", [{}, {"certificate": "intruder.crt", "key": "intruder.key"}])
def test_a_client_without_a_trusted_certificate_is_told_so(place: Place, own: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="CXR_PACS_CERTIFICATE"):
        place.pacs(ca="hospital.crt", **own).count_instances("1.2.3.4.5", _UIDS)
    assert place.clients() == []


def test_a_server_whose_authority_is_a_stranger_is_not_trusted(place: Place) -> None:
    with pytest.raises(UsageError, match="CXR_PACS_CA"):
        place.pacs(ca="stranger.crt", certificate="worker.pem").count_instances("1.2.3.4.5", _UIDS)
    assert place.clients() == []


def test_a_certificate_and_another_s_key_are_refused(place: Place) -> None:
    with pytest.raises(UsageError, match="CXR_PACS_CERTIFICATE"):
        place.pacs(ca="hospital.crt", certificate="worker.crt", key="intruder.key").count_instances(
            "1.2.3.4.5", _UIDS
        )


def test_no_cipher_in_common_names_both_causes(files: Path) -> None:
    context = _context(files, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES128-SHA")  # Python offers none without forward secrecy
    with _serving(files, context) as place, pytest.raises(UsageError) as caught:
        place.pacs(ca="hospital.crt").count_instances("1.2.3.4.5", _UIDS)
    assert "no TLS version and cipher in common" in str(caught.value)
    assert "or it takes no client without a certificate" in str(caught.value)
    assert "CXR_PACS_CERTIFICATE" in str(caught.value)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_an_old_tls_version_is_no_matter_of_trust(files: Path) -> None:
    context = _context(files, ssl.TLSVersion.TLSv1_1)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with _serving(files, context) as place, pytest.raises(UsageError) as caught:
        place.pacs(ca="hospital.crt").count_instances("1.2.3.4.5", _UIDS)
    assert "no TLS version and cipher in common" in str(caught.value)
    assert "CXR_PACS_CA" not in str(caught.value)
