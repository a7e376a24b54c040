"""A large Orthanc, its index in SQLite or in PostgreSQL: what storing, listing and finding cost as it grows.

``python -m bench.bench_index sqlite|postgresql [--instances 100000]``; PostgreSQL needs root, and Debian's packages
``postgresql`` and ``orthanc-postgresql``. Images have one pixel: it is the index that is measured.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from backlog.dicom.eligibility import Rules
from backlog.pacs.orthanc import Orthanc
from producer.sources.orthanc import OrthancSource
from tests.support.dicom_images import dicom
from tests.support.servers import OrthancServer, free_port, wait_until

_ABREAST: Final = 8
_FOUND_AT_ONCE: Final = 100
_PAGE: Final = 500
_PLUGIN: Final = "/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so"


def _uid(level: int, number: int) -> str:
    return f"2.25.{level}{number:012d}"


_KEYWORDS: Final = {1: "StudyInstanceUID", 2: "SeriesInstanceUID", 3: "SOPInstanceUID"}
_UIDS: Final[dict[str, Any]] = {name: _uid(level, 0) for level, name in _KEYWORDS.items()}
_TEMPLATE: Final = dicom(np.zeros((1, 1), np.uint16), PatientID=f"P{0:09d}", **_UIDS)


def image(number: int) -> bytes:
    """Return a radiograph of one pixel, of a patient, study and series of its own."""
    file = _TEMPLATE.replace(f"P{0:09d}".encode(), f"P{number:09d}".encode())
    for level in _KEYWORDS:
        file = file.replace(_uid(level, 0).encode(), _uid(level, number).encode())
    return file


@contextmanager
def postgresql(folder: Path) -> Iterator[dict[str, Any]]:
    """Start a PostgreSQL; give the options of an Orthanc that keeps its index there."""
    programs = str(max(Path("/usr/lib/postgresql").glob("*/bin")))
    data, port = folder / "data", free_port()
    folder.mkdir()
    folder.chmod(0o755)
    data.mkdir()
    as_user = ["runuser", "-u", "postgres", "--"]
    subprocess.run(["chown", "postgres", str(data)], check=True)
    subprocess.run(
        [*as_user, f"{programs}/initdb", "-D", str(data), "--auth=trust", "-E", "UTF8"],
        check=True,
        capture_output=True,
    )
    with (folder / "postgresql.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *as_user,
                f"{programs}/postgres",
                "-D",
                str(data),
                "-p",
                str(port),
                "-k",
                str(data),
                "-h",
                "127.0.0.1",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        ready = [f"{programs}/pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, what="PostgreSQL answers")
        subprocess.run(
            [*as_user, f"{programs}/createdb", "-h", "127.0.0.1", "-p", str(port), "orthanc"], check=True
        )
        place = {"Host": "127.0.0.1", "Port": port, "Database": "orthanc", "Username": "postgres"}
        yield {
            "Plugins": [_PLUGIN],
            "PostgreSQL": {
                "EnableIndex": True,
                "EnableStorage": False,
                "EnableSsl": False,
                "Password": "",
                **place,
            },
        }
    finally:
        server.terminate()
        server.wait(60)


def measure(pacs: Orthanc, instances: int) -> None:
    """Store images; at each tenth of them say what storing, a page of the listing and finding cost."""
    print(
        "| instances | stored a second | 500 series by offset | by id | all ids | 100 UIDs in a query | one looked up |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    step = max(1, instances // 10)
    with ThreadPoolExecutor(_ABREAST) as pool:
        for first in range(0, instances, step):
            began = time.monotonic()
            list(pool.map(lambda number: pacs.store(image(number)), range(first, first + step)))
            rate = step / (time.monotonic() - began)
            _row(pacs, first + step, f"{rate:.0f}")
    _list_all(pacs, instances)


def _row(pacs: Orthanc, held: int, rate: str) -> None:
    ids = pacs.series_ids(max(0, held - _PAGE), _PAGE, {})
    costs = (
        _median(lambda _: pacs.rest.call("GET", _expanded(held - _PAGE)), 3),
        _median(lambda _: pacs.series(ids), 3),
        _median(lambda _: pacs.series_ids(0, held, {}), 3),
        _median(lambda n: pacs.rest.call("POST", "/tools/find", json=_query(_some(n, held))), 3),
        _median(lambda n: pacs.count_instances(_uid(3, (n * 7919) % held), "")),
    )
    print(f"| {held:,} | {rate} | {' | '.join(f'{one:.1f} ms' for one in costs)} |", flush=True)


def _list_all(pacs: Orthanc, instances: int) -> None:
    began = time.monotonic()
    took: list[float] = []
    found, last = 0, began
    for one_page in OrthancSource(pacs, Rules()).pages(""):
        found += len(one_page.entries)
        now = time.monotonic()
        took.append(1000 * (now - last))
        last = now
    if found != instances:
        raise SystemExit(f"listed {found} of {instances}")
    tenth = max(1, len(took) // 10)
    begin, end = statistics.median(took[:tenth]), statistics.median(took[-tenth:])
    print(
        f"\nlisted {found:,} in {time.monotonic() - began:.1f} s, {len(took)} pages:"
        f" median {begin:.0f} ms at its begin, {end:.0f} at its end"
    )


def _some(number: int, held: int) -> list[str]:
    return [_uid(3, (number * 7919 + place * 104_729) % held) for place in range(_FOUND_AT_ONCE)]


def _query(uids: list[str]) -> dict[str, Any]:
    return {"Level": "Instance", "Query": {"SOPInstanceUID": "\\".join(uids)}, "Expand": True}


def _expanded(since: int) -> str:
    return f"/series?expand&since={max(0, since)}&limit={_PAGE}"


def _median(request: Any, rounds: int = 10) -> float:
    took = []
    for number in range(rounds):
        began = time.monotonic()
        request(number)
        took.append(1000 * (time.monotonic() - began))
    return statistics.median(took)


@contextmanager
def _client(server: OrthancServer) -> Iterator[Orthanc]:
    with closing(Orthanc(server.url, username=server.username, password=server.password)) as pacs:
        pacs.identity()
        yield pacs


def main() -> None:
    """Measure one kind of index."""
    arguments = argparse.ArgumentParser(prog="python -m bench.bench_index", description=__doc__)
    arguments.add_argument("index", choices=["sqlite", "postgresql"])
    arguments.add_argument("--instances", type=int, default=100_000)
    given = arguments.parse_args()
    with TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with ExitStack() as stack:
            options: dict[str, Any] = {}
            if given.index == "postgresql":
                options = stack.enter_context(postgresql(folder / "postgresql"))
            server = OrthancServer(folder / "orthanc", options=options)
            (folder / "orthanc").mkdir()
            server.start()
            try:
                print(f"Orthanc {server.get('/system').json()['Version']}, {given.index}\n", flush=True)
                with _client(server) as pacs:
                    measure(pacs, given.instances)
                if given.index == "sqlite":
                    server.stop()
                    with closing(sqlite3.connect(server.folder / "index" / "index")) as index:
                        index.execute("ANALYZE")
                        index.commit()
                    server.start()
                    print("\nwith the statistics of ANALYZE:")
                    with _client(server) as pacs:
                        _row(pacs, given.instances, "")
            finally:
                server.stop()


if __name__ == "__main__":
    main()
