"""One inference worker on one core, two on two: ``python -m bench.bench_workers [IMAGES [ROUNDS]]``.

Orthanc, Redis and the producer run on the same cores as the workers. Beside it the bare forward pass in as many
processes, which is what the cores themselves give: two that share one core's units are no two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.end_to_end import Way, fresh_orthanc, system, write_zip
from bench.figures import Figure

_FORWARD = """
import sys, time
import numpy as np
from pathlib import Path
from worker.model.engine import load
from worker.model.weights import locate
kept = Path.home() / ".cache" / "cxr-backlog"
engine = load(locate("seeded", "", kept, download=False), engine="onnxruntime", threads=1)
image = np.zeros((1, 1, 224, 224), np.float32)
engine.scores(image)
print("ready", flush=True)
sys.stdin.readline()
until, count = time.perf_counter() + 5, 0
while time.perf_counter() < until:
    engine.scores(image)
    count += 1
print(count / 5)
"""


@contextmanager
def _on(cores: int) -> Iterator[None]:
    """Keep this process, and what it starts, on so many cores."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def _forward(processes: int) -> float:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _FORWARD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None  # noqa: S101  # it has pipes
        process.stdout.readline()
    for process in started:  # all at once
        assert process.stdin is not None  # noqa: S101
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def main(count: int = 200, rounds: int = 2) -> list[Figure]:
    """Print both and their ratio; return them."""
    found = []
    whole = {workers: Way(f"whole runs, {workers}") for workers in (1, 2)}
    bare = {workers: Way(f"bare forward pass, {workers}") for workers in (1, 2)}
    with TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        for slot in range(rounds):
            for workers in (1, 2):
                with _on(workers):
                    bare[workers].rates.append(_forward(workers))
                    with fresh_orthanc(folder / f"orthanc{slot}-{workers}") as orthanc:
                        write_zip(folder / "images.zip", count, 10 * slot + workers)
                        with zipfile.ZipFile(folder / "images.zip") as archive:
                            for member in archive.namelist():
                                orthanc.post("/instances", archive.read(member)).raise_for_status()
                        whole[workers].rates.append(
                            system(
                                ["orthanc", "--workers", str(workers)],
                                orthanc,
                                CXR_THREADS="1",
                                CXR_PACS_STORAGE=str(orthanc.storage),
                            )
                        )
    print(f"{'images in Orthanc to reports':<30}{'one on one core':>16}{'two on two':>12}{'ratio':>7}")
    for title, ways in (("whole runs", whole), ("bare forward pass", bare)):
        one, two = ways[1].median, ways[2].median
        print(f"{title:<30}{one:>16.2f}{two:>12.2f}{two / one:>7.2f}")
        found.append(Figure("two workers", title, two, "images/s", two / one, "× one worker on one core"))
    return found


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
