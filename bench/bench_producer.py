"""How fast the producer lists and dispatches, and whether its memory stays flat: ``python -m bench.bench_producer``.

Each size runs in a process of its own, so that one peak doesn't hide another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backlog.app import make_app
from backlog.claims import Claims
from backlog.settings import Settings
from producer.dispatch import Dispatcher
from producer.ledger import Ledger
from producer.sources import Folder, Source, Zip
from tests.jobs import a_job
from tests.servers import RedisServer

SIZES = (1_000, 100_000, 1_000_000)
_CHUNK = 64


def _peak_megabytes() -> float:
    """Return this process's peak of resident memory since it began to run this program."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def listed(source: Source, folder: Path) -> dict[str, float]:
    """List a source into a ledger."""
    ledger = Ledger.create(folder / "ledger.sqlite", {"job": a_job("bench", source.spec)})
    started = time.perf_counter()
    for page in source.pages(""):
        ledger.add(page, _CHUNK)
    seconds = time.perf_counter() - started
    count = int(ledger.fact("listed"))
    ledger.close()
    return {"count": count, "per second": count / seconds, "MB": _peak_megabytes()}


def dispatched(source: Source, folder: Path, count: int) -> dict[str, float]:
    """Dispatch a listed ledger's chunks into a real Redis, in windows."""
    ledger = Ledger(folder / "ledger.sqlite", write=True)
    server = RedisServer(folder / "redis")
    server.start()
    settings = Settings(redis_url=server.url)
    dispatcher = Dispatcher(
        ledger,
        Claims(settings.broker),
        make_app(settings),
        source,
        a_job("bench", source.spec),
        chunk_size=_CHUNK,
        window=256,
        reconcile_seconds=0,
        pause_file=folder / "pause",
        stop=lambda: False,
        show=lambda _: None,
    )
    try:
        started = time.perf_counter()
        while ledger.waiting(1):
            dispatcher._dispatch()  # noqa: SLF001  # this step alone
            dispatcher._in_flight.clear()  # noqa: SLF001  # as if workers had done them at once
        seconds = time.perf_counter() - started
    finally:
        server.stop()
        ledger.close()
    return {"per second": count / seconds, "MB": _peak_megabytes()}


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
            source: Source = Zip(folder / "a.zip")
        else:
            root = folder / "tree"
            for i in range(count):
                if i % 1000 == 0:
                    (root / f"{i // 1000:04}").mkdir(parents=True)
                (root / f"{i // 1000:04}" / f"{i:07}.dcm").touch()
            source = Folder(root, folder / "source.list")
        found: dict[str, Any] = {"listed": listed(source, folder)}
        if kind == "zip":
            found["dispatched"] = dispatched(source, folder, count)
        return found


def main() -> None:
    """Measure every size in a process of its own and print the table."""
    print(f"{'':<26}{'items/s':>12}{'peak MB':>10}")
    for kind in ("zip", "folder"):
        for count in SIZES[:2] if kind == "folder" else SIZES:
            done = subprocess.run(
                [sys.executable, "-m", "bench.bench_producer", kind, str(count)],
                check=True,
                capture_output=True,
                text=True,
            )
            for step, numbers in json.loads(done.stdout).items():
                name = f"{kind}, {count}, {step}"
                print(f"{name:<26}{numbers['per second']:>12,.0f}{numbers['MB']:>10.0f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "make":
        _zip(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(one(sys.argv[1], int(sys.argv[2]))))
