"""A network of namespaces on one machine: each reaches the server's over a link with a delay, which can be cut.

What ``tc netem`` does, for kernels without it: a process carries IP packets between two TUN devices and holds each back
for the delay. Needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from tests.support.servers import ROOT

#: The server's address, in its own namespace.
SERVER: Final = "10.88.0.1"

_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_MTU: Final = 1500
_NAMES: Final = Path("/run/netns")


def lacking() -> str:
    """Return why there are no namespaces here; empty where there are."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a namespace with this thread, and with all processes and threads that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as own, (_NAMES / namespace).open() as other:
        _enter(libc, other.fileno())
        try:
            yield
        finally:
            _enter(libc, own.fileno())


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@dataclass
class Link:
    """What joins one namespace with the server's."""

    namespace: str
    process: subprocess.Popen[bytes]

    def cut(self) -> None:
        """Lose every packet from now on."""
        self.process.send_signal(signal.SIGUSR1)

    def join(self) -> None:
        """Carry packets again."""
        self.process.send_signal(signal.SIGUSR2)


@dataclass
class Network:
    """A context: the server's namespace, and links to others."""

    name: str = field(default_factory=lambda: f"cxr-{secrets.token_hex(3)}")
    links: list[Link] = field(default_factory=list)

    @property
    def server(self) -> str:
        """The server's namespace."""
        return self.name

    def __enter__(self) -> Self:
        _ip("netns", "add", self.server)
        _ip("-n", self.server, "link", "set", "lo", "up")
        _ip("-n", self.server, "addr", "add", f"{SERVER}/32", "dev", "lo")
        return self

    def __exit__(self, *_: object) -> None:
        for link in self.links:
            link.process.terminate()
            link.process.wait(10)
            _ip("netns", "del", link.namespace)
        _ip("netns", "del", self.server)

    def add(self, delay: float) -> Link:
        """Make a namespace whose packets take so many seconds to the server, and as many back."""
        number = len(self.links) + 1
        namespace = f"{self.name}-{number}"
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        command = [sys.executable, "-m", "tests.chaos.link", self.server, namespace, str(number), str(delay)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        link = Link(namespace, process)
        self.links.append(link)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return link


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


# -- the process that carries the packets --------------------------------------------------------------------


def _device(namespace: str, name: str) -> int:
    with inside(namespace):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    _ip("-n", namespace, "link", "set", name, "mtu", str(_MTU), "up")
    return device


class Carrier:
    """Carries packets between two devices."""

    def __init__(self, one: int, other: int, delay: float) -> None:
        self.to = {one: other, other: one}
        self.delay = delay
        self.cut = False
        self.waiting: deque[tuple[float, int, bytes]] = deque()

    def run(self) -> None:
        """Carry for ever."""
        while True:
            patience = max(0.0, self.waiting[0][0] - time.monotonic()) if self.waiting else None
            for device in select.select(list(self.to), [], [], patience)[0]:
                self._take(device)
            now = time.monotonic()
            while self.waiting and self.waiting[0][0] <= now:
                _, device, packet = self.waiting.popleft()
                with suppress(BlockingIOError):  # a full queue loses packets, as a network does
                    os.write(device, packet)

    def _take(self, device: int) -> None:
        due = time.monotonic() + self.delay
        for _ in range(64):
            try:
                packet = os.read(device, 1 << 16)
            except BlockingIOError:
                return
            if not self.cut:
                self.waiting.append((due, self.to[device], packet))


def main(server: str, namespace: str, number: str, delay: str) -> None:
    name = f"link{number}"
    address = f"10.88.{number}.2"
    devices = [_device(server, name), _device(namespace, name)]
    _ip("-n", server, "route", "add", f"{address}/32", "dev", name)
    _ip("-n", namespace, "addr", "add", f"{address}/32", "dev", name)
    _ip("-n", namespace, "route", "add", "default", "dev", name)
    carrier = Carrier(devices[0], devices[1], float(delay))

    def cut(*_: object) -> None:
        carrier.cut = True

    def join(*_: object) -> None:
        carrier.cut = False

    signal.signal(signal.SIGUSR1, cut)
    signal.signal(signal.SIGUSR2, join)
    print("ready", flush=True)
    carrier.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
