"""What a store costs Orthanc 1.10 and 1.12: ``python -m bench.orthanc_versions [IMAGES]``.

Both have the project's own orthanc.json and take the same images and reports in turn; their CPU is read from the
kernel. Needs a root folder with Orthanc 1.12 (`scripts/newer-orthanc`).
"""

from __future__ import annotations

import statistics
import sys
import zipfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil
import requests

from backlog.dicom.file import DicomFile
from backlog.model import DEFAULT_MODEL, LABELS, MODEL_VERSION, PREPROCESSING
from bench.end_to_end import write_zip
from tests.support.newer_orthanc import VERSIONS, lacking, made_orthanc
from tests.support.servers import OrthancServer
from worker.sr import build as sr

_MODEL: Final = sr.Model(DEFAULT_MODEL, MODEL_VERSION, "0" * 64, PREPROCESSING)
_WARM_UP: Final = 3
_WITHOUT_FINDINGS: Final = [0.1] * len(LABELS)


def _report(image: bytes) -> bytes:
    built = sr.build(
        sr.read_source(DicomFile(image)),
        _WITHOUT_FINDINGS,
        [],
        model=_MODEL,
        options=sr.Options(),
        when=datetime.now(UTC),
    )
    return built.dicom


def _process(server: OrthancServer) -> psutil.Process:
    """Return the process of a server, once it is started."""
    if server.process is None:
        raise RuntimeError("the server was not started")
    return psutil.Process(server.process.pid)


def _cpu_of_store(server: OrthancServer, dicom: bytes) -> float:
    """Return the seconds of CPU that the server takes for a store."""
    process = _process(server)
    before = sum(process.cpu_times()[:2])
    answer = requests.post(
        f"{server.url}/instances", data=dicom, auth=(server.username, server.password), timeout=60
    )
    answer.raise_for_status()
    return float(sum(process.cpu_times()[:2]) - before)


def measure(count: int = 60) -> None:
    """Store images and reports in turn in both versions; print the table."""
    if reason := lacking("1.12"):
        raise SystemExit(reason)
    seen: dict[tuple[str, str], list[float]] = {}
    with TemporaryDirectory(prefix="cxr-bench-") as place, ExitStack() as stack:
        folder = Path(place)
        write_zip(folder / "images.zip", count + _WARM_UP, 1)
        servers = {version: stack.enter_context(made_orthanc(version, folder)) for version in VERSIONS}
        for server in servers.values():
            server.start()
        with zipfile.ZipFile(folder / "images.zip") as archive:
            for slot, member in enumerate(archive.namelist()):
                image = archive.read(member)
                for what, dicom in (("image", image), ("report", _report(image))):
                    for version, server in servers.items():
                        seconds = _cpu_of_store(server, dicom)
                        if slot >= _WARM_UP:
                            seen.setdefault((what, version), []).append(seconds)
    for what in ("image", "report"):
        oldest = statistics.fmean(seen[what, VERSIONS[0]])
        for version in VERSIONS:
            mean = statistics.fmean(seen[what, version])
            print(
                f"{what:<8}{version:<12}{1e3 * mean:>7.1f} ms of CPU{mean / oldest:>7.2f} of the installed one's"
            )


if __name__ == "__main__":
    measure(*(int(word) for word in sys.argv[1:]))
