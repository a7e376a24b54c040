"""Experiments with what dies: workers, their children, Redis, the producer, and what poison kills."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

from tests.chaos.rig import Rig, WorkerSlot
from tests.chaos.table import Finding, finding
from tests.support.servers import wait_until

_SEED = 7


def _kill_workers(rig: Rig, kills: int, every: float) -> Counter[str]:
    """Kill random processes until there were enough or the run is complete."""
    chance = random.Random(_SEED)
    killed: Counter[str] = Counter()
    rig.until(lambda: rig.ended() or rig.redis.client.keys("cxr:*:c:*"), 120, "the first chunk is at work")
    while killed.total() < kills and not rig.finished:
        if killed.total() % 3 == 1:
            killed["worker"] += rig.kill_a_worker()
        else:
            killed["child"] += rig.kill_a_process(chance)
        time.sleep(every * chance.uniform(0.5, 1.5))
    return killed


def killed_workers(
    folder: Path, *, items: int, kills: int, every: float = 1.2, limit: float = 1200
) -> Finding:
    """1: random SIGKILLs of workers and their children."""
    with Rig(folder, items) as rig:
        rig.start_workers()
        rig.start_producer()
        killed = _kill_workers(rig, kills, every)
        seconds = rig.until_finished(limit)
        account = rig.account()
    what = f"{killed.total()} SIGKILLs: {killed['child']} children, {killed['worker']} whole workers"
    return finding("1 workers killed", account, seconds, what, passed=killed.total() == kills)


def without_reconcile(
    folder: Path, *, items: int, kills: int, every: float = 1.2, quiet: float = 20
) -> Finding:
    """10: the same with reconcile switched off has to lose something, or the harness could not see a loss."""
    with Rig(folder, items, environment={"CXR_RECONCILE_SECONDS": "0"}) as rig:
        rig.start_workers()
        rig.start_producer()
        killed = _kill_workers(rig, kills, every)
        seen, moved = rig.ended(), time.monotonic()
        while not rig.finished and time.monotonic() - moved < quiet:
            time.sleep(0.5)
            if rig.ended() != seen:
                seen, moved = rig.ended(), time.monotonic()
        seconds = moved - rig.started
        stood_still = not rig.finished
        rig.stop_producer()
        account = rig.account()
    what = f"{killed.total()} SIGKILLs, no reconcile: {'stands still for ever' if stood_still else 'ended'}"
    return Finding(
        "10 control: no reconcile",
        items,
        seconds,
        account.lost,
        account.duplicate,
        account.wrongly_quarantined,
        account.wrong,
        what,
        passed=account.lost > 0 and stood_still,
    )


def killed_servers(
    folder: Path, *, items: int, redis: int = 6, flushes: int = 2, producers: int = 6, limit: float = 1200
) -> Finding:
    """2: Redis and the producer killed and started again, Redis emptied."""
    chance = random.Random(_SEED)
    blows = ["redis"] * redis + ["flush"] * flushes + ["producer"] * producers
    chance.shuffle(blows)
    dealt: Counter[str] = Counter()
    with Rig(folder, items) as rig:
        rig.start_workers()
        rig.start_producer()
        for number, blow in enumerate(blows, 1):
            due = items * number // (len(blows) + 1)
            rig.until(lambda due=due: rig.ended() >= due, limit, f"{due} have ended")  # type: ignore[misc]
            if rig.finished:
                break
            if blow == "redis":
                rig.redis.stop(signal.SIGKILL)
                time.sleep(chance.uniform(0.2, 2))
                rig.redis.start()
            elif blow == "flush":
                rig.redis.client.flushall()
            else:
                rig.kill_producer()
                rig.start_producer()
            dealt[blow] += 1
        seconds = rig.until_finished(limit)
        account = rig.account()
    what = f"{dealt['redis']} Redis killed, {dealt['flush']} FLUSHALL, {dealt['producer']} producers killed"
    return finding("2 servers killed", account, seconds, what, passed=dealt.total() == len(blows))


def poison(
    folder: Path, *, items: int, share: float = 0.01, limit: float = 1200, least: float = 0.8
) -> Finding:
    """3: one image in a hundred is poison; measured against the same backlog without.

    Parameters
    ----------
    least
        Of the clean backlog's throughput. 0 leaves the clean one out: too few images show no throughput.
    """
    rates = {}
    for name, some in (("clean", 0.0), ("poisoned", share)) if least else (("poisoned", share),):
        with Rig(folder / name, items, poison=some) as rig:
            rig.start_workers()
            wait_until(rig.workers_answer, 120, "the workers answer")
            rig.start_producer()
            seconds = rig.until_finished(limit)
            rates[name] = items / rig.busy_seconds()
            account = rig.account()
            reasons = Counter(image.kind.name.lower() for image in rig.images if image.kind.reason)
    ratio = rates["poisoned"] / rates["clean"] if least else 0.0
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(reasons.items()))
    what = f"{kinds}, each quarantined for its reason"
    what += f"; throughput {ratio:.0%} of clean" if least else ""
    return finding("3 poison", account, seconds, what, passed=ratio >= least)


def _stop_in_mid_chunk(rig: Rig, slot: WorkerSlot, stages: tuple[int, ...], limit: float) -> float | None:
    """SIGTERM a worker that has a chunk; returns how long it kept the chunk and itself after that."""
    held: set[tuple[str, str]] = set()

    def seen() -> bool:
        nonlocal held
        held = rig.at_work(*stages)
        return rig.finished or (bool(held) and slot.alive)

    rig.until(seen, limit, "a chunk is at work")
    if rig.finished or slot.process is None:
        return None
    pid = slot.process.pid
    began = time.monotonic()
    slot.process.terminate()
    rig.until(lambda: not held & rig.at_work(*stages), limit, "the chunk is let go of")
    rig.until(lambda: slot.process is None or slot.process.pid != pid, limit, "the worker has ended")
    return time.monotonic() - began


def stopped_worker(folder: Path, *, items: int, limit: float = 600, grace: float = 5) -> Finding:
    """8: SIGTERM of a worker in the middle of a chunk."""
    with Rig(folder, items, environment={"CXR_CHUNK_SIZE": "64"}) as rig:
        rig.start_workers()
        rig.start_producer()
        slow: list[float] = []
        for turn in range(4):
            slot, stages = ((rig.slots[1], (1,)), (rig.slots[0], (0, 2)))[turn % 2]
            took = _stop_in_mid_chunk(rig, slot, stages, limit)
            if took is not None:
                slow.append(took)
        seconds = rig.until_finished(limit)
        account = rig.account()
    what = f"SIGTERM {len(slow)} times; the chunk was back after at most {max(slow, default=0):.1f} s"
    return finding("8 workers stopped", account, seconds, what, passed=bool(slow) and max(slow) <= grace)
