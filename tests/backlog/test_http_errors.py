"""What is said of an address that leads to no PACS, and passwords that Latin-1 can't write."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backlog.errors import BacklogError, ServiceUnavailable, UsageError
from backlog.pacs.orthanc import Orthanc
from tests.conftest import need
from tests.support.servers import OrthancServer, free_port


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that says one thing to everybody, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        connection.recv(1 << 16)
                        connection.sendall(answer)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def asked(url: str) -> BacklogError:
    client = Orthanc(url, seconds=2)
    with pytest.raises(BacklogError) as caught:
        client.identity()
    client.close()
    return caught.value


def test_a_port_where_nothing_listens_is_named() -> None:
    error = asked(f"http://127.0.0.1:{free_port()}")
    assert isinstance(error, ServiceUnavailable)
    assert str(error).endswith("nothing listens at this port")


def test_a_host_that_is_not_known_is_named() -> None:
    error = asked("http://nowhere.invalid:8042")
    assert isinstance(error, ServiceUnavailable)
    assert str(error).endswith("no host of this name is known here")


def test_what_speaks_no_http_is_named() -> None:
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        error = asked(f"http://127.0.0.1:{port}")
    assert isinstance(error, ServiceUnavailable)
    assert str(error).endswith("what answers there does not speak HTTP")


def test_what_speaks_no_tls_is_named(orthanc: OrthancServer) -> None:
    error = asked(f"https://127.0.0.1:{orthanc.port}")
    assert isinstance(error, UsageError)
    assert "speaks no TLS: its address begins with http://" in str(error)


def test_what_says_nothing_or_nothing_in_time_is_named() -> None:
    with answering(b"") as port:
        error = asked(f"http://127.0.0.1:{port}")
    assert isinstance(error, ServiceUnavailable)
    assert str(error).endswith("it closed the connection without an answer")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = asked(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert isinstance(error, ServiceUnavailable)
    assert str(error).endswith("it does not answer in time")


@pytest.mark.parametrize("password", ["sésamo-ä-ß", "preço: 5 €", "비밀번호"])
def test_credentials_are_sent_in_utf_8(password: str) -> None:
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                got.append(connection.recv(1 << 16))
                body = b'{"DatabaseServerIdentifier": "x", "OverwriteInstances": false}'
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = Orthanc(f"http://127.0.0.1:{server.getsockname()[1]}", username="joão", password=password)
        assert client.identity() == "x"
        client.close()
        thread.join(timeout=10)
    assert base64.b64encode(f"joão:{password}".encode()) in got[0]


def test_orthanc_takes_a_password_beyond_latin_1(tmp_path: Path) -> None:
    need("Orthanc")
    server = OrthancServer(tmp_path, username="joão", password="preço: 5 €")
    server.start()
    try:
        client = Orthanc(server.url, username="joão", password="preço: 5 €")
        assert isinstance(client.identity(), str)
        client.close()
    finally:
        server.stop()
