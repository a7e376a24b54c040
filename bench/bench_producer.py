"""How fast the producer lists, dispatches and keeps, and whether its memory stays flat; how large a run's folder grows.

``python -m bench.bench_producer``. Each size runs in a process of its own, so that one peak doesn't hide another.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backlog.broker.celery_app import make_app
from backlog.broker.claims import Claims
from backlog.broker.messages import ItemRecord, Stage
from backlog.model import DEFAULT_MODEL, LABELS
from backlog.outcomes import Outcome
from backlog.settings import Settings
from bench.figures import Figure
from bench.memory import peak_megabytes
from producer.dispatch.context import RunContext, Silent
from producer.dispatch.dispatcher import Dispatcher
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.results import exports
from producer.results.audit_log import Audit
from producer.sources.base import Source
from producer.sources.folder import FolderSource
from producer.sources.zip import ZipSource
from tests.support.jobs import a_job
from tests.support.servers import RedisServer

SIZES = (1_000, 100_000)  #: of `make bench`; `zip 1000000` by hand
_CHUNK = 64
_MOST_KEPT = 100_000  #: a million take two minutes, at 0.74 of the rate of a hundred thousand


def listed(source: Source, folder: Path) -> dict[str, float]:
    """List a source into a ledger."""
    ledger = Ledger.create(folder / "ledger.sqlite", {"job": a_job("bench", source.spec)})
    started = time.perf_counter()
    for page in source.pages(""):
        ledger.add(page, _CHUNK)
    seconds = time.perf_counter() - started
    count = int(ledger.get("listed"))
    ledger.close()
    return {"count": count, "per second": count / seconds, "MB": peak_megabytes()}


def dispatched(source: Source, folder: Path, count: int) -> dict[str, float]:
    """Dispatch a listed ledger's chunks into a real Redis, in windows."""
    ledger = Ledger(folder / "ledger.sqlite", write=True)
    server = RedisServer(folder / "redis")
    server.start()
    settings = Settings(redis_url=server.url)
    ledger.set("job", a_job("bench", source.spec, weights="ab" * 32))  # else the first chunk is waited for
    context = RunContext(
        ledger,
        Claims(settings.broker),
        make_app(settings),
        source,
        RunJob(ledger),
        chunk_size=_CHUNK,
        window=256,
        reconcile_seconds=0,
        pause_file=folder / "pause",
        give_up_file=folder / "give-up",
    )
    dispatcher = Dispatcher(context, Silent())
    try:
        started = time.perf_counter()
        while ledger.waiting(1):
            dispatcher.dispatch({})
            dispatcher.in_flight.clear()  # as if workers had done them at once
        seconds = time.perf_counter() - started
    finally:
        server.stop()
        ledger.close()
    return {"per second": count / seconds, "MB": peak_megabytes()}


def kept(source: Source, folder: Path, count: int) -> dict[str, float]:
    """Keep how every item ended, with audit and scores, as a run does; what that takes on the disk."""
    folder.mkdir()
    facts = {
        "job": a_job("bench", source.spec),
        "pacs": "http://orthanc:8042",
        "model": DEFAULT_MODEL,
    }
    ledger = Ledger.create(folder / "ledger.sqlite", facts)
    for page in source.pages(""):
        ledger.add(page, _CHUNK)
    started = time.perf_counter()
    with Audit(ledger, folder / "audit.jsonl") as audit:
        while chunks := ledger.waiting(16):
            ledger.dispatched([chunk.no for chunk in chunks])
            ledger.harvest(
                [(chunk, {i: _reported(item) for i, (item, _) in enumerate(chunk.items)}) for chunk in chunks]
            )
            audit.catch_up()
    exports.write_scores(ledger, folder / "scores.csv")
    seconds = time.perf_counter() - started
    ledger.close()
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"per second": count / seconds, "MB": peak_megabytes(), "bytes an item": size / count}


def _reported(number: int) -> ItemRecord:
    """Return a record as long as real ones."""
    name = hashlib.sha256(str(number).encode()).hexdigest()
    instance = "-".join(name[at : at + 8] for at in range(0, 40, 8))
    return {
        "outcome": Outcome.REPORTED.value,
        "stage": Stage.REPORT.value,
        "attempts": 1,
        "instance": instance,
        "sop_instance_uid": f"2.25.{int(name[:32], 16)}",
        "study_instance_uid": f"2.25.{int(name[32:], 16)}",
        "sr_sop_instance_uid": f"2.25.{int(name[16:48], 16)}",
        "sr_instance": instance,
        "sr_sha256": name,
        "sr_ours": True,
        "flags": [],
        "scores": [0.5123456] * len(LABELS),
        "engine": "onnxruntime",
    }


def _zip(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for i in range(count):
            archive.writestr(f"patient{i // 4:06}/study/image{i:07}.dcm", b"x")


def one(kind: str, count: int) -> dict[str, Any]:
    """Measure one source of one size in this process."""
    with TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        if kind == "zip":
            subprocess.run(
                [sys.executable, "-m", "bench.bench_producer", "make", str(folder / "a.zip"), str(count)],
                check=True,
            )
            source: Source = ZipSource(folder / "a.zip")
        else:
            root = folder / "tree"
            for i in range(count):
                if i % 1000 == 0:
                    (root / f"{i // 1000:04}").mkdir(parents=True)
                (root / f"{i // 1000:04}" / f"{i:07}.dcm").touch()
            source = FolderSource(root, folder / "source.list")
        found: dict[str, Any] = {"listed": listed(source, folder)}
        if kind == "zip":
            found["dispatched"] = dispatched(source, folder, count)
            if count <= _MOST_KEPT:
                found["kept"] = kept(source, folder / "kept", count)
        return found


def main() -> list[Figure]:
    """Measure every size in a process of its own; print the table and return its figures."""
    found = []
    print(f"{'':<26}{'items/s':>12}{'peak MB':>10}{'bytes an item':>16}")
    for kind in ("zip", "folder"):
        for count in SIZES:
            done = subprocess.run(
                [sys.executable, "-m", "bench.bench_producer", kind, str(count)],
                check=True,
                capture_output=True,
                text=True,
            )
            for step, numbers in json.loads(done.stdout).items():
                name = f"{kind}, {count}, {step}"
                found.append(Figure("producer", name, numbers["per second"], "items/s"))
                size = f"{numbers['bytes an item']:.0f}" if "bytes an item" in numbers else ""
                print(
                    f"{name:<26}{numbers['per second']:>12,.0f}{numbers['MB']:>10.0f}{size:>16}", flush=True
                )
    return found


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "make":
        _zip(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(one(sys.argv[1], int(sys.argv[2]))))
