"""The same backlog in the stack and in the embedded mode, in turns on one machine: ``python -m tests.compose.pace``.

Prints images a second of each round, and the ratios. Each round has images of its own, so that nothing is found to be
done; both have as many inference workers as the machine has cores, the same weights and an Orthanc of their own, whose
files the workers read. Needs a Docker Engine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from backlog.processes import cores
from producer.demo.backlog import write_backlog
from tests.compose.stack import Stack
from tests.support.servers import OrthancServer


def in_the_stack(stack: Stack, name: str, count: int, seed: int) -> float:
    """Return images a second of a run by the runner."""
    stack.detach(name, count, seed)
    stack.wait_for(lambda: stack.is_complete(name), 3600, "it is complete")
    return rate(stack.run_folder(name))


def embedded(folder: Path, cache: Path, count: int, seed: int) -> float:
    """Return images a second of a run that starts its own Redis and workers."""
    orthanc = OrthancServer(folder / "orthanc")
    orthanc.start()
    try:
        write_backlog(folder / "backlog.zip", count=count, seed=seed)
        settings = {"CXR_WEIGHTS": "seeded", "CXR_CACHE": str(cache), "CXR_THREADS": "1"}
        settings |= orthanc.environment | {"CXR_PACS_STORAGE": str(folder / "orthanc" / "storage")}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
        command = [str(Path(sys.executable).with_name("cxr-backlog")), "run", str(folder / "backlog.zip")]
        done = subprocess.run(
            [*command, "--out", str(folder / "out"), "--pacs", orthanc.url, "--workers", str(cores())],
            env=clean | settings,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 3), done.stdout + done.stderr
        return rate(folder / "out")
    finally:
        orthanc.stop()


def rate(out: Path) -> float:
    summary = json.loads((out / "summary.json").read_text())
    return float(summary["total"] / summary["seconds"])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        (folder / "stack").mkdir()
        stack = Stack(folder / "stack")
        stack.prepare()
        stack.configure(CXR_INFERENCE_WORKERS=str(cores()), CXR_CHUNK_SIZE="", CXR_LEASE_SECONDS="")
        try:
            for number in range(given.rounds):
                stack.up()
                by_stack = in_the_stack(stack, f"round-{number}", given.images, 100 + number)
                # Idle containers cost next to nothing, but they hold memory that the other may want.
                stack.compose("stop")
                place = folder / f"embedded-{number}"
                place.mkdir()
                by_one = embedded(place, folder / "cache", given.images, 200 + number)
                ratios.append(by_stack / by_one)
                print(
                    f"round {number}: stack {by_stack:.2f}/s, embedded {by_one:.2f}/s, ratio {ratios[-1]:.2f}",
                    flush=True,
                )
        finally:
            stack.down("--volumes")
    print(f"ratio, median: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
