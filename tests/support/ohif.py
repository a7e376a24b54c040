"""The OHIF viewer before a real Orthanc, as a stack's web server puts it: one origin, with the headers that it needs.

`scripts/ohif` installs it; ``OHIF`` names its folder for the tests, which skip with the reason where it is missing.
"""

from __future__ import annotations

import mimetypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from tests.support.servers import OrthancServer

FOLDER = Path(os.environ.get("OHIF", "/var/tmp/ohif"))  # where scripts/ohif puts it
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

#: Where the tests keep what they see, for people to look at.
PICTURES = Path(os.environ["OHIF_PICTURES"]) if "OHIF_PICTURES" in os.environ else None

#: Shared memory between its threads asks for both.
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_CONFIGURATION = b"""
window.config = {
  routerBasename: "/", showStudyList: false, extensions: [], modes: [], investigationalUseDialog: {option: "never"},
  defaultDataSourceName: "dicomweb",
  dataSources: [{
    namespace: "@ohif/extension-default.dataSourcesModule.dicomweb", sourceName: "dicomweb",
    configuration: {
      friendlyName: "Orthanc", name: "orthanc", qidoRoot: "/dicom-web", wadoRoot: "/dicom-web",
      wadoUriRoot: "/dicom-web", qidoSupportsIncludeField: false, imageRendering: "wadors",
      thumbnailRendering: "wadors", enableStudyLazyLoad: true, supportsFuzzyMatching: false,
      supportsWildcard: false, bulkDataURI: {enabled: true},
    },
  }],
};
"""


def lacking() -> str:
    """Return why the viewer can't be run here; empty where it can."""
    if not (FOLDER / "dist/index.html").exists():
        return f"no OHIF in {FOLDER}: see scripts/ohif"
    return "" if DICOMWEB.exists() else "the DICOMweb plug-in of Orthanc is not installed (orthanc-dicomweb)"


@contextmanager
def an_ohif(orthanc: OrthancServer) -> Iterator[str]:
    """Serve the viewer before an Orthanc that has the DICOMweb plug-in; its address, until the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path.startswith("/dicom-web/"):
                self._pass_on()
                return
            file = FOLDER / "dist" / path.lstrip("/")
            if path == "/app-config.js":
                self._send(200, "text/javascript", _CONFIGURATION)
            elif file.is_file():
                self._send(
                    200, mimetypes.guess_type(file)[0] or "application/octet-stream", file.read_bytes()
                )
            elif file.suffix:
                self._send(404, "text/plain", b"")
            else:  # a page of the one application
                self._send(200, "text/html", (FOLDER / "dist/index.html").read_bytes())

        def _pass_on(self) -> None:
            answer = requests.get(
                orthanc.url + self.path,
                # Orthanc names the bulk data of a document by the host that it is asked for: the browser's, or
                # the browser refuses it as another origin's.
                headers={"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]},
                auth=orthanc.auth,
                timeout=60,
            )
            self._send(answer.status_code, answer.headers.get("Content-Type", ""), answer.content)

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            for name, value in {
                **_HEADERS,
                "Content-Type": kind,
                "Content-Length": str(len(content)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name there
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
