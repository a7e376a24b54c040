"""Experiment 12: several machines, each a network namespace with an address of its own; Redis and Orthanc over TLS."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from tests.chaos.account import Account, endings, reports_in, settle
from tests.chaos.images import ENGINE
from tests.chaos.link import SERVER, Link, Network, inside, lacking
from tests.chaos.rig import Rig, WorkerSlot
from tests.chaos.table import Finding, finding
from tests.support.servers import ROOT, RedisServer, free_port, missing

#: Seconds that a packet takes, each way: to a machine in the same building, and to one far away.
NEAR, FAR = 0.005, 0.050

_CUT_SECONDS: Final = 60.0

#: The far machine's worker, as the ledger names it.
_FAR_ONE: Final = "inference-1"


class SeveralMachines(Rig):
    """A rig whose servers, producer and upload are on one machine, and whose inference is on others.

    Parameters
    ----------
    folder
        For all files.
    items
        Images.
    machines
        What joins the others with the server.
    """

    def __init__(self, folder: Path, items: int, machines: Sequence[Link]) -> None:
        folder.mkdir(parents=True)
        (folder / ".env").touch()
        subprocess.run(
            ["sh", str(ROOT / "deploy" / "tls.sh"), SERVER], cwd=folder, check=True, capture_output=True
        )
        tls = folder / "tls"
        self.authority = tls / "ca.crt"
        super().__init__(folder / "rig", items)
        self.tls_port, self.https_port = free_port(), free_port()
        # As in the stack: Debian's Orthanc 1.10 resets connections of TLS 1.3.
        self.tunnel: subprocess.Popen[bytes] | None = None
        self.tunnel_conf = folder / "stunnel.conf"
        self.tunnel_conf.write_text(
            f"foreground = yes\npid =\ncert = {tls / 'server.crt'}\nkey = {tls / 'server.key'}\n"
            f"[orthanc]\naccept = {SERVER}:{self.https_port}\nconnect = 127.0.0.1:{self.orthanc.port}\n"
        )
        options = ["--protected-mode", "no", "--bind", "127.0.0.1", SERVER, "--tls-auth-clients", "no"]
        options += ["--tls-port", str(self.tls_port), "--tls-ca-cert-file", str(self.authority)]
        options += ["--tls-cert-file", str(tls / "server.crt"), "--tls-key-file", str(tls / "server.key")]
        self.redis = RedisServer(self.folder / "redis", persistent=True, options=options)
        self.machines = machines

    def __enter__(self) -> Self:
        super().__enter__()
        with (self.folder / "stunnel.log").open("wb") as log:
            self.tunnel = subprocess.Popen(["stunnel", str(self.tunnel_conf)], stdout=log, stderr=log)
        return self

    def __exit__(self, *how: object) -> None:
        if self.tunnel is not None:
            self.tunnel.terminate()
            self.tunnel.wait(20)
        super().__exit__(*how)

    def environment(self, redis_port: int) -> dict[str, str]:
        del redis_port
        return super().environment(self.tls_port) | {
            "CXR_REDIS_URL": f"rediss://{SERVER}:{self.tls_port}/0?ssl_ca_certs={self.authority}",
            "CXR_PACS_URL": f"https://{SERVER}:{self.https_port}",
            "CXR_PACS_CA": str(self.authority),
            # A chunk of 32 takes the far machine half a minute, and the run's end may come before.
            "CXR_CHUNK_SIZE": "8",
        }

    def start_workers(self, **inference: str) -> None:
        """Start upload and report beside the servers, and inference on each other machine."""
        own = self.environment(self.redis.port)
        self.slots = [WorkerSlot("io", "upload,report", 1, own, self.folder / "worker-io.log")]
        for number, link in enumerate(self.machines or [None]):
            name = f"inference-{number}"
            environment = own | inference | {ENGINE: name}
            slot = WorkerSlot(name, "inference", 1, environment, self.folder / f"worker-{number}.log")
            slot.prefix = ["ip", "netns", "exec", link.namespace] if link else []
            self.slots.append(slot)
        for slot in self.slots:
            slot.start()
        self._keeper.start()

    def account(self) -> Account:
        self.stop_workers()
        return settle(self.images, endings(self.paths.ledger), reports_in(self.orthanc))


@contextmanager
def _network(*delays: float) -> Iterator[list[Link]]:
    with Network() as network:
        machines = [network.add(delay) for delay in delays]
        with inside(network.server):
            yield machines


def machines(folder: Path, *, items: int, limit: float = 900) -> Finding:
    """12: inference on two other machines, 5 ms and 50 ms away; the far one is cut off in the middle of the run.

    Parameters
    ----------
    folder
        For all files.
    items
        Images of the run with the cut; a fifteenth of them, at least 60, for each rate beside it.
    limit
        Seconds that a run may take.
    """
    began = time.monotonic()
    if why := lacking() or ("no stunnel" if missing("stunnel") else ""):
        return finding("12 several machines", Account(0, 1, 0, 0, 0), 0, f"NOT RUN: {why}", passed=False)
    rates = {
        name: _rate(folder / name.replace(" ", "-"), max(60, items // 15), delays, limit)
        for name, delays in (("beside the servers", ()), ("5 ms away", (NEAR,)), ("50 ms away", (FAR,)))
    }
    with _network(NEAR, FAR) as links, SeveralMachines(folder / "cut", items, links) as rig:
        rig.start_workers()
        rig.start_producer()
        rig.until(
            lambda: rig.ended() >= items // 8 and _scored_by(rig, _FAR_ONE),
            limit,
            "an eighth has ended, some of it by the far machine",
        )
        links[1].cut()
        at_cut, by_far, cut = rig.ended(), _scored_by(rig, _FAR_ONE), time.monotonic()
        # At most until half have ended: it has to come back in the middle of the run, and TCP waits longer each time.
        while time.monotonic() - cut < _CUT_SECONDS and rig.ended() < items // 2:
            time.sleep(0.2)
        seconds, meanwhile = time.monotonic() - cut, rig.ended() - at_cut
        links[1].join()
        at_join = rig.ended()
        rig.until_finished(limit)
        again = _scored_by(rig, _FAR_ONE) - by_far
        account = rig.account()
    told = ", ".join(f"{rate:.1f} images/s {name}" for name, rate in rates.items())
    note = (
        f"one inference process alone: {told}. Of two machines the far one, which had scored {by_far} images, was cut"
        f" off for {seconds:.0f} s when {at_cut} had ended; meanwhile {meanwhile} ended, and of the {items - at_join}"
        f" left then the far one scored {again}"
    )
    passed = meanwhile > 0 and at_join < items and again > 0
    return finding("12 several machines", account, time.monotonic() - began, note, passed=passed)


def _scored_by(rig: Rig, engine: str) -> int:
    """Return how many items have ended that a worker with this engine scored."""
    with sqlite3.connect(f"file:{rig.paths.ledger}?mode=ro", uri=True, timeout=10) as ledger:
        return int(ledger.execute("SELECT count(*) FROM item WHERE engine = ?", (engine,)).fetchone()[0])


def _rate(folder: Path, items: int, delays: Sequence[float], limit: float) -> float:
    """Return how many images a second end where inference is so far away."""
    with _network(*delays) as links, SeveralMachines(folder, items, links) as rig:
        rig.start_workers()
        rig.start_producer()
        rig.until_finished(limit)
        assert rig.account().clean
        return items / rig.busy_seconds()
