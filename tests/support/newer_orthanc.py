"""Orthanc 1.12 in a root folder of its own, beside the one that is installed.

`scripts/newer-orthanc FOLDER` makes such a folder (Debian trixie, 250 MB); ``NEWER_ORTHANC`` names it for the tests,
which skip with the reason where it is missing. Entering it needs root.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import OrthancServer, missing, wait_until

FOLDER = Path(os.environ.get("NEWER_ORTHANC", "/var/tmp/trixie-orthanc"))

#: The versions that tests run with.
VERSIONS = ("installed", "1.12")


def lacking(version: str) -> str:
    """Return why a version can't be run here; empty where it can."""
    if version == "installed":
        return "Orthanc is not installed" if missing("Orthanc") else ""
    if not (FOLDER / "usr/sbin/Orthanc").exists():
        return f"no Orthanc 1.12 in {FOLDER}: see scripts/newer-orthanc"
    return "" if os.geteuid() == 0 else "entering the root folder of Orthanc 1.12 needs root"


class NewerOrthanc(OrthancServer):
    """Its folder has to lie below :data:`FOLDER`."""

    host = ""  #: the host name that it sees, its own UTS namespace's; empty: this machine's

    def start(self) -> None:
        index = self.folder / "index"
        index.mkdir(parents=True, exist_ok=True)
        self.storage.mkdir(exist_ok=True)
        configuration = self.folder / "inside.json"
        configuration.write_text(self._configuration().read_text())
        environment = (
            os.environ
            | self.environment
            | {
                "CXR_ORTHANC_STORAGE": _inside(self.storage),
                "CXR_ORTHANC_INDEX": _inside(index),
                "CXR_ORTHANC_PORT": str(self.port),
            }
        )
        command = ["chroot", str(FOLDER), "Orthanc", _inside(configuration)]
        if self.host:
            rename = f'hostname {self.host}; exec "$@"'
            command = ["unshare", "--uts", "sh", "-c", rename, "sh", *command]
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self.answers, what="Orthanc answers")


def _inside(path: Path) -> str:
    return f"/{path.relative_to(FOLDER)}"


@contextmanager
def made_orthanc(version: str, folder: Path, **options: object) -> Iterator[OrthancServer]:
    """Make an Orthanc of a version, not started. At the end it is stopped, and its files elsewhere are removed."""
    if version == "installed":
        server = OrthancServer(folder / f"orthanc-{secrets.token_hex(4)}", options=options)
    else:
        server = NewerOrthanc(FOLDER / "var/tmp" / f"tests-{secrets.token_hex(8)}", options=options)
    server.folder.mkdir(parents=True)
    try:
        yield server
    finally:
        server.stop()
        if version != "installed":
            subprocess.run(["rm", "-rf", str(server.folder)], check=True)


@contextmanager
def an_orthanc(version: str, folder: Path, **options: object) -> Iterator[OrthancServer]:
    """Start an Orthanc of a version with options other than our orthanc.json's; stopped at the end."""
    with made_orthanc(version, folder, **options) as server:
        server.start()
        yield server
