"""An HTTP proxy before Orthanc that fails for some images, always, and serves all others."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

import requests

_HOP_BY_HOP: Final = ("content-length", "connection", "transfer-encoding", "keep-alive", "host")


class FailingProxy:
    """A context.

    Parameters
    ----------
    upstream
        Orthanc's address.
    uids
        SOP Instance UIDs of the images that it fails for.
    status
        What it then answers.
    reads
        Whether it fails to give them; otherwise it fails to take them.
    """

    def __init__(self, upstream: str, uids: Collection[str], status: int, *, reads: bool) -> None:
        self.upstream, self.status, self.reads = upstream, status, reads
        self.failed = 0  #: requests
        self._uids = [uid.encode() for uid in uids]
        self._ids: set[str] = set()  #: Orthanc's, of these images
        self._local = threading.local()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="failing-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def heal(self) -> None:
        """Serve every image from now on."""
        self._uids, self._ids = [], set()

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and content of the answer to one request."""
        storing = method == "POST" and path == "/instances"
        concerned = (
            storing and b"1.2.840.10008.5.1.4.1.1.88" not in body and any(u in body for u in self._uids)
        )
        if (concerned and not self.reads) or (self.reads and any(f"/{one}/" in path for one in self._ids)):
            self.failed += 1
            return self.status, {}, b""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        passed = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
        found = self._local.session.request(
            method,
            self.upstream + path,
            data=body or None,
            headers=passed,
            allow_redirects=False,
            timeout=120,
        )
        if concerned and found.ok:
            self._ids.add(json.loads(found.content)["ID"])
        kept = {name: value for name, value in found.headers.items() if name.lower() not in _HOP_BY_HOP}
        kept.pop("Content-Encoding", None)
        return found.status_code, kept, found.content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _pass(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else b""
                status, headers, content = proxy.answer(self.command, self.path, self.headers, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _pass  # noqa: N815  # the library's names

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that are gone."""
