"""A gate before a real Orthanc that lets so many reports through, so that a run can be caught before its end."""

from __future__ import annotations

import http.client
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

#: The beginning of the SOP Class UIDs of structured reports, which stands in a file's first bytes.
_SR = b"1.2.840.10008.5.1.4.1.1.88."
_BEGINNING = 800


class ReportGate:
    """A context. Forwards everything to an Orthanc, but answers 503 to a report that is one too many.

    Whoever stores them waits then, as for any PACS that is unavailable for a while: neither a slow machine nor a fast
    one changes at which image a run is.
    """

    def __init__(self, port: int) -> None:
        self._left: float = 0
        self._lock = threading.Lock()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                is_report = self.command == "POST" and _SR in body[:_BEGINNING]
                if is_report and not gate.take():
                    self._answer(503, b"", "text/plain")
                    return
                headers = {
                    name: self.headers[name]
                    for name in ("Authorization", "Content-Type", "Accept")
                    if name in self.headers
                }
                orthanc = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    orthanc.request(self.command, self.path, body or None, headers)
                    answer = orthanc.getresponse()
                    content = answer.read()
                finally:
                    orthanc.close()
                if is_report and b"AlreadyStored" in content:
                    gate.allow(1)  # nothing was stored
                self._answer(answer.status, content, answer.headers.get("Content-Type", "text/plain"))

            def _answer(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = _forward  # noqa: N815  # the base class looks for these

            def handle(self) -> None:
                with suppress(ConnectionError):  # of a worker that was killed
                    super().handle()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def allow(self, reports: float) -> None:
        """Let so many more reports be stored."""
        with self._lock:
            self._left += reports

    def open(self) -> None:
        """Let all through from now on."""
        self.allow(float("inf"))

    def take(self) -> bool:
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
