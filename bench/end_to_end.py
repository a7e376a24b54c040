"""Whole runs against real Orthanc and Redis, beside the serial loop and the bare forward pass.

Everything is measured in one go: a warm-up, then rounds in which each way has its turn, then medians and spread.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from backlog.model import INPUT_SIDE
from bench.figures import Figure
from bench.reference.serial_loop import Serial
from producer.demo.backlog import Shot, dicom, radiograph
from tests.support.servers import OrthancServer
from worker.model.engine import load
from worker.model.weights import locate

ROWS, COLUMNS, BITS = 2500, 2048, 12

#: Different pictures; more images differ from these in their UIDs only.
_PICTURES = 8


@dataclass
class Way:
    """One way of doing the job, and what it did in each round, in images per second."""

    name: str
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median rate."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> str:
        """Lowest and highest rate."""
        return f"{min(self.rates):.2f} to {max(self.rates):.2f}"


def write_zips(*zips: tuple[Path, int, int]) -> None:
    """Write several zips at once, in a process for each core; path, number of images and seed of each."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")) as pool:
        for written in [pool.submit(write_zip, *one) for one in zips]:
            written.result()


def write_zip(path: Path, count: int, seed: int) -> None:
    """Write a zip of radiographs, deflated as archives are."""
    pictures = _pictures()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(count):
            content = dicom(pictures[i % len(pictures)], Shot(study=i, bits=BITS), seed=seed)
            archive.writestr(f"{i:06}.dcm", content)


@cache
def _pictures() -> list[NDArray[np.uint16]]:
    """Return radiographs with a detector's noise, which is what deflate has to work on."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 4, (ROWS, COLUMNS), dtype=np.uint16) for _ in range(_PICTURES)]
    return [np.minimum(radiograph(i, ROWS, COLUMNS, BITS) + noise[i], 2**BITS - 1) for i in range(_PICTURES)]


def system(arguments: list[str], orthanc: OrthancServer, **settings: str) -> float:
    """Run our command and return images per second, from the first dispatch to the last report in the ledger."""
    with TemporaryDirectory(prefix="cxr-bench-") as folder:
        out = Path(folder) / "out"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
        environment |= {"CXR_WEIGHTS": "seeded"} | orthanc.environment | settings
        command = [str(Path(sys.executable).with_name("cxr-backlog")), "run", *arguments]
        done = subprocess.run(
            [*command, "--pacs", orthanc.url, "--out", str(out)],
            env=environment,
            capture_output=True,
            check=False,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"the run failed:\n{done.stdout}\n{done.stderr}")
        return float(json.loads((out / "summary.json").read_text())["images_per_second"])


def _from_zip(
    folder: Path, orthanc: OrthancServer, name: str, file: str, settings: dict[str, str]
) -> dict[str, float]:
    return {f"zip to reports, {name}": system([str(folder / file)], orthanc, **settings)}


@contextmanager
def fresh_orthanc(folder: Path) -> Iterator[OrthancServer]:
    """Yield an empty Orthanc with the project's own orthanc.json."""
    server = OrthancServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def bare_forward(count: int) -> float:
    """Return images per second of the exported model alone, one process and all cores."""
    kept = Path.home() / ".cache" / "cxr-backlog"
    threads = os.cpu_count() or 1
    engine = load(locate("seeded", "", kept, download=False), engine="onnxruntime", threads=threads)
    image = np.zeros((1, 1, INPUT_SIDE, INPUT_SIDE), np.float32)
    engine.scores(image)
    started = time.perf_counter()
    for _ in range(count):
        engine.scores(image)
    return count / (time.perf_counter() - started)


def measure(count: int = 200, serial_count: int = 12, rounds: int = 3) -> list[Figure]:
    """Measure all ways; print the table and return its figures."""
    ways = {
        name: Way(name)
        for name in (
            "serial loop",
            "zip to reports, storage",
            "zip to reports, REST",
            "Orthanc to reports, storage",
            "Orthanc to reports, REST",
            "bare forward",
        )
    }
    stages: dict[str, float] = {}
    with TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        for slot in range(-1, rounds):  # the first turn warms up and is not counted
            few = 2 if slot < 0 else serial_count
            if slot <= 0:  # all rounds have the same archives, and an empty Orthanc each
                size = 8 if slot < 0 else count
                write_zips(
                    (folder / "system.zip", size, 1000),
                    (folder / "other.zip", size, 3000),
                    (folder / "serial.zip", few, 2000),
                )
            with fresh_orthanc(folder / f"orthanc{slot}") as orthanc:
                storage = {"CXR_PACS_STORAGE": str(orthanc.storage)}
                # An Orthanc that holds more takes longer: the two ways from a zip are first and last in turn.
                zips = [("REST", "system.zip", {}), ("storage", "other.zip", storage)]
                first, last = zips if slot % 2 else zips[::-1]
                rates = {"bare forward": bare_forward(10 if slot < 0 else 100)}
                rates |= _from_zip(folder, orthanc, *first)
                # Another language, or other codes, are other reports: nothing is there already.
                rates["Orthanc to reports, storage"] = system(
                    ["orthanc"], orthanc, CXR_LANGUAGE="pt-BR", **storage
                )
                rates["Orthanc to reports, REST"] = system(["orthanc"], orthanc, CXR_CODING="snomed")
                rates |= _from_zip(folder, orthanc, *last)
                serial = Serial(orthanc.url, orthanc.username, orthanc.password)
                with zipfile.ZipFile(folder / "serial.zip") as archive:
                    started = time.perf_counter()
                    for member in archive.namelist():
                        serial.one(archive, member)
                    rates["serial loop"] = few / (time.perf_counter() - started)
                if slot >= 0:
                    for key, rate in rates.items():
                        ways[key].rates.append(rate)
                    for key, seconds in serial.stages.items():
                        stages[key] = stages.get(key, 0.0) + seconds / few / rounds
            print(
                f"  round {slot + 1}: " + ", ".join(f"{key} {rate:.2f}/s" for key, rate in rates.items()),
                flush=True,
            )
    serial_rate, forward_rate = ways["serial loop"].median, ways["bare forward"].median
    print(f"\n{COLUMNS} × {ROWS}, {BITS} bit, {count} images a run, {rounds} rounds, {os.cpu_count()} cores")
    print(f"{'':<30}{'images/s':>9}  {'spread':<18}{'× serial':>9}{'× forward':>10}")
    for way in ways.values():
        print(
            f"{way.name:<30}{way.median:>9.2f}  {way.spread:<18}"
            f"{way.median / serial_rate:>9.2f}{way.median / forward_rate:>10.2f}"
        )
    print(
        "serial loop by stage, ms: "
        + ", ".join(f"{key} {1000 * seconds:.0f}" for key, seconds in stages.items())
    )
    return [
        figure
        for way in ways.values()
        for figure in (
            Figure(
                "whole runs", way.name, way.median, "images/s", way.median / serial_rate, "× the serial loop"
            ),
            Figure(
                "whole runs, to the forward pass",
                way.name,
                way.median,
                "images/s",
                way.median / forward_rate,
                "×",
            ),
        )
    ]


if __name__ == "__main__":
    measure(*(int(word) for word in sys.argv[1:]))
