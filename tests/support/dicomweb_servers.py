"""DICOMweb servers of three makes, on loopback and free ports: Orthanc's plugin, tiny-pacs, and one of our own.

The third has habits that the standard allows and the other two don't have, and fails on request.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from backlog.dicom.header import identity, read_header
from backlog.dicom.values import text
from backlog.pacs.dicomweb import Dicomweb
from tests.support.servers import OrthancServer, free_port, wait_until

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
TINY_PACS = Path(sys.executable).with_name("tiny-pacs")


@contextmanager
def orthanc_dicomweb(folder: Path) -> Iterator[OrthancServer]:
    """Orthanc with its DICOMweb plugin."""
    if not PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    server = OrthancServer(
        folder / "orthanc", options={"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True}}
    )
    server.folder.mkdir(parents=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def address(server: OrthancServer) -> str:
    return f"dicomweb+{server.url}/dicom-web"


@contextmanager
def tiny_pacs(folder: Path, token: str) -> Iterator[str]:
    """The PACS of PyPI's tiny-pacs, which asks for a bearer token; yields its address."""
    if not TINY_PACS.exists():
        pytest.skip("tiny-pacs is not installed")
    port = free_port()
    components = {
        "Database": {
            "on": True,
            "driver": "sqlite",
            "db_name": str(folder / "tiny.sqlite"),
            "uri": False,
        },
        **{name: {"on": True} for name in ("Devices", "PACS", "InMemoryStorage")},
        "HttpServer": {"on": True, "host": "127.0.0.1", "port": port},
        "DICOMWeb": {"on": True, "prefix": "/dicomweb", "auth": "token", "tokens": [token]},
    }
    configuration = folder / "tiny.yaml"  # JSON is YAML
    configuration.write_text(
        json.dumps({"ae": {"ae_title": ["TINY"], "port": free_port()}, "components": components})
    )
    url = f"http://127.0.0.1:{port}/dicomweb"

    def answers() -> bool:
        try:
            headers = {"Authorization": f"Bearer {token}"}
            return requests.get(f"{url}/studies", headers=headers, timeout=5).ok
        except requests.RequestException:
            return False

    with (folder / "tiny.log").open("ab") as log:
        process = subprocess.Popen(
            [str(TINY_PACS), "run", "-c", str(configuration)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        wait_until(answers, what="tiny-pacs answers")
        yield f"dicomweb+{url}"
    finally:
        process.terminate()
        process.wait(20)


#: What the strict server searches by, or answers.
_SEARCHED = (
    "PatientID",
    "AccessionNumber",
    "StudyDate",
    "StudyTime",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SOPClassUID",
    "SOPInstanceUID",
)
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "AccessionNumber")

#: What a test makes the strict server answer: a status, a body, its headers.
Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class StrictServer:
    """A DICOMweb server of few resources and many habits.

    Pages are short, ``204`` says that nothing matches, parts come in chunks behind a preamble with a quoted boundary,
    duplicates are refused with ``409``. It has neither all instances nor those of a study as one resource.
    """

    page: int = 10  #: most results of one answer
    cap: int = 1_000_000  #: most results of one query, over all its pages
    shuffled: bool = False  #: the order of results changes with each answer
    selects_by_date: bool = True
    selects_by_identifiers: bool = True
    answers_accession_number: bool = True
    relational: bool = False  #: whether it has all series and all instances as resources
    deletes: bool = True
    announced: dict[str, Any] = field(default_factory=dict)  #: instances that it says a study has
    ignores_offset: bool = False  #: shows the first page again and again
    answers_modality: bool = True
    nameless: int = 0  #: results of each page with others that have no UID
    token: str = ""
    instances: dict[str, bytes] = field(default_factory=dict)  #: by study/series/instance
    requests: list[str] = field(default_factory=list)
    override: Callable[[str, str], Answer | None] = field(default=lambda method, path: None)
    #: What it makes of a file that it stores.
    coerce: Callable[[bytes], bytes] = field(default=lambda dicom: dicom)
    store_answer: Callable[[str, str], Answer | None] = field(default=lambda sop, uid: None)
    _server: ThreadingHTTPServer = field(init=False)
    _known: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)

    def __enter__(self) -> StrictServer:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"dicomweb+http://127.0.0.1:{self._server.server_port}/rs"

    def client(self, **more: Any) -> Dicomweb:
        return Dicomweb(self.url, seconds=10.0, **more)

    def add(self, dicom: bytes) -> str:
        of = identity(read_header(dicom))
        name = f"{of.study_instance_uid}/{of.series_instance_uid}/{of.sop_instance_uid}"
        self.instances[name] = dicom
        return name

    def search(self, level: int, above: list[str], query: dict[str, list[str]]) -> list[dict[str, Any]]:
        """Return one page of what matches, as DICOM JSON."""
        found: dict[str, dict[str, Any]] = {}
        for name, dicom in sorted(self.instances.items()):
            uids = name.split("/")
            if uids[: len(above)] != above:
                continue
            known = self._attributes(name, dicom)
            if not self._matches(known, query):
                continue
            entry: dict[str, tuple[str, Any]] = {"0020000D": ("UI", uids[0])}
            entry["00100020"] = ("LO", known["PatientID"])
            entry["00080020"] = ("DA", known["StudyDate"])
            if self.answers_accession_number:
                entry["00080050"] = ("SH", known["AccessionNumber"])
            if level == 0 and uids[0] in self.announced:
                entry["00201208"] = ("IS", self.announced[uids[0]])
            if level >= 1:
                entry["0020000E"] = ("UI", uids[1])
                if self.answers_modality:
                    entry["00080060"] = ("CS", known["Modality"])
            if level >= 2:
                entry["00080018"] = ("UI", uids[2])
                entry["00080016"] = ("UI", known["SOPClassUID"])
            found["/".join(uids[: level + 1])] = {
                tag: {"vr": vr, **({"Value": [value]} if value else {})} for tag, (vr, value) in entry.items()
            }
        results = list(found.values())[: self.cap]
        if self.shuffled:
            secrets.SystemRandom().shuffle(results)
        offset = 0 if self.ignores_offset else int(query.get("offset", ["0"])[0])
        limit = min(self.page, int(query.get("limit", ["100000"])[0]))
        page = results[offset : offset + limit]
        return [{} for _ in range(self.nameless)] + page if page else []

    def _attributes(self, name: str, dicom: bytes) -> dict[str, str]:
        """Return what is searched of an instance; read once."""
        held, found = self._known.get(name, (b"", {}))
        if held is not dicom:
            header = read_header(dicom)
            found = {keyword: text(header, keyword) for keyword in _SEARCHED}
            self._known[name] = dicom, found
        return found

    def _matches(self, known: dict[str, str], query: dict[str, list[str]]) -> bool:
        for keyword in ("StudyDate", "StudyTime"):
            wanted = query.get(keyword, [""])[0]
            first, dash, last = wanted.partition("-")
            value = known[keyword]
            outside = not value or value < first or value > (last if dash else first)
            if wanted and self.selects_by_date and outside:
                return False
        for keyword in _IDENTIFIERS if self.selects_by_identifiers else ():
            if query.get(keyword, [""])[0].lower() not in ("", known[keyword].lower()):
                return False
        modality = query.get("ModalitiesInStudy", [""])[0]
        return modality in ("", known["Modality"])


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients break off what they have read enough of."""


def _handler(server: StrictServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _json(self, status: int, body: Any, **headers: str) -> None:
            self._answer(status, json.dumps(body).encode(), Content_Type="application/dicom+json", **headers)

        def _begin(self) -> list[str] | None:
            """Return the path's parts below the root; None where the request is answered."""
            length = int(self.headers.get("Content-Length", 0))
            self.body = self.rfile.read(length)
            path = urlsplit(self.path).path
            server.requests.append(f"{self.command} {self.path}")
            if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
                self._answer(401, b"", WWW_Authenticate="Bearer")
                return None
            overridden = server.override(self.command, self.path)
            if overridden is not None:
                status, body, headers = overridden
                self._answer(status, body, **headers)
                return None
            parts = path.strip("/").split("/")
            if server.relational and parts[1:] in (["series"], ["instances"]):
                return parts[1:]
            if parts[:2] != ["rs", "studies"]:
                self._answer(404, b"nothing here")
                return None
            return parts[2:]

        def do_GET(self) -> None:
            parts = self._begin()
            if parts is None:
                return
            query = parse_qs(urlsplit(self.path).query)
            levels: dict[tuple[int, str], int] = {(0, ""): 0, (2, "series"): 1, (4, "instances"): 2}
            if parts in (["series"], ["instances"]):
                self._json(200, server.search(1 + (parts == ["instances"]), [], query))
                return
            level = levels.get((len(parts), parts[-1] if parts else ""))
            if level is not None:
                found = server.search(level, parts[0:4:2][:level], query)
                if found:
                    self._json(200, found, Warning='299 strict "more results can be requested"')
                else:
                    self._answer(204)
            elif len(parts) == 5 and "/".join(parts[::2]) in server.instances:
                self._file(server.instances["/".join(parts[::2])])
            else:
                self._answer(404, b"no such object")

        def _file(self, dicom: bytes) -> None:
            accepted = self.headers.get("Accept", "")
            if "transfer-syntax=*" not in accepted or "multipart/related" not in accepted:
                self._answer(406)
                return
            boundary = "strict boundary: " + secrets.token_hex(8)
            message = b"\r\n".join(
                (
                    b"This is a preamble.",
                    b"--" + boundary.encode(),
                    b'Content-Type: application/dicom; transfer-syntax="1.2.840.10008.1.2.1"',
                    b"Content-Location: /somewhere",
                    b"",
                    dicom,
                    b"--" + boundary.encode() + b"--",
                    b"And an epilogue.",
                )
            )
            self.send_response(200)
            self.send_header(
                "Content-Type", f'Multipart/Related; boundary="{boundary}"; Type="application/dicom"'
            )
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(message), 7919):
                step = message[start : start + 7919]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(step), step))
            self.wfile.write(b"0\r\n\r\n")

        def do_POST(self) -> None:
            if self._begin() is None:
                return
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            dicom = self.body.split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--" + boundary)[0]
            of = identity(read_header(dicom))
            answer = server.store_answer(of.sop_class_uid, of.sop_instance_uid)
            if answer is not None:
                status, body, headers = answer
                self._answer(status, body, **headers)
            elif any(name.endswith(f"/{of.sop_instance_uid}") for name in server.instances):
                self._json(409, failed(0x0111, of.sop_instance_uid))
            else:
                kept = server.coerce(dicom)
                server.add(kept)
                said = stored(of.sop_instance_uid, warning=None if kept == dicom else 0xB000)
                self._json(202 if kept != dicom else 200, said)

        def do_DELETE(self) -> None:
            parts = self._begin()
            if parts is None:
                return
            if not server.deletes:
                self._answer(405)
            elif server.instances.pop("/".join(parts[::2]), None) is None:
                self._answer(404)
            else:
                self._answer(204)

    return Handler


def failed(reason: int, uid: str = "") -> dict[str, Any]:
    """The answer to a store that failed (PS3.18 table 10.5.3-1)."""
    item: dict[str, Any] = {"00081197": {"vr": "US", "Value": [reason]}}
    if uid:
        item["00081155"] = {"vr": "UI", "Value": [uid]}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


def stored(uid: str, warning: int | None = None) -> dict[str, Any]:
    """The answer to a store that succeeded."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return {"00081199": {"vr": "SQ", "Value": [item]}}
