"""dcmtk's image archive as the hospital: a second make of PACS, strict about the hierarchy of queries."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers import free_port, wait_until


@dataclass
class DcmtkArchive:
    """dcmqrscp on a folder. A context would hide the process: start and stop it."""

    folder: Path
    stack: int  #: the port of the Orthanc that may move images to itself, as STACK
    title: str = "DCMQRSCP"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        area = self.folder / "area"
        area.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "dcmqrscp.cfg"
        configuration.write_text(
            f"""NetworkTCPPort = {self.port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
stack = (STACK, 127.0.0.1, {self.stack})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{self.title} {area} RW (9999, 1024mb) ANY
AETable END
"""
        )
        with (self.folder / "dcmqrscp.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["dcmqrscp", "-c", str(configuration)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self._listens, what="dcmqrscp listens")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def hold(self, file: bytes) -> None:
        """Store an image, as a modality of the hospital does."""
        path = self.folder / "image.dcm"
        path.write_bytes(file)
        command = ["storescu", "-aec", self.title, "127.0.0.1", str(self.port), str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def count(self, modality: str) -> int:
        """Return how many objects of a modality it lists."""
        import io

        from pydicom import dcmread

        files = [one for one in (self.folder / "area").iterdir() if one.name != "index.dat"]
        return sum(dcmread(io.BytesIO(one.read_bytes())).Modality == modality for one in files)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
