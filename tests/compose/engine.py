"""A Docker Engine of a test's own, empty at its start: one that may be killed without harm to the user's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers import wait_until

#: Its default bridge, which no container uses: without one of its own it would take the other engine's, docker0.
_BRIDGE = "cxr-test0"
_BRIDGE_ADDRESS = "10.213.255.1/24"

#: Lets what one bridge joins pass: its own containers, which the other engine's filter drops as strangers. By the
#: bridge and not by address, since addresses of its own would have to come from --default-address-pool: an engine with
#: one, as with --bridge=none, deletes the interface docker0 when it starts again, whosever that is
#: (removeDefaultBridgeInterface in moby's daemon/daemon_unix.go).
_RULE = ["DOCKER-USER", "-m", "physdev", "--physdev-is-bridged", "-j", "ACCEPT"]


def missing() -> str:
    """Why there can be no engine of a test's own here; empty when there can."""
    if os.geteuid() != 0:
        return "only root may start an engine"
    return "" if shutil.which("dockerd") else "no dockerd here"


@dataclass
class Engine:
    """dockerd with the containerd that it starts.

    It leaves the machine's packet filter and bridge to the engine that is there already, but for one rule that lets its
    own containers reach each other.
    """

    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", "--host", self.host, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [
            f"--data-root={self.folder}/data",
            f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/dockerd.pid",
            f"--host={self.host}",
            f"--bridge={_BRIDGE}",
            "--iptables=false",
            "--ip6tables=false",
        ]
        self._leave_no_trace()  # of before a kill
        self._filter("-I")
        for command in ("add {} type bridge", "set {} up"):
            subprocess.run(["ip", "link", *command.format(_BRIDGE).split()], check=True)
        subprocess.run(["ip", "address", "add", _BRIDGE_ADDRESS, "dev", _BRIDGE], check=True)
        with (self.folder / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["dockerd", *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        wait_until(self._answers, 120, "the engine answers")

    def kill(self) -> None:
        """Kill dockerd and its containerd as a crash of the machine's memory or the kernel does; nothing is told."""
        assert self.process is not None
        note = self.folder / "exec" / "containerd" / "containerd.pid"
        containerd = int(note.read_text())
        self.process.kill()
        os.kill(containerd, signal.SIGKILL)
        self.process.wait(60)
        self.process = None
        # Until it is reaped, a new dockerd takes it for one that is still running, and waits for it in vain.
        note.unlink()

    def stop(self) -> None:
        """Stop it with whatever still runs in it."""
        if self.process is None:
            return
        self.process.terminate()
        self.process.wait(120)
        self.process = None
        self._leave_no_trace()
        # A killed engine leaves its mounts behind.
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((one for one in mounts if one.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", place], capture_output=True)

    def _leave_no_trace(self) -> None:
        self._filter("-D")
        subprocess.run(["ip", "link", "delete", _BRIDGE], capture_output=True)

    def _filter(self, what: str) -> None:
        """Insert the rule, or delete it. Without the chain there is no other engine, and nothing to be let through."""
        subprocess.run(["iptables", what, *_RULE], capture_output=True)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "dockerd.log").read_text()[-2000:]
        return subprocess.run(["docker", "--host", self.host, "info"], capture_output=True).returncode == 0
