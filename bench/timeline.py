"""Where the cores wait in a whole run: ``python -m bench.timeline [IMAGES [zip|orthanc]] --to PAGE.html``.

py-spy samples every process of a real run from outside; the innermost known function of each sample says what
the process works on or waits for. The CPU of each process, Orthanc and Redis included, comes from the kernel. The
page has a row for each process over time and the cores in use below; the terminal gets the shares between the
first task and the last. Sampling costs a tenth of the cores: rates come from :mod:`bench.end_to_end`.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil

from bench.end_to_end import fresh_orthanc, system, write_zip
from tests.support.servers import OrthancServer

#: What a process does, by the innermost of its frames that is found here: (end of the file's name, function, state).
#: An empty function is any of the file. The first match of a frame counts.
_STATES: Final = (
    ("billiard/connection.py", "_recv", "no task"),
    ("billiard/pool.py", "_do_exit", "ends"),
    ("backlog/pacs/concurrency_limit.py", "_wait", "slot at the PACS"),
    ("backlog/pacs/orthanc.py", "", "PACS"),
    ("backlog/inputs/decompression.py", "", "inflate"),
    ("backlog/inputs/zip_archive.py", "", "source file"),
    ("worker/model/onnx_engine.py", "outputs", "forward pass"),
    ("worker/model/onnx_engine.py", "", "starts"),
    ("worker/model/network.py", "", "starts"),
    ("worker/model/weights.py", "", "starts"),
    ("worker/reader/client.py", "", "reader's answer"),
    ("worker/reader/server.py", "_write", "reader's pipe is full"),
    ("worker/reader/server.py", "serve", "no task"),
    ("worker/pixels/", "", "pixels"),
    ("worker/sr/", "", "report"),
    ("backlog/dicom/", "", "header"),
    ("backlog/broker/", "", "Redis"),
    ("worker/tasks/chunk.py", "send", "Redis"),
    ("producer/dispatch/dispatcher.py", "run", "next look at Redis"),
    ("producer/workers/local_servers.py", "", "workers start or end"),
    ("producer/", "", "producer"),
    ("importlib", "", "starts"),
)
#: The states in which a process uses no core of its own, with the colour of each state.
_COLOURS: Final = {
    "no task": "#f2f2f2",
    "ends": "#f2f2f2",
    "next look at Redis": "#f2f2f2",
    "workers start or end": "#d9d9d9",
    "slot at the PACS": "#cc79a7",
    "PACS": "#e69f00",
    "reader's answer": "#f0e442",
    "reader's pipe is full": "#dddddd",
    "Redis": "#999999",
    "starts": "#bbbbbb",
    "inflate": "#56b4e9",
    "source file": "#a6d8f5",
    "forward pass": "#0072b2",
    "pixels": "#009e73",
    "report": "#d55e00",
    "header": "#8c564b",
    "producer": "#7f7f7f",
    "other": "#c5b0d5",
}
_IDLE: Final = frozenset({"no task", "ends", "next look at Redis", "workers start or end"})
_RATE: Final = 20  # samples a second: at 50 py-spy took a fifth of two cores
_EVERY: Final = 0.1  # seconds between two looks at the processes' CPU


@dataclass
class Row:
    """One process: its states as (begin, end, state) in seconds, and its CPU seconds at each look."""

    name: str
    spans: list[tuple[float, float, str]] = field(default_factory=list)
    cpu: list[tuple[float, float]] = field(default_factory=list)


class CpuWatch(threading.Thread):
    """Looks at the CPU of a process and all below it, and of others that are named, while it runs."""

    def __init__(self, root: int, others: dict[int, str]) -> None:
        super().__init__(daemon=True)
        self.rows: dict[int, Row] = {pid: Row(name) for pid, name in others.items()}
        self.over = threading.Event()
        self.started = time.monotonic()
        self._root = psutil.Process(root)

    def run(self) -> None:
        """Look until it is over."""
        while not self.over.wait(_EVERY):
            with suppress(psutil.NoSuchProcess):
                for process in (self._root, *self._root.children(recursive=True)):
                    if process.pid not in self.rows:
                        self.rows[process.pid] = Row(_role(process))
            for pid, row in self.rows.items():
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    times = psutil.Process(pid).cpu_times()
                    row.cpu.append((time.monotonic() - self.started, times.user + times.system))


def _role(process: psutil.Process) -> str:
    """Return what a process of a run is, by its command line and its place among the others."""
    words = process.cmdline()
    line = " ".join(words)
    if "--queues" not in line:
        known = {"redis-server": "Redis", "valkey-server": "Redis", "worker.prepare": "model is prepared"}
        found = next((role for word, role in known.items() if word in line), "")
        if "py-spy" in line:
            return "py-spy"
        return found or ("producer" if "cxr-backlog" in line else Path(words[0]).name if words else "?")
    name, parent = words[words.index("--name") + 1], process.parent()
    above = " ".join(parent.cmdline()) if parent is not None else ""
    if "--queues" not in above:
        return f"{name}, parent"
    grandparent = parent.parent() if parent is not None else None
    inner = grandparent is not None and "--queues" in " ".join(grandparent.cmdline())
    return f"{name}, reader" if inner else f"{name}, process"


def _state(stack: list[tuple[str, str]]) -> str:
    """Return what a stack of (file, function), outermost first, is about."""
    for file, function in reversed(stack):
        for place, called, state in _STATES:
            if place in file and function.rpartition(".")[2].startswith(called):
                return state
    return "other"


def _spans(trace: list[dict[str, Any]]) -> dict[int, list[tuple[float, float, str]]]:
    """Return the states of each process's main thread, from py-spy's trace (Chrome's trace event format)."""
    threads: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in trace:
        threads[event["pid"], event["tid"]].append(event)
    first = min(event["ts"] for event in trace)
    found: dict[int, list[tuple[float, float, str]]] = {}
    for (pid, _), events in threads.items():
        stack: list[tuple[str, str]] = []
        spans: list[tuple[float, float, str]] = []
        before = events[0]["ts"]
        for event in events:
            if event["ts"] > before and stack:
                begin, end, state = (before - first) / 1e6, (event["ts"] - first) / 1e6, _state(stack)
                if spans and spans[-1][2] == state and begin - spans[-1][1] < 1 / _RATE:
                    spans[-1] = (spans[-1][0], end, state)
                else:
                    spans.append((begin, end, state))
            before = event["ts"]
            if event["ph"] == "B":
                stack.append((event["args"]["filename"], event["name"]))
            elif stack:
                stack.pop()
        # Beside the main thread are those that keep leases; they never say anything but that they wait.
        if len({state for _, _, state in spans}) > len({state for _, _, state in found.get(pid, [])}):
            found[pid] = spans
    return found


def record(count: int, source: str, folder: Path, orthanc: OrthancServer, *, spied: bool = True) -> list[Row]:
    """Run once and return a row for each process.

    Parameters
    ----------
    count
        Images of the run.
    source
        ``zip``, or ``orthanc`` for images that are in Orthanc already.
    folder
        Where the run's files may be.
    orthanc
        The PACS; its storage folder is readable for the workers.
    spied
        Under py-spy; without it the rows have no states, and the run has all of the cores.
    """
    settings = {"CXR_WEIGHTS": "seeded", "CXR_PACS_STORAGE": str(orthanc.storage)}
    write_zip(folder / "warm-up.zip", 8, 1)
    system([str(folder / "warm-up.zip")], orthanc, **settings)
    write_zip(folder / "images.zip", count, 2)
    if source == "orthanc":
        system([str(folder / "images.zip")], orthanc, **settings)
        settings["CXR_LANGUAGE"] = "pt-BR"  # another report
    spy = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    program = [sys.executable, str(Path(sys.executable).with_name("cxr-backlog")), "run"]
    where = [str(folder / "images.zip") if source == "zip" else "orthanc", "--pacs", orthanc.url]
    trace = folder / "trace.json"
    options = [*("--subprocesses", "--idle", "--threads", "--nonblocking", "--rate", str(_RATE))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    sampler = [spy, "record", *options, "--format", "chrometrace", "--output", str(trace), "--"]
    process = subprocess.Popen(
        [*(sampler if spied else []), *program, *where, "--out", str(folder / "out")],
        env=environment | settings | orthanc.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert orthanc.process is not None  # noqa: S101  # it was started
    watch = CpuWatch(process.pid, {orthanc.process.pid: "Orthanc"})
    watch.start()
    try:
        if process.wait() != 0:
            raise SystemExit(f"the run failed: see {folder / 'out'}")
    finally:
        watch.over.set()
        watch.join()
    if spied:
        for pid, spans in _spans(json.loads(trace.read_text())).items():
            if pid in watch.rows and watch.rows[pid].cpu:
                ended = (
                    watch.rows[pid].cpu[-1][0] + _EVERY
                )  # py-spy's trace goes on for a process that has ended
                watch.rows[pid].spans = [
                    (begin, min(end, ended), state) for begin, end, state in spans if begin < ended
                ]
    return [row for row in watch.rows.values() if row.cpu]


def working_time(rows: list[Row]) -> tuple[float, float]:
    """Return when the first worker process began its first task and the last one ended its last, in seconds."""
    tasks = [
        (begin, end)
        for row in rows
        if row.name.endswith("process")
        for begin, end, state in row.spans
        if state in {"PACS", "inflate", "source file", "forward pass", "reader's answer", "report"}
    ]
    if not tasks:  # not sampled: while Orthanc works
        orthanc = next(row for row in rows if row.name == "Orthanc").cpu
        tasks = [(t0, t1) for (t0, c0), (t1, c1) in pairwise(orthanc) if c1 > c0]
    return min(begin for begin, _ in tasks), max(end for _, end in tasks)


def _used(row: Row, begin: float, end: float) -> float:
    """Return the CPU seconds of a process in a time."""
    inside = [seconds for at, seconds in row.cpu if begin <= at <= end]
    return inside[-1] - inside[0] if inside else 0.0


def _shares(row: Row, begin: float, end: float) -> dict[str, float]:
    """Return seconds by state in a time, the longest first."""
    shares: dict[str, float] = defaultdict(float)
    for start, stop, state in row.spans:
        shares[state] += max(0.0, min(stop, end) - max(start, begin))
    return dict(sorted(shares.items(), key=lambda one: -one[1]))


def table(rows: list[Row], count: int) -> Iterator[str]:
    """Yield the shares as lines of text."""
    begin, end = working_time(rows)
    cores = len(os.sched_getaffinity(0))
    used = sum(_used(row, begin, end) for row in rows)
    yield f"{count} images, first task to last {end - begin:.1f} s: {count / (end - begin):.2f} images/s"
    yield (
        f"{used / (end - begin):.2f} of {cores} cores used by the run; {1000 * used / count:.0f} ms of CPU an image,"
        f" which alone would allow {cores * count / used:.2f} images/s"
    )
    for row in rows:
        cpu, shares = _used(row, begin, end), _shares(row, begin, end)
        if cpu < 0.05 and not shares:
            continue
        parts = (f"{state} {seconds:.1f}" for state, seconds in shares.items() if seconds >= 0.05)
        yield f"  {row.name:<20}{cpu:>7.1f} s of CPU  " + ", ".join(parts)


def page(rows: list[Row], count: int) -> str:
    """Return the timeline as an HTML page with one drawing."""
    last = max(at for row in rows for at, _ in row.cpu)
    shown = [row for row in rows if row.spans or _used(row, 0, last) > 0.5]
    left, width, high = 190, 1000, 22
    scale = width / last
    lines = []
    for k, row in enumerate(shown):
        y = k * high
        lines.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{html.escape(row.name)}</text>')
        for begin, end, state in row.spans:
            lines.append(
                f'<rect x="{left + begin * scale:.1f}" y="{y + 2}" width="{max(0.3, (end - begin) * scale):.1f}"'
                f' height="{high - 4}" fill="{_COLOURS[state]}"><title>{html.escape(state)} {end - begin:.2f} s'
                "</title></rect>"
            )
        if not row.spans:  # no Python in it: how busy it was
            for (t0, c0), (t1, c1) in pairwise(row.cpu):
                share = min(1.0, (c1 - c0) / (t1 - t0))
                lines.append(
                    f'<rect x="{left + t0 * scale:.1f}" y="{y + 2 + (high - 4) * (1 - share):.1f}"'
                    f' width="{(t1 - t0) * scale:.1f}" height="{(high - 4) * share:.1f}" fill="#333"/>'
                )
    bottom = len(shown) * high + 10
    cores = len(os.sched_getaffinity(0))
    lines.append(f'<text x="{left - 8}" y="{bottom + 34}" text-anchor="end">cores in use, of {cores}</text>')
    for k in range(int(last / 0.25)):
        share = min(1.0, sum(_used(row, k * 0.25, k * 0.25 + 0.35) for row in rows) / 0.25 / cores)
        lines.append(
            f'<rect x="{left + k * 0.25 * scale:.1f}" y="{bottom + 60 * (1 - share):.1f}"'
            f' width="{0.25 * scale:.1f}" height="{60 * share:.1f}" fill="#555"/>'
        )
    for second in range(0, int(last) + 1, max(1, int(last / 12))):
        x = left + second * scale
        lines.append(
            f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom + 60}" stroke="#0002"/>'
            f'<text x="{x:.1f}" y="{bottom + 75}" text-anchor="middle">{second} s</text>'
        )
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{html.escape(state)}</span>'
        for state, colour in _COLOURS.items()
    )
    text = html.escape("\n".join(table(rows, count)))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Timeline of a run</title><style>'
        "body{font:14px sans-serif;margin:16px}text{font-size:12px}span{margin-right:14px;white-space:nowrap}"
        "i{display:inline-block;width:12px;height:12px;margin-right:4px;border:1px solid #999}</style>"
        f'<h1>Timeline of a run</h1><p>{legend}</p><svg width="{left + width + 20}" height="{bottom + 85}">'
        f"{''.join(lines)}</svg><pre>{text}</pre></html>"
    )


def main() -> None:
    """Record one run, write the page, print the shares."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("images", nargs="?", type=int, default=200)
    arguments.add_argument("source", nargs="?", choices=("zip", "orthanc"), default="zip")
    arguments.add_argument("--to", type=Path, default=Path("timeline.html"))
    arguments.add_argument("--cpu-alone", action="store_true", help="without py-spy: no states")
    given = arguments.parse_args()
    with TemporaryDirectory(prefix="cxr-bench-") as name, fresh_orthanc(Path(name) / "orthanc") as orthanc:
        rows = record(given.images, given.source, Path(name), orthanc, spied=not given.cpu_alone)
    given.to.write_text(page(rows, given.images))
    print(*table(rows, given.images), f"Page {given.to}", sep="\n")


if __name__ == "__main__":
    main()
