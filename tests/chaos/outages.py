"""Experiments with what is unavailable, slow, full or repeated: servers, network, disk, messages."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.chaos.copier import Copier
from tests.chaos.proxy import Proxy
from tests.chaos.rig import Rig
from tests.chaos.table import Finding, finding

_FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def orthanc_away(
    folder: Path, *, items: int, seconds: float = 30, limit: float = 1200, soon: float = 60
) -> Finding:
    """4: Orthanc is stopped for a while, then answers 503 for a while."""
    with Rig(folder, items) as rig, Proxy(rig.orthanc.port) as proxy:
        rig.pacs_port = proxy.port
        rig.start_workers()
        rig.start_producer()
        rig.until(lambda: rig.ended() >= items // 10, limit, "a tenth has ended")
        rig.orthanc.stop()
        time.sleep(seconds)
        rig.orthanc.start()
        first = _until_it_moves(rig, limit)
        proxy.refuse = True
        time.sleep(seconds)
        proxy.refuse = False
        second = _until_it_moves(rig, limit)
        took = rig.until_finished(limit)
        account = rig.account()
    what = f"stopped {seconds:g} s, then 503 for {seconds:g} s; again after {first:.0f} s and {second:.0f} s"
    return finding("4 Orthanc away", account, took, what, passed=max(first, second) <= soon)


def _until_it_moves(rig: Rig, limit: float) -> float:
    began, ended = time.monotonic(), rig.ended()
    rig.until(lambda: rig.ended() > ended or rig.finished, limit, "it goes on")
    return time.monotonic() - began


def delivered_thrice(folder: Path, *, items: int, limit: float = 1200) -> Finding:
    """5: every message is delivered three times, and a worker's clock is two hours ahead."""
    clock = {"LD_PRELOAD": str(_FAKETIME), "FAKETIME": "+2h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    fake = _FAKETIME.exists()
    with Rig(folder, items) as rig:
        rig.start_workers(**(clock if fake else {}))
        with Copier(rig.redis, copies=2) as copier:
            rig.start_producer()
            seconds = rig.until_finished(limit)
        account = rig.account()
    what = f"{copier.messages} messages delivered thrice; " + (
        "the inference worker's clock two hours ahead" if fake else "NO CLOCK TEST: faketime is not installed"
    )
    return finding(
        "5 messages thrice, clock off", account, seconds, what, passed=copier.messages > 0 and fake
    )


def bad_network(folder: Path, *, items: int, seconds: float = 60, limit: float = 1200) -> Finding:
    """6: 20 ms between workers and Redis each way, and a black hole for a while."""
    with Rig(folder, items) as rig, Proxy(rig.redis.port) as proxy:
        proxy.delay = 0.02
        rig.redis_port = proxy.port
        rig.start_workers()
        rig.start_producer()
        rig.until(lambda: rig.ended() >= items // 4, limit, "a quarter has ended")
        proxy.hole = True
        time.sleep(seconds)
        proxy.hole = False
        again = _until_it_moves(rig, limit)
        took = rig.until_finished(limit)
        account = rig.account()
    what = f"20 ms each way, black hole of {seconds:g} s; going again after {again:.0f} s"
    return finding("6 bad network", account, took, what)


def full_redis(folder: Path, *, items: int, seconds: float = 5, limit: float = 1200) -> Finding:
    """7a: Redis takes no writes for a while."""
    with Rig(folder, items) as rig:
        rig.start_workers()
        rig.start_producer()
        rig.until(lambda: rig.ended() >= items // 4, limit, "a quarter has ended")
        starts = [slot.starts for slot in rig.slots]
        rig.redis.client.config_set("maxmemory", 1)
        time.sleep(seconds)
        rig.redis.client.config_set("maxmemory", 0)
        again = _until_it_moves(rig, limit)
        took = rig.until_finished(limit)
        died = sum(slot.starts for slot in rig.slots) - sum(starts)
        account = rig.account()
    what = f"maxmemory for {seconds:g} s; {died} workers ended; going again after {again:.0f} s"
    return finding("7a Redis full", account, took, what, passed=died == 0)


def full_disk(folder: Path, *, items: int, seconds: float = 5, limit: float = 1200) -> Finding:
    """7b: the disk of the run's folder and of the PACS (a folder) is full for a while."""
    title = "7b disk full"
    if os.geteuid() != 0:
        return Finding(title, 0, 0, 0, 0, 0, 0, "NOT RUN: mounting a small disk needs root", passed=False)
    with (
        Rig(folder, items) as rig,
        _small_disk(folder / "disk", rig.backlog.stat().st_size + items * 64_000 + 8_000_000),
    ):
        rig.move_to(folder / "disk")
        rig.start_workers()
        rig.start_producer()
        rig.until(lambda: rig.ended() >= items // 4, limit, "a quarter has ended")
        starts = [slot.starts for slot in rig.slots]
        ballast = folder / "disk" / "ballast"
        _fill(ballast)
        time.sleep(seconds)
        stuck = rig.ended()
        ballast.unlink()
        again = _until_it_moves(rig, limit)
        took = rig.until_finished(limit)
        died = sum(slot.starts for slot in rig.slots) - sum(starts)
        account = rig.account()
    what = f"full for {seconds:g} s at item {stuck}; {died} workers ended; going again after {again:.0f} s"
    return finding(title, account, took, what, passed=died == 0)


@contextmanager
def _small_disk(path: Path, size: int) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
